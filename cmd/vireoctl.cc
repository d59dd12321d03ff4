// vireoctl: what can be asked of a running vireo process. See --help.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

#include "cmd/ctl.h"
#include "cmd/ctl_flags.h"

namespace {

bool PrintToStdout(const std::string& text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  const char* const api = std::getenv("VIREO_API");
  const absl::StatusOr<vireo::CtlCommand> command =
      vireo::ParseCtlArgs(std::vector<std::string>(argv + 1, argv + argc), api ? api : "");
  absl::Status status = command.status();
  if (status.ok()) {
    if (const auto* const text = std::get_if<vireo::PrintText>(&*command)) {
      return PrintToStdout(text->text) ? 0 : 1;
    }
    status = vireo::RunCtl(std::get<vireo::CtlOptions>(*command),
                           {.in_fd = 0, .out_fd = 1, .print = PrintToStdout});
  }
  if (!status.ok()) std::fprintf(stderr, "vireoctl: %s\n", std::string(status.message()).c_str());
  return vireo::CtlExitStatus(status);
}
