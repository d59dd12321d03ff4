// Linux bridges: finding one by name, joining a port to it, making one.

#ifndef VIREO_NET_BRIDGE_H_
#define VIREO_NET_BRIDGE_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "net/netlink.h"

namespace vireo {

// The bridge of that name. NOT_FOUND when there is no such interface; INVALID_ARGUMENT when it is
// not a bridge; UNIMPLEMENTED for one of Open vSwitch, which has no such ports.
absl::StatusOr<Link> FindBridge(Netlink& netlink, std::string_view name);

// FAILED_PRECONDITION without the right to (CAP_NET_ADMIN).
absl::Status JoinBridge(Netlink& netlink, const Link& bridge, int port_index);

// Makes a bridge without ports, not yet up. ALREADY_EXISTS; INVALID_ARGUMENT for an impossible
// name.
absl::Status CreateBridge(Netlink& netlink, std::string_view name);

}  // namespace vireo

#endif  // VIREO_NET_BRIDGE_H_
