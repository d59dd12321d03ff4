// The exit status of `vireo`, which scripts and orchestrators rely on.
#ifndef VIREO_CMD_EXIT_STATUS_H_
#define VIREO_CMD_EXIT_STATUS_H_

#include "absl/status/status.h"
#include "vmm/vm_controller.h"

namespace vireo {

enum ExitStatus : int {
  kExitOk = 0,          // The guest powered off, or was stopped on request.
  kExitBadInput = 1,    // The caller's value is wrong.
  kExitHostFailed = 2,  // The host failed or lacks something.
  kExitCrashed = 3,     // The guest crashed, and on_crash said stop.
};

// For a machine that could not be made: the caller's fault for INVALID_ARGUMENT, NOT_FOUND,
// ALREADY_EXISTS, OUT_OF_RANGE, DATA_LOSS, UNIMPLEMENTED, PERMISSION_DENIED and ABORTED; the host's
// for all other codes.
ExitStatus ExitStatusOf(const absl::Status& status);

// For a machine that has stopped.
ExitStatus ExitStatusOf(VmCause cause);

}  // namespace vireo

#endif  // VIREO_CMD_EXIT_STATUS_H_
