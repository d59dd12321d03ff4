// Names of network interfaces, as the kernel takes them.

#ifndef VIREO_NET_INTERFACE_NAME_H_
#define VIREO_NET_INTERFACE_NAME_H_

#include <string_view>

#include "absl/status/status.h"

namespace vireo {

// INVALID_ARGUMENT, naming `what` ("tap", "bridge") and the rule: 1 to 15 bytes, no '/', ':', '%',
// blanks or control characters, not "." or "..".
absl::Status CheckInterfaceName(std::string_view what, std::string_view name);

}  // namespace vireo

#endif  // VIREO_NET_INTERFACE_NAME_H_
