// `vireoctl console`: standard input and output joined to the Console call.
#ifndef VIREO_CMD_CTL_CONSOLE_H_
#define VIREO_CMD_CTL_CONSOLE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "api/client.h"

namespace vireo {

struct CtlConsoleOptions {
  int in_fd = 0;
  int out_fd = 1;
  char escape_key = 0;     // Looked for when in_fd is a terminal; 0: none.
  bool until_eof = false;  // End once the guest has taken all input.
  std::string until_text;  // End once this is in the output; empty: not looked for.
  std::optional<absl::Duration> timeout;
};

// Blocks until the end: OK when it came as asked for, when the machine is gone, when the escape key
// was pressed or when out_fd takes no more. FAILED_PRECONDITION when the machine went without
// printing until_text; else the call's error. Puts a terminal into raw mode meanwhile.
absl::Status RunCtlConsole(api::Client& client, const CtlConsoleOptions& options);

}  // namespace vireo

#endif  // VIREO_CMD_CTL_CONSOLE_H_
