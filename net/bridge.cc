#include "net/bridge.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "net/interface_name.h"

namespace vireo {

absl::StatusOr<Link> FindBridge(Netlink& netlink, std::string_view name) {
  absl::StatusOr<Link> link = netlink.FindLink(name);
  if (absl::IsNotFound(link.status())) {
    return absl::NotFoundError(
        absl::StrFormat("bridge \"%s\": no such network interface on this host", name));
  }
  RETURN_IF_ERROR(link.status());
  if (link->kind == "bridge") return link;
  if (link->kind == "openvswitch") {
    return absl::UnimplementedError(absl::StrFormat(
        "bridge \"%s\": belongs to Open vSwitch; only Linux bridges are supported", name));
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "bridge \"%s\": is not a bridge%s", name,
      link->kind.empty() ? std::string() : absl::StrFormat(" but of kind \"%s\"", link->kind)));
}

absl::Status JoinBridge(Netlink& netlink, const Link& bridge, int port_index) {
  absl::Status joined = netlink.SetMaster(port_index, bridge.index);
  if (StatusErrno(joined) == EPERM) {
    joined = WithCode(joined, absl::StatusCode::kFailedPrecondition);
  }
  return Annotate(joined, absl::StrFormat("bridge \"%s\"", bridge.name));
}

absl::Status CreateBridge(Netlink& netlink, std::string_view name) {
  RETURN_IF_ERROR(CheckInterfaceName("bridge", name));
  NetlinkRequest request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  request.Append(ifinfomsg{});
  request.Attribute(IFLA_IFNAME, name);
  const size_t info = request.BeginNested(IFLA_LINKINFO);
  request.Attribute(IFLA_INFO_KIND, std::string_view("bridge"));
  request.EndNested(info);
  return netlink.Transact(std::move(request), absl::StrFormat("make bridge \"%s\"", name));
}

}  // namespace vireo
