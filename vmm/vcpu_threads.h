// The threads that run the guest: one for each vCPU, doing KVM_RUN and handing its exits to the
// buses, and nothing else. They start parked, and are parked and let go together.
//
//            Start()      Resume()
//     (none) ------> parked <------> running       Stop() from either: the threads end and are
//     joined
//                        RequestPause()
//
// A request to park makes every KVM_RUN return (immediate_exit and a signal), ends waits for a
// device reset, and completes the access that an exit left half done, so that what is saved of a
// parked vCPU is whole.
#ifndef VIREO_VMM_VCPU_THREADS_H_
#define VIREO_VMM_VCPU_THREADS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "devices/bus.h"
#include "vmm/kvm/vcpu.h"

namespace vireo {

class VcpuThreads {
 public:
  // Called on a vCPU thread, after all vCPUs have been asked to park: what happened ends this run
  // of the guest, and somebody has to decide how it goes on. Must not block.
  class Events {
   public:
    virtual ~Events() = default;
    virtual void OnTripleFault(uint32_t vcpu) = 0;
    virtual void OnVcpuError(uint32_t vcpu, std::string description) = 0;
  };

  struct Options {
    Bus& ports;  // These three outlive the threads.
    Bus& mmio;
    Events& events;
  };

  explicit VcpuThreads(const Options& options);
  ~VcpuThreads();  // Stops.

  // Makes the threads; on return they are parked. RESOURCE_EXHAUSTED when the host gives no more
  // threads.
  absl::Status Start(std::vector<std::unique_ptr<kvm::Vcpu>> vcpus);

  // Any thread, vCPU threads too. Asks all to park and returns at once.
  void RequestPause();
  // `all_parked` is called once, when every vCPU is parked: on the last one's thread, or here and
  // now. At most one waiter at a time.
  void WhenParked(absl::AnyInvocable<void()> all_parked);
  // Lets all go on. The vCPUs are parked or about to be.
  void Resume();
  // Ends all threads, wherever they are, and joins them. Not from a vCPU thread.
  void Stop();

  size_t size() const { return slots_.size(); }
  bool parked() const;
  // Only to be used while parked (or before Resume()).
  kvm::Vcpu& vcpu(size_t index) { return *slots_[index]->vcpu; }

  // Any thread.
  uint64_t exits(size_t index) const {
    return slots_[index]->exits.load(std::memory_order_relaxed);
  }
  uint64_t cpu_time_ns(size_t index) const;

  // A machine reset: nobody waits for a device any more. While parked.
  void ForgetParkings();

 private:
  enum class Wanted { kParked, kRunning, kStopped };

  struct Slot {
    std::unique_ptr<kvm::Vcpu> vcpu;
    std::thread thread;
    std::atomic<bool> kicked{false};
    std::atomic<uint64_t> exits{0};
    std::shared_ptr<Parking> parking;  // Under mutex_; a device reset that this vCPU waits for.
  };

  void Run(Slot& slot);
  // Parks while that is wanted. False when the thread is to end.
  bool AwaitRunnable(Slot& slot);
  // KVM_RUN is entered once more for the access that the last exit left half done.
  void CompletePendingAccess(Slot& slot);
  // False when the wait was interrupted.
  bool AwaitParking(Slot& slot);
  void Handle(Slot& slot, const kvm::VcpuExit& exit);
  void HandlePio(Slot& slot, const kvm::ExitPio& pio);
  void KickAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(Slot& slot, std::string description);

  Bus& ports_;
  Bus& mmio_;
  Events& events_;

  mutable Mutex mutex_;
  CondVar changed_;
  Wanted wanted_ ABSL_GUARDED_BY(mutex_) = Wanted::kParked;
  size_t parked_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::AnyInvocable<void()> all_parked_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Slot>> slots_;  // Fixed by Start().
};

}  // namespace vireo

#endif  // VIREO_VMM_VCPU_THREADS_H_
