#include "tests/support/fake_vm_controller.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vireo {

void FakeVmController::Create(VmConfig config, Done done) {
  EditDescription([&config](VmDescription& description) {
    if (description.state != VmState::kEmpty) return;
    description.machine = config.machine;
    description.config = std::move(config);
  });
  Change("Create", {VmState::kEmpty}, VmState::kCreated, VmCause::kNone, std::move(done));
}

void FakeVmController::Boot(Done done) {
  Change("Boot", {VmState::kCreated, VmState::kRunning}, VmState::kRunning, VmCause::kNone,
         std::move(done));
}

void FakeVmController::Pause(Done done) {
  Change("Pause", {VmState::kRunning, VmState::kPaused}, VmState::kPaused, VmCause::kNone,
         std::move(done));
}

void FakeVmController::Resume(Done done) {
  Change("Resume", {VmState::kRunning, VmState::kPaused}, VmState::kRunning, VmCause::kNone,
         std::move(done));
}

void FakeVmController::Shutdown(Done done) {
  Change("Shutdown", {VmState::kRunning}, VmState::kRunning, VmCause::kNone, std::move(done));
}

void FakeVmController::Reset(Done done) {
  Change("Reset", {VmState::kRunning, VmState::kPaused}, VmState::kRunning,
         VmCause::kResetRequested, std::move(done));
}

void FakeVmController::Stop(Done done) {
  Change(
      "Stop",
      {VmState::kEmpty, VmState::kCreated, VmState::kRunning, VmState::kPaused, VmState::kStopped},
      VmState::kStopped, VmCause::kStopRequested, std::move(done));
}

void FakeVmController::Change(const std::string& name, std::vector<VmState> from, VmState to,
                              VmCause cause, Done done) {
  absl::Status status;
  bool changed = false;
  {
    MutexLock lock(mutex_);
    calls_.push_back(name);
    changed_.NotifyAll();
    if (failure_.has_value()) {
      status = *failure_;
      failure_.reset();
    } else if (std::find(from.begin(), from.end(), description_.state) == from.end()) {
      status = absl::FailedPreconditionError(absl::StrCat(name, ": not in this state"));
    } else {
      changed = description_.state != to;
      description_.state = to;
      if (cause != VmCause::kNone) description_.last_cause = cause;
      if (name == "Reset") ++description_.resets;
    }
  }
  if (changed) Raise(VmEventKind::kStateChanged, cause, name);
  {
    MutexLock lock(mutex_);
    if (held_) {
      unreported_.push_back(
          [done = std::move(done), status](absl::Status) mutable { done(status); });
      return;
    }
  }
  done(status);
}

void FakeVmController::SetDiskThrottle(std::string disk, DiskThrottle throttle, Done done) {
  absl::Status status = absl::NotFoundError(absl::StrCat("no disk ", disk));
  {
    MutexLock lock(mutex_);
    calls_.push_back("SetDiskThrottle");
    changed_.NotifyAll();
    for (DiskConfig& config : description_.config.disks) {
      if (config.id != disk) continue;
      config.throttle = throttle;
      status = absl::OkStatus();
    }
  }
  done(status);
}

void FakeVmController::SetMedium(std::string cdrom, std::string path, EjectMode mode, Done done) {
  absl::Status status = absl::NotFoundError(absl::StrCat("no drive ", cdrom));
  {
    MutexLock lock(mutex_);
    calls_.push_back(mode == EjectMode::kForce ? "SetMedium, forced" : "SetMedium");
    changed_.NotifyAll();
    for (CdromConfig& config : description_.config.cdroms) {
      if (config.id != cdrom) continue;
      config.path = path;
      status = absl::OkStatus();
    }
  }
  done(status);
}

VmDescription FakeVmController::Describe() const {
  MutexLock lock(mutex_);
  return description_;
}

VmStats FakeVmController::Stats() const {
  MutexLock lock(mutex_);
  return stats_;
}

void FakeVmController::AddConsoleReader(std::shared_ptr<ConsoleReader> reader) {
  MutexLock delivery(delivery_);
  if (!history_.empty()) reader->OnOutput(history_);
  readers_.push_back(std::move(reader));
  MutexLock lock(mutex_);
  reader_count_ = readers_.size();
  changed_.NotifyAll();
}

void FakeVmController::RemoveConsoleReader(const ConsoleReader* reader) {
  MutexLock delivery(delivery_);
  std::erase_if(readers_, [reader](const auto& held) { return held.get() == reader; });
  MutexLock lock(mutex_);
  reader_count_ = readers_.size();
  changed_.NotifyAll();
}

size_t FakeVmController::WriteConsole(std::string_view bytes) {
  MutexLock lock(mutex_);
  const size_t taken = std::min(bytes.size(), input_room_);
  input_.append(bytes.substr(0, taken));
  if (input_room_ != SIZE_MAX) input_room_ -= taken;
  changed_.NotifyAll();
  return taken;
}

void FakeVmController::AddEventWatcher(std::shared_ptr<EventWatcher> watcher,
                                       uint64_t after_sequence) {
  MutexLock delivery(delivery_);
  for (const VmEvent& event : events_) {
    if (event.sequence > after_sequence) watcher->OnEvent(event);
  }
  watchers_.push_back(std::move(watcher));
  MutexLock lock(mutex_);
  watcher_count_ = watchers_.size();
  changed_.NotifyAll();
}

void FakeVmController::RemoveEventWatcher(const EventWatcher* watcher) {
  MutexLock delivery(delivery_);
  std::erase_if(watchers_, [watcher](const auto& held) { return held.get() == watcher; });
  MutexLock lock(mutex_);
  watcher_count_ = watchers_.size();
  changed_.NotifyAll();
}

void FakeVmController::FailNext(absl::Status status) {
  MutexLock lock(mutex_);
  failure_ = std::move(status);
}

void FakeVmController::Hold() {
  MutexLock lock(mutex_);
  held_ = true;
}

void FakeVmController::Release() {
  std::vector<Done> unreported;
  {
    MutexLock lock(mutex_);
    held_ = false;
    unreported.swap(unreported_);
  }
  for (Done& done : unreported) done(absl::OkStatus());
}

void FakeVmController::Print(std::string_view output) {
  MutexLock delivery(delivery_);
  history_.append(output);
  for (const auto& reader : readers_) reader->OnOutput(output);
}

void FakeVmController::Raise(VmEventKind kind, VmCause cause, std::string detail) {
  MutexLock delivery(delivery_);
  RaiseLocked(kind, cause, std::move(detail));
}

void FakeVmController::RaiseLocked(VmEventKind kind, VmCause cause, std::string detail) {
  VmEvent event;
  event.sequence = events_.size() + 1;
  event.unix_ms = 1'700'000'000'000 + static_cast<int64_t>(event.sequence);
  event.kind = kind;
  event.state = Describe().state;
  event.cause = cause;
  event.detail = std::move(detail);
  events_.push_back(event);
  for (const auto& watcher : watchers_) watcher->OnEvent(event);
}

void FakeVmController::Close() {
  MutexLock delivery(delivery_);
  for (const auto& reader : readers_) reader->OnClosed();
  for (const auto& watcher : watchers_) watcher->OnClosed();
}

void FakeVmController::StopBecause(VmCause cause, std::string detail) {
  EditDescription([&](VmDescription& description) {
    description.state = VmState::kStopped;
    description.last_cause = cause;
    description.last_cause_detail = detail;
  });
  Raise(VmEventKind::kStateChanged, cause, detail);
}

void FakeVmController::SetInputRoom(size_t bytes) {
  {
    MutexLock lock(mutex_);
    input_room_ = bytes;
  }
  MutexLock delivery(delivery_);
  for (const auto& reader : readers_) reader->OnInputRoom();
}

void FakeVmController::SetStats(VmStats stats) {
  MutexLock lock(mutex_);
  stats_ = std::move(stats);
}

void FakeVmController::EditDescription(absl::AnyInvocable<void(VmDescription&)> edit) {
  MutexLock lock(mutex_);
  edit(description_);
}

std::vector<std::string> FakeVmController::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

std::string FakeVmController::input() const {
  MutexLock lock(mutex_);
  return input_;
}

void FakeVmController::WaitForInput(std::string_view input) {
  MutexLock lock(mutex_);
  while (input_ != input) changed_.Wait(mutex_);
}

void FakeVmController::WaitForCalls(size_t count) {
  MutexLock lock(mutex_);
  while (calls_.size() < count) changed_.Wait(mutex_);
}

void FakeVmController::WaitForReaders(size_t count) {
  MutexLock lock(mutex_);
  while (reader_count_ != count) changed_.Wait(mutex_);
}

void FakeVmController::WaitForWatchers(size_t count) {
  MutexLock lock(mutex_);
  while (watcher_count_ != count) changed_.Wait(mutex_);
}

}  // namespace vireo
