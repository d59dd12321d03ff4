// A machine's configuration: the API's message <-> VmConfig, and its JSON form. Pure functions,
// total: every message gives either a struct or INVALID_ARGUMENT with the field's path; every
// struct gives a message. Only what the struct cannot hold is refused here (unknown enum values,
// numbers too wide for their field, malformed MAC addresses); ranges are Validate()'s.
#ifndef VIREO_API_CONFIG_CONVERT_H_
#define VIREO_API_CONFIG_CONVERT_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "api/v1/vireo.pb.h"
#include "vmm/vm_config.h"

namespace vireo::api {

// Defaults that the .proto states are filled in as VmConfig's initialisers have them.
// INVALID_ARGUMENT, e.g. "disks[1].format: 7 is not known; use RAW or QCOW2".
absl::StatusOr<VmConfig> ConfigFromProto(const v1::VmConfig& message);
v1::VmConfig ConfigToProto(const VmConfig& config);

// The JSON form of v1::VmConfig. INVALID_ARGUMENT names an unknown field, or the place of a syntax
// error.
absl::StatusOr<VmConfig> ConfigFromJson(const std::string& json);
std::string ConfigToJson(const VmConfig& config);

DiskThrottle ThrottleFromProto(const v1::DiskThrottle& message);
void ThrottleToProto(const DiskThrottle& throttle, v1::DiskThrottle* message);

// "02:00:00:00:00:01", either case. INVALID_ARGUMENT says what would be right.
absl::StatusOr<std::array<uint8_t, 6>> ParseMac(absl::string_view text);
std::string FormatMac(const std::array<uint8_t, 6>& mac);

}  // namespace vireo::api

#endif  // VIREO_API_CONFIG_CONVERT_H_
