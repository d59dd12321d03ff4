// The configuration file: the JSON form of the API's VmConfig message.
#ifndef VIREO_CMD_CONFIG_FILE_H_
#define VIREO_CMD_CONFIG_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "vmm/vm_config.h"

namespace vireo {

// `path` may be fd:N. Errors begin with the path; NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT
// with the field at fault.
absl::StatusOr<VmConfig> LoadConfigFile(const std::string& path);

}  // namespace vireo

#endif  // VIREO_CMD_CONFIG_FILE_H_
