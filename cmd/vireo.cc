// vireo: one virtual machine per process. See --help.
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "api/server.h"
#include "api/unix_socket.h"
#include "base/async/event_loop.h"
#include "base/log.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "cmd/config_file.h"
#include "cmd/exit_status.h"
#include "cmd/run_flags.h"
#include "cmd/terminal.h"
#include "cmd/vm_session.h"
#include "vmm/local_vm_controller.h"

namespace vireo {
namespace {

// How long the last answers and events may take to leave once the machine is gone.
constexpr absl::Duration kLastWords = absl::Seconds(1);

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "vireo: %s\n", std::string(status.message()).c_str());
  return ExitStatusOf(status);
}

void StartLog(const std::string& vm_id, LogLevel level) {
  LogOptions options;
  options.vm_id = vm_id;
  options.min_level = level;
  SetLogOptions(options);
}

// Before any thread starts. Stacks are smaller than a huge page: where the kernel gives those to
// all, a stack of the usual 8 MiB that lies well gets one, and a thread's few KiB become 2 MiB.
void KeepStacksSmall() {
  constexpr size_t kStackBytes = 1 << 20;
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kStackBytes);
  ::pthread_setattr_default_np(&attributes);
  ::pthread_attr_destroy(&attributes);
}

// Before any thread starts: all of them inherit the mask, so that the signals reach the descriptor
// only.
absl::StatusOr<UniqueFd> BlockSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "signalfd");
  return fd;
}

// From the machine's making to its end; `config` is empty when it comes over the API.
absl::StatusOr<VmCause> RunMachine(std::optional<VmConfig> config, const std::string& api_address) {
  KeepStacksSmall();
  ASSIGN_OR_RETURN(const UniqueFd signal_fd, BlockSignals());
  std::optional<api::UnixListener> listener;
  if (!api_address.empty()) {
    ASSIGN_OR_RETURN(api::UnixListener bound, api::UnixListener::Bind(api_address));
    listener.emplace(std::move(bound));
  }
  EventLoop::Options loop_options;
  loop_options.entries = 16;
  ASSIGN_OR_RETURN(const std::unique_ptr<EventLoop> loop, EventLoop::Create(loop_options));

  std::unique_ptr<api::Server> server;
  LocalVmController::Options options;
  options.before_exit = [&server] {
    RawTerminal::RestoreNow();
    if (server != nullptr) server->RemoveSocketFile();
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalVmController> controller,
                   LocalVmController::Start(std::move(options)));
  if (listener.has_value()) {
    ASSIGN_OR_RETURN(
        server, api::Server::Start(*std::move(listener), *controller, api::Server::Grpc::kOwned));
  }

  // However this ends, the controller goes after the last call has.
  const absl::Cleanup stop_server = [&server] {
    if (server != nullptr) server->Stop(kLastWords);
  };

  absl::Status started;
  {
    VmSession::Options session_options;
    session_options.signal_fd = signal_fd.get();
    std::optional<RawTerminal> terminal;
    VmSession* running = nullptr;
    if (config.has_value() && config->console.mode == ConsoleMode::kStdio) {
      const bool typed = ::isatty(STDIN_FILENO);
      if (typed) {
        ASSIGN_OR_RETURN(RawTerminal raw, RawTerminal::Enter(STDIN_FILENO));
        terminal.emplace(std::move(raw));
      }
      session_options.console = {.in_fd = STDIN_FILENO,
                                 .out_fd = STDOUT_FILENO,
                                 .escape_key = typed ? kEscapeKey : '\0',
                                 .on_escape = [&running] { running->RequestEnd(); }};
    }
    VmSession session(*loop, *controller, std::move(session_options));
    running = &session;
    if (config.has_value()) started = loop->RunTask(session.CreateAndBoot(*std::move(config)));
    const bool overtaken =
        session.end_requested() || controller->Describe().state == VmState::kStopped;
    if (overtaken) started = absl::OkStatus();  // By a stop on request.
    if (!started.ok()) controller->Stop([](const absl::Status&) {});
    loop->RunTask(session.WaitUntilStopped());
  }
  if (!started.ok()) return started;
  return controller->Describe().last_cause;
}

int Run(RunOptions options) {
  std::optional<VmConfig> config = std::move(options.config);
  if (!options.config_path.empty()) {
    absl::StatusOr<VmConfig> loaded = LoadConfigFile(options.config_path);
    if (!loaded.ok()) return Fail(loaded.status());
    config = *std::move(loaded);
  }
  Complete(&*config);
  StartLog(config->name, options.log_level);
  const absl::StatusOr<VmCause> cause = RunMachine(std::move(config), options.api);
  return cause.ok() ? ExitStatusOf(*cause) : Fail(cause.status());
}

int Serve(const ServeOptions& options) {
  StartLog(options.api, options.log_level);
  const absl::StatusOr<VmCause> cause = RunMachine(std::nullopt, options.api);
  return cause.ok() ? ExitStatusOf(*cause) : Fail(cause.status());
}

int Main(const std::vector<std::string>& args) {
  absl::StatusOr<VireoCommand> command = ParseVireoArgs(args);
  if (!command.ok()) return Fail(command.status());
  if (const auto* const text = std::get_if<PrintText>(&*command)) {
    return std::fputs(text->text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0
               ? kExitOk
               : kExitHostFailed;
  }
  if (const auto* const serve = std::get_if<ServeOptions>(&*command)) return Serve(*serve);
  return Run(std::get<RunOptions>(*std::move(command)));
}

}  // namespace
}  // namespace vireo

int main(int argc, char** argv) {
  return vireo::Main(std::vector<std::string>(argv + 1, argv + argc));
}
