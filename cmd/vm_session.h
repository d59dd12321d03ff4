// A machine's life in this process: its console on the terminal, what signals do to it, and waiting
// for its end. The first signal (or escape key) presses the power button, with a limit; the second
// one stops the machine.
#ifndef VIREO_CMD_VM_SESSION_H_
#define VIREO_CMD_VM_SESSION_H_

#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "cmd/stdio_console.h"
#include "vmm/vm_controller.h"

namespace vireo {

// On the loop.
class VmSession {
 public:
  struct Options {
    int signal_fd = -1;  // A signalfd(2) of the signals that ask for the end.
    std::optional<StdioConsole::Options> console;
    // How long output that is left may take to be written once the machine is gone.
    absl::Duration output_limit = absl::Seconds(2);
  };

  // `loop` and `controller` outlive the session. Output is carried from here on.
  VmSession(EventLoop& loop, VmController& controller, Options options);
  ~VmSession();

  // Makes the machine and starts it. Signals count from the first moment on.
  Task<absl::Status> CreateAndBoot(VmConfig config);

  // Until the machine has stopped. Once.
  Task<void> WaitUntilStopped();

  // What a signal does. The limit of the first is the configuration's shutdown_timeout_ms.
  void RequestEnd();
  bool end_requested() const { return requests_ > 0; }

 private:
  class Watcher;
  struct Answer;

  // One call of the controller, awaited.
  Task<absl::Status> Ask(absl::AnyInvocable<void(VmController::Done)> call);
  Task<void> HandleSignals(StopToken stop);
  Task<void> StopAfter(absl::Duration limit, StopToken stop);
  Task<void> AbandonOutputAfter(absl::Duration limit, StopToken stop);
  void StopMachine();

  EventLoop& loop_;
  VmController& controller_;
  Options options_;
  const std::shared_ptr<Watcher> watcher_;  // Shared with the controller, as its interface asks.
  AsyncEvent stopped_;
  int requests_ = 0;  // How often the end was asked for.
  std::optional<StdioConsole> console_;
  StopSource abandon_output_;
  TaskScope tasks_;   // Signals, input and limits: end with the machine.
  TaskScope output_;  // Ends when all is written.
};

}  // namespace vireo

#endif  // VIREO_CMD_VM_SESSION_H_
