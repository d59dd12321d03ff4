// A disk's limits as key=value: of `vireo run --disk` ("throttle.bps-total=10M") and of
// `vireoctl throttle` ("bps-total=10M").
#ifndef VIREO_CMD_THROTTLE_FLAGS_H_
#define VIREO_CMD_THROTTLE_FLAGS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/vm_config.h"

namespace vireo {

// Every key that there is, without the group's; each begins with `prefix`, "throttle." or "".
std::vector<std::string> ThrottleKeys(absl::string_view prefix);

// Takes what `values` says. INVALID_ARGUMENT, naming the key.
absl::Status TakeThrottle(const std::map<std::string, std::string>& values,
                          absl::string_view prefix, DiskThrottle* throttle);

}  // namespace vireo

#endif  // VIREO_CMD_THROTTLE_FLAGS_H_
