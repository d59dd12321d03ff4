// The guest's serial console on this process's own standard input and output (`vireo run --console
// stdio`). Uses the controller as every other console does. Owned by the loop; only the
// controller's thread calls in from outside.
#ifndef VIREO_CMD_STDIO_CONSOLE_H_
#define VIREO_CMD_STDIO_CONSOLE_H_

#include <memory>

#include "absl/functional/any_invocable.h"
#include "base/async/event_loop.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"
#include "vmm/vm_controller.h"

namespace vireo {

class StdioConsole {
 public:
  struct Options {
    int in_fd = 0;
    int out_fd = 1;
    char escape_key = 0;                   // 0: every byte goes to the guest.
    absl::AnyInvocable<void()> on_escape;  // On the loop, for each press.
  };

  // `loop` and `controller` outlive the console; its tasks have ended before it goes.
  StdioConsole(EventLoop& loop, VmController& controller, Options options);
  ~StdioConsole();

  // Carries input until it ends or `stop` asks. The guest's own pace: what it does not take waits.
  Task<void> CarryInput(StopToken stop);

  // Writes output until the machine has closed the console and all is written, or the output is
  // broken, or `abandon` asks. Keeps at most 1 MiB for an output that does not keep up, and says
  // how much it dropped.
  Task<void> CarryOutput(StopToken abandon);

 private:
  class Reader;

  EventLoop& loop_;
  VmController& controller_;
  Options options_;
  const std::shared_ptr<Reader> reader_;  // Shared with the controller, as its interface asks.
};

}  // namespace vireo

#endif  // VIREO_CMD_STDIO_CONSOLE_H_
