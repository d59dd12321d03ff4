#include "cmd/exit_status.h"

namespace vireo {

ExitStatus ExitStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kAborted:  // Another writer holds an image.
      return kExitBadInput;
    default:
      return kExitHostFailed;
  }
}

ExitStatus ExitStatusOf(VmCause cause) {
  switch (cause) {
    case VmCause::kTripleFault:
    case VmCause::kGuestPanic:
      return kExitCrashed;
    case VmCause::kInternalError:
      return kExitHostFailed;
    case VmCause::kNone:
    case VmCause::kGuestPowerOff:
    case VmCause::kGuestReset:
    case VmCause::kStopRequested:
    case VmCause::kResetRequested:
    case VmCause::kDiskError:  // These pause a machine, and end none.
    case VmCause::kDiskStalled:
      break;
  }
  return kExitOk;
}

}  // namespace vireo
