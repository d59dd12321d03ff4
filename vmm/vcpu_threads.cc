#include "vmm/vcpu_threads.h"

#include <pthread.h>
#include <time.h>

#include <csignal>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo {

VcpuThreads::VcpuThreads(const Options& options)
    : ports_(options.ports), mmio_(options.mmio), events_(options.events) {}

VcpuThreads::~VcpuThreads() { Stop(); }

absl::Status VcpuThreads::Start(std::vector<std::unique_ptr<kvm::Vcpu>> vcpus) {
  RETURN_IF_ERROR(kvm::InstallKickHandler());
  for (std::unique_ptr<kvm::Vcpu>& vcpu : vcpus) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->vcpu = std::move(vcpu);
  }
  // Signals belong to the main thread: vCPU threads are born with all of them blocked but the kick.
  sigset_t blocked;
  sigset_t before;
  sigfillset(&blocked);
  sigdelset(&blocked, kvm::KickSignal());
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  absl::Status status;
  for (std::unique_ptr<Slot>& slot : slots_) {
    try {
      slot->thread = std::thread([this, raw = slot.get()] { Run(*raw); });
    } catch (const std::system_error& error) {
      status = absl::ResourceExhaustedError(
          absl::StrFormat("cannot make the thread of vCPU %d: %s", slot->vcpu->id(), error.what()));
      break;
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!status.ok()) {
    Stop();
    return status;
  }
  MutexLock lock(mutex_);
  while (parked_ < slots_.size()) changed_.Wait(mutex_);
  return absl::OkStatus();
}

void VcpuThreads::KickAll() {
  for (const std::unique_ptr<Slot>& slot : slots_) {
    slot->kicked.store(true, std::memory_order_release);
    slot->vcpu->RequestExit();
    if (slot->parking != nullptr) slot->parking->Wake();
    if (slot->thread.joinable()) pthread_kill(slot->thread.native_handle(), kvm::KickSignal());
  }
}

void VcpuThreads::RequestPause() {
  MutexLock lock(mutex_);
  if (wanted_ != Wanted::kRunning) return;
  wanted_ = Wanted::kParked;
  KickAll();
}

void VcpuThreads::WhenParked(absl::AnyInvocable<void()> all_parked) {
  {
    MutexLock lock(mutex_);
    if (parked_ < slots_.size()) {
      all_parked_ = std::move(all_parked);
      return;
    }
  }
  all_parked();
}

void VcpuThreads::Resume() {
  MutexLock lock(mutex_);
  if (wanted_ != Wanted::kParked) return;
  wanted_ = Wanted::kRunning;
  changed_.NotifyAll();
}

void VcpuThreads::Stop() {
  {
    MutexLock lock(mutex_);
    wanted_ = Wanted::kStopped;
    KickAll();
    changed_.NotifyAll();
  }
  for (const std::unique_ptr<Slot>& slot : slots_) {
    if (slot->thread.joinable()) slot->thread.join();
  }
}

bool VcpuThreads::parked() const {
  MutexLock lock(mutex_);
  return parked_ == slots_.size();
}

uint64_t VcpuThreads::cpu_time_ns(size_t index) const {
  clockid_t clock;
  timespec time = {};
  Slot& slot = *slots_[index];
  if (!slot.thread.joinable() || pthread_getcpuclockid(slot.thread.native_handle(), &clock) != 0 ||
      clock_gettime(clock, &time) != 0) {
    return 0;
  }
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

void VcpuThreads::ForgetParkings() {
  MutexLock lock(mutex_);
  VIREO_CHECK(parked_ == slots_.size(), "vCPUs are parked");
  for (const std::unique_ptr<Slot>& slot : slots_) slot->parking.reset();
}

void VcpuThreads::Run(Slot& slot) {
  pthread_setname_np(pthread_self(), absl::StrCat("vcpu", slot.vcpu->id()).c_str());
  // The first pass parks: nothing runs before Resume().
  slot.kicked.store(true, std::memory_order_release);
  for (;;) {
    if (slot.kicked.load(std::memory_order_acquire) && !AwaitRunnable(slot)) return;
    if (slot.parking != nullptr && !AwaitParking(slot)) continue;
    const absl::StatusOr<kvm::VcpuExit> exit = slot.vcpu->Run();
    slot.exits.fetch_add(1, std::memory_order_relaxed);
    if (exit.ok()) {
      Handle(slot, *exit);
    } else {
      Fail(slot, std::string(exit.status().message()));
    }
  }
}

bool VcpuThreads::AwaitRunnable(Slot& slot) {
  {
    // The flag and the request are cleared before `wanted_` is read, under the lock that sets them:
    // none is lost.
    MutexLock lock(mutex_);
    slot.kicked.store(false, std::memory_order_release);
    slot.vcpu->ClearExitRequest();
    if (wanted_ == Wanted::kStopped) return false;
    if (wanted_ == Wanted::kRunning) return true;
  }
  CompletePendingAccess(slot);
  absl::AnyInvocable<void()> all_parked;
  {
    MutexLock lock(mutex_);
    if (++parked_ == slots_.size()) {
      all_parked = std::exchange(all_parked_, nullptr);
      changed_.NotifyAll();
    }
  }
  if (all_parked) all_parked();
  MutexLock lock(mutex_);
  while (wanted_ == Wanted::kParked) changed_.Wait(mutex_);
  --parked_;
  slot.kicked.store(false, std::memory_order_release);
  slot.vcpu->ClearExitRequest();
  return wanted_ == Wanted::kRunning;
}

void VcpuThreads::CompletePendingAccess(Slot& slot) {
  // With an exit requested, KVM_RUN takes up the answer to the last exit and returns without
  // entering the guest; a string instruction may have further accesses first.
  slot.vcpu->RequestExit();
  for (;;) {
    const absl::StatusOr<kvm::VcpuExit> exit = slot.vcpu->Run();
    if (!exit.ok()) {
      LogError("vCPU %d: %s", slot.vcpu->id(), exit.status().message());
      return;
    }
    if (!std::holds_alternative<kvm::ExitPio>(*exit) &&
        !std::holds_alternative<kvm::ExitMmio>(*exit))
      return;
    Handle(slot, *exit);
  }
}

bool VcpuThreads::AwaitParking(Slot& slot) {
  std::shared_ptr<Parking> parking;
  {
    MutexLock lock(mutex_);
    parking = slot.parking;
  }
  if (parking == nullptr) return true;
  parking->Wait([&slot] { return slot.kicked.load(std::memory_order_acquire); });
  if (!parking->done()) return false;
  MutexLock lock(mutex_);
  slot.parking.reset();
  return true;
}

void VcpuThreads::HandlePio(Slot& slot, const kvm::ExitPio& pio) {
  for (uint32_t i = 0; i < pio.count; ++i) {
    const std::span<uint8_t> data = pio.data.subspan(size_t{i} * pio.size, pio.size);
    if (pio.in) {
      ports_.Read(pio.port, data);
      continue;
    }
    std::shared_ptr<Parking> parking = ports_.Write(pio.port, data).second;
    if (parking == nullptr) continue;
    MutexLock lock(mutex_);
    slot.parking = std::move(parking);
  }
}

void VcpuThreads::Fail(Slot& slot, std::string description) {
  RequestPause();
  events_.OnVcpuError(slot.vcpu->id(), std::move(description));
}

void VcpuThreads::Handle(Slot& slot, const kvm::VcpuExit& exit) {
  std::visit(
      [this, &slot](const auto& e) {
        using Exit = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<Exit, kvm::ExitPio>) {
          HandlePio(slot, e);
        } else if constexpr (std::is_same_v<Exit, kvm::ExitMmio>) {
          if (!e.is_write) {
            mmio_.Read(e.address, e.data);
            return;
          }
          std::shared_ptr<Parking> parking = mmio_.Write(e.address, e.data).second;
          if (parking == nullptr) return;
          MutexLock lock(mutex_);
          slot.parking = std::move(parking);
        } else if constexpr (std::is_same_v<Exit, kvm::ExitShutdown>) {
          RequestPause();
          events_.OnTripleFault(slot.vcpu->id());
        } else if constexpr (std::is_same_v<Exit, kvm::ExitInternalError>) {
          Fail(slot, e.description);
        } else if constexpr (std::is_same_v<Exit, kvm::ExitFailEntry>) {
          Fail(slot, absl::StrFormat("the processor refused to enter the guest, reason %#x",
                                     e.hardware_reason));
        } else if constexpr (std::is_same_v<Exit, kvm::ExitSystemEvent>) {
          Fail(slot, absl::StrFormat("unexpected system event %d", static_cast<int>(e.type)));
        } else if constexpr (std::is_same_v<Exit, kvm::ExitUnknown>) {
          Fail(slot, absl::StrFormat("KVM gave exit reason %d, which is unknown", e.reason));
        }
        // Interrupted and halted: look at what is wanted, and go on.
      },
      exit);
}

}  // namespace vireo
