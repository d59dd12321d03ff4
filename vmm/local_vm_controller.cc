#include "vmm/local_vm_controller.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/opener.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr size_t kDefaultHistoryBytes = 256 << 10;
// How long the answer to a Stop() that hangs may take to leave before the process does.
constexpr absl::Duration kLastAnswer = absl::Milliseconds(500);
// How long the devices of a machine may take to become quiet when one of its disks will not anyway.
constexpr absl::Duration kStallDrainLimit = absl::Seconds(1);

uint64_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long long total = 0;
  unsigned long long resident = 0;
  const int fields = std::fscanf(file, "%llu %llu", &total, &resident);
  std::fclose(file);
  return fields == 2 ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

uint64_t ProcessCpuTimeNs() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto ns = [](const timeval& t) {
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 +
           static_cast<uint64_t>(t.tv_usec) * 1000;
  };
  return ns(usage.ru_utime) + ns(usage.ru_stime);
}

bool IsCrash(VmCause cause) {
  return cause == VmCause::kTripleFault || cause == VmCause::kGuestPanic ||
         cause == VmCause::kInternalError;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalVmController>> LocalVmController::Start(Options options) {
  ASSIGN_OR_RETURN(std::unique_ptr<LoopThread> control, LoopThread::Start("control"));
  return std::unique_ptr<LocalVmController>(
      new LocalVmController(std::move(options), std::move(control)));
}

LocalVmController::LocalVmController(Options options, std::unique_ptr<LoopThread> control)
    : options_(std::move(options)),
      control_(std::move(control)),
      loop_(control_->loop()),
      console_(std::make_unique<ConsoleBuffer>(loop_, kDefaultHistoryBytes)),
      operations_(std::make_unique<TaskScope>(loop_)) {
  description_.pid = static_cast<uint32_t>(getpid());
  description_.machine = kMachineVersion;
}

LocalVmController::~LocalVmController() {
  std::promise<absl::Status> stopped;
  Stop([&stopped](absl::Status status) { stopped.set_value(std::move(status)); });
  stopped.get_future().wait();
  loop_.RunOn([this] { return operations_->Join(); });
}

LocalVmController::Outcome LocalVmController::WaitUntilStopped() {
  MutexLock lock(mutex_);
  while (!finished_) stopped_.Wait(mutex_);
  return {description_.last_cause, description_.last_cause_detail};
}

// --- What the API asks. ---

void LocalVmController::Create(VmConfig config, Done done) {
  loop_.Post([this, config = std::move(config), done = std::move(done)]() mutable {
    operations_->Spawn(PerformCreate(std::move(config), std::move(done)));
  });
}

void LocalVmController::Boot(Done done) { Enqueue(&LocalVmController::DoBoot, std::move(done)); }
void LocalVmController::Pause(Done done) { Enqueue(&LocalVmController::DoPause, std::move(done)); }
void LocalVmController::Resume(Done done) {
  Enqueue(&LocalVmController::DoResume, std::move(done));
}
void LocalVmController::Shutdown(Done done) {
  Enqueue(&LocalVmController::DoShutdown, std::move(done));
}
void LocalVmController::Reset(Done done) { Enqueue(&LocalVmController::DoReset, std::move(done)); }
void LocalVmController::Stop(Done done) { Enqueue(&LocalVmController::DoStop, std::move(done)); }

void LocalVmController::SetDiskThrottle(std::string disk, DiskThrottle throttle, Done done) {
  loop_.Post([this, disk = std::move(disk), throttle = std::move(throttle),
              done = std::move(done)]() mutable {
    operations_->Spawn(
        PerformSetDiskThrottle(std::move(disk), std::move(throttle), std::move(done)));
  });
}

void LocalVmController::SetMedium(std::string cdrom, std::string path, EjectMode mode, Done done) {
  loop_.Post([this, cdrom = std::move(cdrom), path = std::move(path), mode,
              done = std::move(done)]() mutable {
    operations_->Spawn(PerformSetMedium(std::move(cdrom), std::move(path), mode, std::move(done)));
  });
}

VmDescription LocalVmController::Describe() const {
  MutexLock lock(mutex_);
  VmDescription description = description_;
  if (machine_ != nullptr) machine_->Describe(&description);
  return description;
}

VmStats LocalVmController::Stats() const {
  MutexLock lock(mutex_);
  VmStats stats = last_stats_;
  if (machine_ != nullptr) machine_->Stats(&stats);
  if (description_.started_unix_ms != 0 && !finished_) {
    stats.uptime_ms =
        static_cast<uint64_t>(absl::ToUnixMillis(absl::Now()) - description_.started_unix_ms);
  }
  stats.guest_memory_bytes = description_.config.memory.size_bytes;
  stats.process_cpu_time_ns = ProcessCpuTimeNs();
  stats.resident_bytes = ResidentBytes();
  return stats;
}

void LocalVmController::AddConsoleReader(std::shared_ptr<ConsoleReader> reader) {
  console_->AddReader(std::move(reader));
}

void LocalVmController::RemoveConsoleReader(const ConsoleReader* reader) {
  console_->RemoveReader(reader);
}

size_t LocalVmController::WriteConsole(std::string_view bytes) {
  MutexLock lock(mutex_);
  return machine_ == nullptr ? 0 : machine_->WriteConsole(bytes);
}

void LocalVmController::AddEventWatcher(std::shared_ptr<EventWatcher> watcher,
                                        uint64_t after_sequence) {
  events_.AddWatcher(std::move(watcher), after_sequence);
  loop_.Post([this] { events_.Dispatch(); });
}

void LocalVmController::RemoveEventWatcher(const EventWatcher* watcher) {
  events_.RemoveWatcher(watcher);
}

// --- What the guest does. ---

void LocalVmController::OnGuestEnded(VmCause cause, std::string detail) {
  const uint64_t run = run_.load(std::memory_order_acquire);
  loop_.Post([this, run, cause, detail = std::move(detail)]() mutable {
    operations_->Spawn(AnswerGuestEnd(run, cause, std::move(detail)));
  });
}

void LocalVmController::OnGuestPanicHandled() {
  loop_.Post([this] {
    Emit(VmEventKind::kGuestPanicked, VmCause::kGuestPanic,
         "the guest panicked and starts its crash kernel");
  });
}

void LocalVmController::OnDiskFailed(DiskError error) {
  loop_.Post([this, error = std::move(error)]() mutable {
    operations_->Spawn(AnswerDiskError(std::move(error)));
  });
}

Task<void> LocalVmController::AnswerDiskError(DiskError error) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  // A pause and a resume may have come first, and the second try gone well.
  if (machine_ == nullptr || !machine_->KeepsFailedRequests()) co_return;
  std::string detail = absl::StrFormat(
      "%s (%s): a %s at byte %d failed: %s; %s", error.disk, error.path,
      error.write ? "write" : "read", error.offset, error.message,
      error.no_space ? "make room and resume the machine" : "resume the machine to try again");
  LogError("%s", detail);
  VmEvent event = {.kind = VmEventKind::kDiskError, .cause = VmCause::kDiskError};
  event.detail = detail;
  event.disk_error = std::move(error);
  const VmState before = state();
  if (before == VmState::kRunning) {
    const absl::Status paused =
        co_await machine_->Pause(absl::Milliseconds(options_.drain_limit_ms));
    // Its vCPUs stand still all the same.
    if (!paused.ok()) LogError("pause after a disk error: %s", paused.message());
  }
  event.state = before == VmState::kRunning ? VmState::kPaused : before;
  events_.Add(std::move(event));
  if (before == VmState::kRunning) SetState(VmState::kPaused, VmCause::kDiskError, detail);
}

void LocalVmController::OnDiskStalled(DiskStall stall, bool pause) {
  loop_.Post([this, stall = std::move(stall), pause]() mutable {
    operations_->Spawn(AnswerDiskStall(std::move(stall), pause));
  });
}

void LocalVmController::OnDiskAnswers(DiskStall disk) {
  loop_.Post([this, disk = std::move(disk)]() mutable {
    operations_->Spawn(AnswerDiskAnswers(std::move(disk)));
  });
}

Task<void> LocalVmController::AnswerDiskStall(DiskStall stall, bool pause) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  if (machine_ == nullptr) co_return;
  const std::string detail =
      absl::StrFormat("%s (%s): a %s at byte %d has had no answer for %d s", stall.disk, stall.path,
                      stall.write ? "write" : "read", stall.offset, stall.seconds);
  LogError("%s", detail);
  if (pause) pausing_disks_.insert(stall.disk);
  const bool pauses = pause && state() == VmState::kRunning;
  if (pauses) {
    // The vCPUs stand still at once; the disk will not be quiet before it answers.
    const absl::Status paused = co_await machine_->Pause(kStallDrainLimit);
    if (!paused.ok() && !absl::IsDeadlineExceeded(paused)) {
      LogError("pause after a stall: %s", paused.message());
    }
  }
  VmEvent event = {.kind = VmEventKind::kDiskStalled, .cause = VmCause::kDiskStalled};
  event.state = pauses ? VmState::kPaused : state();
  event.detail = detail;
  event.disk_stall = std::move(stall);
  events_.Add(std::move(event));
  if (!pauses) co_return;
  SetState(VmState::kPaused, VmCause::kDiskStalled, detail);
  waits_for_disks_ = true;
}

Task<void> LocalVmController::AnswerDiskAnswers(DiskStall disk) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  if (machine_ == nullptr) co_return;
  const std::string detail =
      absl::StrFormat("%s (%s): the disk answers again", disk.disk, disk.path);
  LogWarning("%s", detail);
  pausing_disks_.erase(disk.disk);
  VmEvent event = {.kind = VmEventKind::kDiskAnswers, .state = state()};
  event.detail = detail;
  event.disk_stall = std::move(disk);
  events_.Add(std::move(event));
  if (!waits_for_disks_ || !pausing_disks_.empty()) co_return;
  const absl::Status resumed = co_await machine_->Resume();
  if (!resumed.ok()) {
    LogError("resume after a stall: %s", resumed.message());
    co_return;
  }
  SetState(VmState::kRunning, VmCause::kNone, detail);
}

void LocalVmController::OnMediumEjected(std::string id) {
  loop_.Post([this, id = std::move(id)] {
    NoteMedium(id, "");
    Emit(VmEventKind::kMediumEjected, VmCause::kNone,
         absl::StrCat(id, ": the guest ejected the medium"));
  });
}

void LocalVmController::OnDeviceNeedsReset(std::string id) {
  loop_.Post([this, id = std::move(id)] {
    Emit(VmEventKind::kDeviceNeedsReset, VmCause::kNone,
         absl::StrCat(id, ": its driver broke a ring; the device waits to be reset"));
  });
}

Task<void> LocalVmController::AnswerGuestEnd(uint64_t run, VmCause cause, std::string detail) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  if (run != run_.load(std::memory_order_acquire) || machine_ == nullptr) co_return;
  if (cause == VmCause::kGuestPowerOff) {
    const absl::Status closed = co_await CloseMachine(cause, std::move(detail));
    if (!closed.ok()) LogError("power off: %s", closed.message());
    co_return;
  }
  OnCrash wanted = OnCrash::kReset;
  if (IsCrash(cause)) {
    if (cause == VmCause::kGuestPanic) Emit(VmEventKind::kGuestPanicked, cause, detail);
    Emit(VmEventKind::kCrashed, cause, detail);
    LogWarning("the guest crashed: %s", detail);
    MutexLock lock(mutex_);
    wanted = description_.config.on_crash;
  }
  absl::Status status;
  if (wanted == OnCrash::kReset) {
    status = co_await RestartGuest(cause, detail);
  } else if (wanted == OnCrash::kStop) {
    status = co_await CloseMachine(cause, detail);
  } else {
    status = co_await machine_->Pause(absl::Milliseconds(options_.drain_limit_ms));
    SetState(VmState::kPaused, cause, detail);
  }
  if (!status.ok()) {
    LogError("after the guest ended its run: %s", status.message());
    if (machine_ != nullptr) SetState(VmState::kPaused, cause, std::string(status.message()));
  }
}

// --- The operations, on the control loop. ---

void LocalVmController::Enqueue(Operation operation, Done done) {
  loop_.Post([this, operation, done = std::move(done)]() mutable {
    operations_->Spawn(Perform(operation, std::move(done)));
  });
}

Task<void> LocalVmController::Perform(Operation operation, Done done) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  absl::Status status = co_await (this->*operation)();
  done(std::move(status));
}

Task<void> LocalVmController::PerformSetDiskThrottle(std::string disk, DiskThrottle throttle,
                                                     Done done) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  done(ApplyDiskThrottle(disk, std::move(throttle)));
}

absl::Status LocalVmController::ApplyDiskThrottle(const std::string& disk, DiskThrottle throttle) {
  if (machine_ == nullptr) return absl::FailedPreconditionError("there is no machine");
  RETURN_IF_ERROR(ValidateThrottle(throttle));
  RETURN_IF_ERROR(machine_->SetDiskThrottle(disk, throttle));
  MutexLock lock(mutex_);
  std::string group;
  for (const DiskConfig& config : description_.config.disks) {
    if (config.id == disk) group = config.throttle.group;
  }
  for (DiskConfig& config : description_.config.disks) {
    if (config.id != disk && (group.empty() || config.throttle.group != group)) continue;
    config.throttle = throttle;
    config.throttle.group = group;
  }
  return absl::OkStatus();
}

Task<void> LocalVmController::PerformSetMedium(std::string cdrom, std::string path, EjectMode mode,
                                               Done done) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  if (machine_ == nullptr || state() == VmState::kStopped) {
    done(absl::FailedPreconditionError("there is no machine, or it has stopped"));
    co_return;
  }
  const absl::Status status =
      co_await machine_->SetMedium(cdrom, path, mode, absl::Milliseconds(options_.drain_limit_ms));
  if (status.ok()) NoteMedium(cdrom, path);
  done(status);
}

void LocalVmController::NoteMedium(const std::string& cdrom, const std::string& path) {
  MutexLock lock(mutex_);
  for (CdromConfig& config : description_.config.cdroms) {
    if (config.id == cdrom) config.path = path;
  }
}

Task<void> LocalVmController::PerformCreate(VmConfig config, Done done) {
  AsyncMutex::Guard guard = co_await one_at_a_time_.Lock();
  absl::Status status = co_await DoCreate(std::move(config));
  done(std::move(status));
}

Task<absl::Status> LocalVmController::DoCreate(VmConfig config) {
  // A retry asks for the same again, before what it leaves out is made up.
  if (machine_ != nullptr && requested_ == config) co_return absl::OkStatus();
  VmConfig requested = config;
  Complete(&config);
  CO_RETURN_IF_ERROR(Validate(config));
  if (state() != VmState::kEmpty) {
    co_return absl::FailedPreconditionError(
        "this process has a machine already; a vireo process runs one machine, once");
  }
  console_->SetHistory(config.console.history_bytes);
  std::shared_ptr<ConsoleFile> console_file;
  if (config.console.mode == ConsoleMode::kFile) {
    CO_ASSIGN_OR_RETURN(console_file, OpenConsoleFile(config));
  }
  Machine::Parts parts = {.config = config,
                          .kvm_path = options_.kvm_path,
                          .control = loop_,
                          .console = *console_,
                          .events = *this};
  absl::StatusOr<std::unique_ptr<Machine>> machine = co_await Machine::Build(parts);
  if (!machine.ok()) co_return machine.status();
  if (console_file != nullptr) {
    console_file_ = std::move(console_file);
    console_->AddReader(console_file_);
  }
  {
    MutexLock lock(mutex_);
    machine_ = *std::move(machine);
    description_.config = config;
  }
  console_->TellOfInputRoom();  // Whoever typed before was refused.
  requested_ = std::move(requested);
  SetState(VmState::kCreated, VmCause::kNone, "");
  co_return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ConsoleFile>> LocalVmController::OpenConsoleFile(
    const VmConfig& config) {
  ASSIGN_OR_RETURN(DirectOpener opener, DirectOpener::Create(config.allowed_directories));
  absl::StatusOr<UniqueFd> fd =
      opener.Open(config.console.path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0600);
  if (!fd.ok()) {
    return absl::Status(fd.status().code(), absl::StrCat("console.path: ", fd.status().message()));
  }
  return std::make_shared<ConsoleFile>(loop_, *std::move(fd), config.console.path);
}

Task<absl::Status> LocalVmController::DoBoot() {
  switch (state()) {
    case VmState::kRunning:
      co_return absl::OkStatus();
    case VmState::kCreated:
      break;
    case VmState::kEmpty:
      co_return absl::FailedPreconditionError("there is no machine to boot; Create one first");
    case VmState::kPaused:
      co_return absl::FailedPreconditionError("the machine is paused; Resume it");
    case VmState::kStopped:
      co_return absl::FailedPreconditionError("the machine has stopped; start a new vireo process");
  }
  CO_RETURN_IF_ERROR(machine_->LoadGuest());
  {
    MutexLock lock(mutex_);
    description_.started_unix_ms = absl::ToUnixMillis(absl::Now());
  }
  const absl::Status resumed = co_await machine_->Resume();
  if (!resumed.ok()) co_return resumed;
  SetState(VmState::kRunning, VmCause::kNone, "");
  co_return absl::OkStatus();
}

Task<absl::Status> LocalVmController::DoPause() {
  if (state() == VmState::kPaused) {
    waits_for_disks_ = false;  // It stays paused when they answer.
    co_return absl::OkStatus();
  }
  if (state() != VmState::kRunning) {
    co_return absl::FailedPreconditionError("the machine is not running");
  }
  const absl::Status paused = co_await machine_->Pause(absl::Milliseconds(options_.drain_limit_ms));
  if (!paused.ok()) {
    const absl::Status resumed = co_await machine_->Resume();
    if (!resumed.ok()) LogError("resume after a pause that failed: %s", resumed.message());
    co_return paused;
  }
  SetState(VmState::kPaused, VmCause::kNone, "");
  co_return absl::OkStatus();
}

Task<absl::Status> LocalVmController::DoResume() {
  if (state() == VmState::kRunning) co_return absl::OkStatus();
  if (state() != VmState::kPaused) {
    co_return absl::FailedPreconditionError("the machine is not paused");
  }
  if (IsCrash(last_cause())) {
    co_return absl::FailedPreconditionError("the guest has crashed; Reset or Stop the machine");
  }
  const absl::Status resumed = co_await machine_->Resume();
  if (!resumed.ok()) co_return resumed;
  SetState(VmState::kRunning, VmCause::kNone, "");
  co_return absl::OkStatus();
}

Task<absl::Status> LocalVmController::DoShutdown() {
  if (state() == VmState::kStopped) co_return absl::OkStatus();
  if (state() != VmState::kRunning) {
    co_return absl::FailedPreconditionError(
        "the machine is not running, so its guest cannot shut down");
  }
  machine_->PressPowerButton();
  Emit(VmEventKind::kShutdownRequested, VmCause::kNone, "the power button was pressed");
  co_return absl::OkStatus();
}

Task<absl::Status> LocalVmController::DoReset() {
  if (state() != VmState::kRunning && state() != VmState::kPaused) {
    co_return absl::FailedPreconditionError("the machine is not running");
  }
  const absl::Status status = co_await RestartGuest(VmCause::kResetRequested, "");
  co_return status;
}

Task<absl::Status> LocalVmController::DoStop() {
  if (state() == VmState::kStopped) co_return absl::OkStatus();
  const absl::Status status = co_await CloseMachine(VmCause::kStopRequested, "");
  co_return status;
}

Task<absl::Status> LocalVmController::RestartGuest(VmCause cause, std::string detail) {
  const bool paused = state() == VmState::kPaused;
  const absl::Status reset = co_await machine_->Reset(absl::Milliseconds(options_.drain_limit_ms));
  if (!reset.ok()) co_return reset;
  CO_RETURN_IF_ERROR(machine_->LoadGuest());
  run_.fetch_add(1, std::memory_order_acq_rel);
  {
    MutexLock lock(mutex_);
    ++description_.resets;
    description_.last_cause = cause;
    description_.last_cause_detail = detail;
  }
  Emit(VmEventKind::kReset, cause, detail);
  if (paused) {
    // A crashed guest that waited for this is an ordinary paused one now.
    MutexLock lock(mutex_);
    description_.last_cause = VmCause::kResetRequested;
    co_return absl::OkStatus();
  }
  const absl::Status resumed = co_await machine_->Resume();
  co_return resumed;
}

Task<absl::Status> LocalVmController::CloseMachine(VmCause cause, std::string detail) {
  absl::Status status;
  if (machine_ != nullptr) {
    status = co_await machine_->Close(absl::Milliseconds(options_.drain_limit_ms));
    if (absl::IsDeadlineExceeded(status)) {
      LogError("stop: %s; the process exits without it", status.message());
      absl::AnyInvocable<void()> before_exit = std::move(options_.before_exit);
      loop_.Post([this, before_exit = std::move(before_exit)]() mutable {
        operations_->Spawn(ExitAfterLastAnswer(std::move(before_exit)));
      });
      co_return status;
    }
    VmStats last;
    machine_->Stats(&last);
    std::unique_ptr<Machine> dead;
    {
      MutexLock lock(mutex_);
      machine_->Describe(&description_);
      last_stats_ = std::move(last);
      dead = std::move(machine_);
    }
    dead.reset();
  }
  run_.fetch_add(1, std::memory_order_acq_rel);
  SetState(VmState::kStopped, cause, detail);
  console_->Close();
  if (console_file_ != nullptr) co_await console_file_->Finish();
  events_.Close();
  MutexLock lock(mutex_);
  finished_ = true;
  stopped_.NotifyAll();
  co_return status;
}

Task<void> LocalVmController::ExitAfterLastAnswer(absl::AnyInvocable<void()> before_exit) {
  const absl::Status slept = co_await loop_.SleepFor(kLastAnswer);
  if (!slept.ok()) LogError("%s", slept.message());
  if (before_exit) before_exit();
  _exit(2);
}

VmState LocalVmController::state() const {
  MutexLock lock(mutex_);
  return description_.state;
}

VmCause LocalVmController::last_cause() const {
  MutexLock lock(mutex_);
  return description_.last_cause;
}

void LocalVmController::SetState(VmState state, VmCause cause, const std::string& detail) {
  waits_for_disks_ = false;
  {
    MutexLock lock(mutex_);
    description_.state = state;
    if (cause != VmCause::kNone) {
      description_.last_cause = cause;
      description_.last_cause_detail = detail;
    }
  }
  Emit(VmEventKind::kStateChanged, cause, detail);
}

void LocalVmController::Emit(VmEventKind kind, VmCause cause, std::string detail) {
  events_.Add({.kind = kind, .state = state(), .cause = cause, .detail = std::move(detail)});
}

}  // namespace vireo
