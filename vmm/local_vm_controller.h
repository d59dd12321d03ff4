// The VmController of a machine in this very process: queues what is asked on a control loop of its
// own, answers what the guest does (power off, reset, crash), and publishes what there is to know.
#ifndef VIREO_VMM_LOCAL_VM_CONTROLLER_H_
#define VIREO_VMM_LOCAL_VM_CONTROLLER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/mutex.h"
#include "vmm/console_buffer.h"
#include "vmm/console_file.h"
#include "vmm/event_log.h"
#include "vmm/loop_thread.h"
#include "vmm/machine.h"
#include "vmm/vm_controller.h"

namespace vireo {

class LocalVmController final : public VmController, private GuestEvents {
 public:
  struct Options {
    std::string kvm_path = "/dev/kvm";  // Or fd:N.
    // How long requests in flight may take to end when the machine is paused, reset or stopped.
    uint32_t drain_limit_ms = 30'000;
    // A drain at Stop() has hung, and the process is about to _exit(2): remove what would be left
    // behind.
    absl::AnyInvocable<void()> before_exit;
  };

  struct Outcome {
    VmCause cause = VmCause::kNone;
    std::string detail;
  };

  static absl::StatusOr<std::unique_ptr<LocalVmController>> Start(Options options);

  // Stops the machine if there is one. No call of the API is under way.
  ~LocalVmController() override;

  // Blocks until the machine is in kStopped. Not on the control loop.
  Outcome WaitUntilStopped();

  void Create(VmConfig config, Done done) override;
  void Boot(Done done) override;
  void Pause(Done done) override;
  void Resume(Done done) override;
  void Shutdown(Done done) override;
  void Reset(Done done) override;
  void Stop(Done done) override;

  void SetDiskThrottle(std::string disk, DiskThrottle throttle, Done done) override;
  void SetMedium(std::string cdrom, std::string path, EjectMode mode, Done done) override;

  VmDescription Describe() const override;
  VmStats Stats() const override;

  void AddConsoleReader(std::shared_ptr<ConsoleReader> reader) override;
  void RemoveConsoleReader(const ConsoleReader* reader) override;
  size_t WriteConsole(std::string_view bytes) override;
  void AddEventWatcher(std::shared_ptr<EventWatcher> watcher, uint64_t after_sequence) override;
  void RemoveEventWatcher(const EventWatcher* watcher) override;

 private:
  using Operation = Task<absl::Status> (LocalVmController::*)();

  LocalVmController(Options options, std::unique_ptr<LoopThread> control);

  void OnGuestEnded(VmCause cause, std::string detail) override;
  void OnGuestPanicHandled() override;
  void OnDiskFailed(DiskError error) override;
  void OnDiskStalled(DiskStall stall, bool pause) override;
  void OnDiskAnswers(DiskStall disk) override;
  void OnMediumEjected(std::string id) override;
  void OnDeviceNeedsReset(std::string id) override;

  // Everything below runs on the control loop, one operation at a time.
  void Enqueue(Operation operation, Done done);
  Task<void> Perform(Operation operation, Done done);
  Task<void> PerformCreate(VmConfig config, Done done);
  Task<void> PerformSetDiskThrottle(std::string disk, DiskThrottle throttle, Done done);
  Task<void> PerformSetMedium(std::string cdrom, std::string path, EjectMode mode, Done done);
  // What the configuration would be, had the machine been made as it is now.
  void NoteMedium(const std::string& cdrom, const std::string& path);
  absl::Status ApplyDiskThrottle(const std::string& disk, DiskThrottle throttle);
  Task<absl::Status> DoCreate(VmConfig config);
  absl::StatusOr<std::shared_ptr<ConsoleFile>> OpenConsoleFile(const VmConfig& config);
  Task<absl::Status> DoBoot();
  Task<absl::Status> DoPause();
  Task<absl::Status> DoResume();
  Task<absl::Status> DoShutdown();
  Task<absl::Status> DoReset();
  Task<absl::Status> DoStop();
  Task<void> AnswerDiskError(DiskError error);
  Task<void> AnswerDiskStall(DiskStall stall, bool pause);
  Task<void> AnswerDiskAnswers(DiskStall disk);
  Task<void> AnswerGuestEnd(uint64_t run, VmCause cause, std::string detail);
  Task<absl::Status> RestartGuest(VmCause cause, std::string detail);
  Task<absl::Status> CloseMachine(VmCause cause, std::string detail);
  Task<void> ExitAfterLastAnswer(absl::AnyInvocable<void()> before_exit);

  VmState state() const;
  VmCause last_cause() const;
  void SetState(VmState state, VmCause cause, const std::string& detail);
  void Emit(VmEventKind kind, VmCause cause, std::string detail);

  Options options_;
  EventLog events_;
  std::unique_ptr<LoopThread> control_;
  EventLoop& loop_;
  std::unique_ptr<ConsoleBuffer> console_;
  std::shared_ptr<ConsoleFile> console_file_;  // Null unless the console is one.
  std::unique_ptr<TaskScope> operations_;
  AsyncMutex one_at_a_time_;
  std::atomic<uint64_t> run_{
      0};  // Counts starts of the guest: what an earlier run did is of no interest.

  // The control loop's.
  VmConfig requested_;                   // What Create() was given.
  std::set<std::string> pausing_disks_;  // Ids of those that stalled and pause the machine for it.
  bool waits_for_disks_ = false;         // Paused for them alone, and goes on when they answer.

  mutable Mutex mutex_;
  CondVar stopped_;
  VmDescription description_ ABSL_GUARDED_BY(mutex_);
  VmStats last_stats_ ABSL_GUARDED_BY(mutex_);  // After the machine has gone.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  // Made and replaced on the control loop under mutex_; read there without.
  std::unique_ptr<Machine> machine_;
};

}  // namespace vireo

#endif  // VIREO_VMM_LOCAL_VM_CONTROLLER_H_
