// The command line of `vireoctl`: argv to a call. A pure function.
#ifndef VIREO_CMD_CTL_FLAGS_H_
#define VIREO_CMD_CTL_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/v1/vireo.pb.h"
#include "cmd/run_flags.h"
#include "cmd/terminal.h"
#include "vmm/vm_config.h"

namespace vireo {

enum class CtlVerb {
  kInfo,
  kCreate,
  kBoot,
  kPause,
  kResume,
  kShutdown,
  kReset,
  kStop,
  kStats,
  kEvents,
  kConsole,
  kThrottle,
  kInsert,
  kEject,
  kVersion
};

struct CtlOptions {
  CtlVerb verb = CtlVerb::kInfo;
  std::string api;  // Empty for `version` without a VM.
  bool json = false;
  // Of one call, or of all the waiting that --wait and --until ask for; unset: the verb's own
  // default.
  std::optional<absl::Duration> timeout;
  std::string operation_id;
  std::string config_path;                 // create
  bool wait = false;                       // shutdown, stop: until the machine has stopped
  uint64_t after = 0;                      // events
  std::optional<v1::VmState> until_state;  // events
  std::string until_text;                  // console
  bool until_eof = false;                  // console
  char escape_key = kEscapeKey;            // console
  std::string disk;                        // throttle
  DiskThrottle throttle;                   // throttle
  std::string cdrom;                       // insert, eject
  std::string path;                        // insert
  bool force = false;                      // insert, eject
};

using CtlCommand = std::variant<CtlOptions, PrintText>;

// `args` without the program's name; `api_default` is the environment's VIREO_API. INVALID_ARGUMENT
// in one line, which begins with the flag or verb at fault.
absl::StatusOr<CtlCommand> ParseCtlArgs(const std::vector<std::string>& args,
                                        const std::string& api_default);

}  // namespace vireo

#endif  // VIREO_CMD_CTL_FLAGS_H_
