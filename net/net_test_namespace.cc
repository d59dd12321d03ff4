#include "net/net_test_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "net/bridge.h"
#include "net/netlink.h"

namespace vireo {

std::string EnterFreshNetworkNamespace() {
  if (::unshare(CLONE_NEWNET) != 0) {
    return absl::StrCat("no network namespace of our own: ", std::strerror(errno));
  }
  const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!tun.valid()) return absl::StrCat("/dev/net/tun: ", std::strerror(errno));
  absl::StatusOr<Netlink> netlink = Netlink::Open();
  if (!netlink.ok()) return netlink.status().ToString();
  const absl::Status probed = CreateBridge(*netlink, "probe0");
  if (!probed.ok()) return absl::StrCat("no bridges: ", probed.ToString());
  const absl::StatusOr<Link> probe = netlink->FindLink("probe0");
  if (!probe.ok()) return probe.status().ToString();
  const absl::Status deleted = netlink->DeleteLink(probe->index);
  return deleted.ok() ? "" : deleted.ToString();
}

}  // namespace vireo
