// The command line of `vireo`: argv to what is to be done. Pure functions; the flags that describe
// a machine fill the same VmConfig as the API's message and the configuration file.
#ifndef VIREO_CMD_RUN_FLAGS_H_
#define VIREO_CMD_RUN_FLAGS_H_

#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/log.h"
#include "vmm/vm_config.h"

namespace vireo {

struct RunOptions {
  VmConfig config;          // From the flags; to be read from `config_path` when that is set.
  std::string config_path;  // --config
  std::string api;          // Socket address; empty: no API.
  LogLevel log_level = LogLevel::kInfo;
};

struct ServeOptions {
  std::string api;
  LogLevel log_level = LogLevel::kInfo;
};

// --help, --version: print and end with status 0.
struct PrintText {
  std::string text;
};

using VireoCommand = std::variant<RunOptions, ServeOptions, PrintText>;

// `args` without the program's name. INVALID_ARGUMENT in one line, which begins with the flag at
// fault.
absl::StatusOr<VireoCommand> ParseVireoArgs(const std::vector<std::string>& args);

}  // namespace vireo

#endif  // VIREO_CMD_RUN_FLAGS_H_
