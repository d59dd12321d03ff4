// A VmController without a machine: keeps the state that the real one would have, records what was
// asked, and lets a test print on the console, raise events, hold or fail calls. Thread-safe; its
// callbacks run on whichever thread causes them, one at a time.
#ifndef VIREO_TESTS_SUPPORT_FAKE_VM_CONTROLLER_H_
#define VIREO_TESTS_SUPPORT_FAKE_VM_CONTROLLER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "vmm/vm_controller.h"

namespace vireo {

class FakeVmController final : public VmController {
 public:
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

  // ---- For the test ----

  // The next call that changes the machine ends with `status` and changes nothing.
  void FailNext(absl::Status status);
  // Until Release(), calls that change the machine take effect but do not report.
  void Hold();
  void Release();
  // The guest writes to its serial port.
  void Print(std::string_view output);
  void Raise(VmEventKind kind, VmCause cause, std::string detail);
  // Ends every reader and watcher, as the machine's end does.
  void Close();
  // The state becomes kStopped, with its event, for the guest's own reasons.
  void StopBecause(VmCause cause, std::string detail);
  // How many more bytes of console input the guest takes; without limit at first.
  void SetInputRoom(size_t bytes);
  void SetStats(VmStats stats);
  // Calls Describe() answers from; `edit` runs under the fake's lock.
  void EditDescription(absl::AnyInvocable<void(VmDescription&)> edit);

  std::vector<std::string> calls() const;  // "Create", "Boot", ... as they came.
  std::string input() const;               // All console input taken.
  // These wait until it is so; a test that waits in vain hangs and is ended by its time limit.
  void WaitForInput(std::string_view input);
  void WaitForCalls(size_t count);
  void WaitForReaders(size_t count);
  void WaitForWatchers(size_t count);

 private:
  // Records `name`; unless the call is to fail, moves from one of `from` to `to`.
  void Change(const std::string& name, std::vector<VmState> from, VmState to, VmCause cause,
              Done done);
  void RaiseLocked(VmEventKind kind, VmCause cause, std::string detail)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(delivery_);

  // Taken first, and held while readers and watchers are called: Remove...() then returns when no
  // call is running.
  Mutex delivery_;
  std::vector<std::shared_ptr<ConsoleReader>> readers_ ABSL_GUARDED_BY(delivery_);
  std::vector<std::shared_ptr<EventWatcher>> watchers_ ABSL_GUARDED_BY(delivery_);
  std::string history_ ABSL_GUARDED_BY(delivery_);
  std::vector<VmEvent> events_ ABSL_GUARDED_BY(delivery_);

  mutable Mutex mutex_;
  CondVar changed_;
  VmDescription description_ ABSL_GUARDED_BY(mutex_);
  VmStats stats_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> failure_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Done> unreported_ ABSL_GUARDED_BY(mutex_);
  std::string input_ ABSL_GUARDED_BY(mutex_);
  size_t input_room_ ABSL_GUARDED_BY(mutex_) = SIZE_MAX;
  size_t reader_count_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t watcher_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAKE_VM_CONTROLLER_H_
