// The verbs of `vireoctl`, against a VM that listens somewhere.
#ifndef VIREO_CMD_CTL_H_
#define VIREO_CMD_CTL_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "cmd/ctl_flags.h"

namespace vireo {

struct CtlStreams {
  int in_fd = 0;   // For `console`.
  int out_fd = 1;  // For `console`.
  // Text for standard output; false when it takes no more.
  absl::FunctionRef<bool(const std::string&)> print;
};

absl::Status RunCtl(const CtlOptions& options, const CtlStreams& streams);

// 0 done; 1 the request is wrong, or the VM refused it; 2 no VM answers, the connection broke, or
// time ran out.
int CtlExitStatus(const absl::Status& status);

}  // namespace vireo

#endif  // VIREO_CMD_CTL_H_
