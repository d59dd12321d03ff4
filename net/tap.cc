#include "net/tap.h"

#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// After <net/if.h>, whose names it would repeat.
#include <linux/if_tun.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "net/bridge.h"
#include "net/interface_name.h"
#include "net/mac_address.h"
#include "net/netlink.h"

namespace vireo {
namespace {

constexpr char kDevice[] = "/dev/net/tun";
constexpr uint16_t kDefaultMtu = 1500;
constexpr uint16_t kSmallestMtu = 68;  // RFC 791; what the kernel takes for Ethernet.
// The largest segment that an offload makes, with headers and prefix to spare.
constexpr size_t kLargestFrame = 68 << 10;

// Without a message there is no allocation: this is said for every drained queue.
absl::Status NotNow() { return absl::Status(absl::StatusCode::kUnavailable, ""); }

absl::Status NotPermitted(int error, const std::string& what) {
  return WithCode(ErrnoStatus(error, what + " (CAP_NET_ADMIN is needed)"),
                  absl::StatusCode::kFailedPrecondition);
}

absl::StatusOr<UniqueFd> OpenDevice(const std::string& what) {
  UniqueFd fd(::open(kDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (fd.valid()) return fd;
  const int error = errno;
  const char* const hint =
      error == ENOENT || error == ENODEV || error == ENXIO ? " (is the module tun loaded?)" : "";
  return WithCode(ErrnoStatus(error, absl::StrFormat("%s: %s%s", what, kDevice, hint)),
                  absl::StatusCode::kFailedPrecondition);
}

ifreq RequestFor(const std::string& name) {
  ifreq request = {};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

// Whether the tap's interface is in our network namespace, so that its name means the same to us.
// Old kernels cannot tell; it is then taken for granted.
bool IsInOurNamespace(const UniqueFd& tap) {
  const UniqueFd theirs(::ioctl(tap.get(), TUNGETDEVNETNS));
  const UniqueFd ours(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  struct stat their_status;
  struct stat our_status;
  if (!theirs.valid() || !ours.valid() || ::fstat(theirs.get(), &their_status) != 0 ||
      ::fstat(ours.get(), &our_status) != 0) {
    return true;
  }
  return their_status.st_dev == our_status.st_dev && their_status.st_ino == our_status.st_ino;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tap>> Tap::Create(EventLoop& loop, const TapOptions& options) {
  RETURN_IF_ERROR(CheckInterfaceName("tap", options.name));
  const std::string what = absl::StrFormat("tap \"%s\"", options.name);
  if (options.mtu != 0 && options.mtu < kSmallestMtu) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: an MTU of %d, the smallest is %d", what, options.mtu, kSmallestMtu));
  }
  ASSIGN_OR_RETURN(UniqueFd fd, OpenDevice(what));
  ifreq request = RequestFor(options.name);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    // IFF_TUN_EXCL: a name in use, by whatever kind of interface, is EBUSY (or EEXIST).
    if (errno == EBUSY || errno == EEXIST) {
      return absl::AlreadyExistsError(
          absl::StrFormat("%s: a network interface of that name exists", what));
    }
    if (errno == EPERM) return NotPermitted(errno, what);
    return ErrnoStatus(errno, what + ": TUNSETIFF");
  }
  // From here on closing the descriptor removes the interface.
  std::unique_ptr<Tap> tap(new Tap(loop, std::move(fd), options.name));
  if (absl::Status status = tap->Prepare(); !status.ok()) return Annotate(status, what);
  if (absl::Status status = tap->Configure(options); !status.ok()) return Annotate(status, what);
  return tap;
}

absl::Status Tap::Prepare() {
  RETURN_IF_ERROR(SetPrefixBytes(kPrefixBytes));
  // A guest begins without offloads: nothing larger than the MTU, every checksum done.
  return SetOffloads({});
}

absl::Status Tap::Configure(const TapOptions& options) {
  if (options.owner.has_value() && ::ioctl(fd_.get(), TUNSETOWNER, *options.owner) != 0) {
    return ErrnoStatus(errno, "TUNSETOWNER");
  }
  ASSIGN_OR_RETURN(Netlink netlink, Netlink::Open());
  ASSIGN_OR_RETURN(const Link link, netlink.FindLink(name_));
  std::optional<Link> bridge;
  if (!options.bridge.empty()) {
    absl::StatusOr<Link> found = FindBridge(netlink, options.bridge);
    // The host lacks what the configuration rightly asks for.
    if (absl::IsNotFound(found.status())) {
      return WithCode(found.status(), absl::StatusCode::kFailedPrecondition);
    }
    RETURN_IF_ERROR(found.status());
    bridge = *std::move(found);
  }
  mtu_ = options.mtu;
  if (mtu_ == 0) {
    mtu_ = bridge.has_value() ? static_cast<uint16_t>(std::min<uint32_t>(bridge->mtu, UINT16_MAX))
                              : kDefaultMtu;
  }
  // Before it joins: a bridge takes the smallest MTU among its ports for itself.
  if (mtu_ != link.mtu) RETURN_IF_ERROR(netlink.SetMtu(link.index, mtu_));
  if (bridge.has_value()) {
    RETURN_IF_ERROR(netlink.SetMac(link.index, MacAddress::GenerateForBridgePort()));
    RETURN_IF_ERROR(JoinBridge(netlink, *bridge, link.index));
  }
  RETURN_IF_ERROR(netlink.SetUp(link.index));
  link_up_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tap>> Tap::Adopt(EventLoop& loop, UniqueFd fd, uint16_t mtu) {
  const std::string what = absl::StrFormat("tap descriptor %d", fd.get());
  ifreq request = {};
  if (::ioctl(fd.get(), TUNGETIFF, &request) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: not a tap that is attached to an interface (TUNGETIFF: %s)", what,
                        std::strerror(errno)));
  }
  const unsigned flags = static_cast<unsigned short>(request.ifr_flags);
  constexpr unsigned kWanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if ((flags & kWanted) != kWanted) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: interface \"%s\" was opened without%s%s%s", what, request.ifr_name,
        (flags & IFF_TAP) != 0 ? "" : " IFF_TAP", (flags & IFF_NO_PI) != 0 ? "" : " IFF_NO_PI",
        (flags & IFF_VNET_HDR) != 0 ? "" : " IFF_VNET_HDR"));
  }
  const int status_flags = ::fcntl(fd.get(), F_GETFL);
  if (status_flags < 0 || ::fcntl(fd.get(), F_SETFL, status_flags | O_NONBLOCK) != 0) {
    return ErrnoStatus(errno, what + ": O_NONBLOCK");
  }
  std::unique_ptr<Tap> tap(new Tap(loop, std::move(fd), request.ifr_name));
  if (absl::Status status = tap->Prepare(); !status.ok()) return Annotate(status, what);
  tap->link_up_ = true;
  tap->mtu_ = kDefaultMtu;
  if (IsInOurNamespace(tap->fd_)) {
    ASSIGN_OR_RETURN(Netlink netlink, Netlink::Open());
    if (const absl::StatusOr<Link> link = netlink.FindLink(tap->name_); link.ok()) {
      tap->link_up_ = link->up;
      tap->mtu_ = static_cast<uint16_t>(std::min<uint32_t>(link->mtu, UINT16_MAX));
    }
  }
  if (mtu != 0) tap->mtu_ = mtu;
  return tap;
}

absl::StatusOr<size_t> Tap::TryReceive(IoVecs dst) {
  VIREO_DCHECK(loop_.IsCurrent());
  ssize_t got;
  if (dst.size() <= IOV_MAX) {
    do {
      got = ::readv(fd_.get(), dst.data(), static_cast<int>(dst.size()));
    } while (got < 0 && errno == EINTR);
  } else {
    bounce_.resize(kLargestFrame);
    do {
      got = ::read(fd_.get(), bounce_.data(), bounce_.size());
    } while (got < 0 && errno == EINTR);
    if (got > 0) {
      got = static_cast<ssize_t>(
          CopyToIoVecs(std::span(bounce_).first(static_cast<size_t>(got)), dst));
    }
  }
  if (got >= 0) return static_cast<size_t>(got);
  if (errno == EAGAIN) return NotNow();
  return ErrnoStatus(errno, absl::StrFormat("tap \"%s\": receive", name_));
}

Task<absl::StatusOr<size_t>> Tap::Receive(IoVecs dst, StopToken stop) {
  // Poll first: whoever comes here has just found the queue empty.
  while (true) {
    const absl::StatusOr<uint32_t> events = co_await loop_.Poll(fd_.get(), POLLIN, stop);
    if (!events.ok()) co_return events.status();
    absl::StatusOr<size_t> received = TryReceive(dst);
    if (!absl::IsUnavailable(received.status())) co_return received;
  }
}

absl::Status Tap::TrySend(IoVecs src) {
  VIREO_DCHECK(loop_.IsCurrent());
  iovec whole = {};
  if (src.size() > IOV_MAX) {
    bounce_.resize(kLargestFrame);
    whole = {bounce_.data(), CopyFromIoVecs(src, bounce_)};
    if (whole.iov_len < TotalSize(src)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "tap \"%s\": a frame of %d bytes, at most %d go", name_, TotalSize(src), kLargestFrame));
    }
    src = IoVecs(&whole, 1);
  }
  ssize_t sent;
  do {
    sent = ::writev(fd_.get(), src.data(), static_cast<int>(src.size()));
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return absl::OkStatus();
  if (errno == EAGAIN) return NotNow();
  return ErrnoStatus(errno, absl::StrFormat("tap \"%s\": send", name_));
}

Task<absl::Status> Tap::Send(IoVecs src, StopToken stop) {
  while (true) {
    const absl::StatusOr<uint32_t> events = co_await loop_.Poll(fd_.get(), POLLOUT, stop);
    if (!events.ok()) co_return events.status();
    absl::Status sent = TrySend(src);
    if (!absl::IsUnavailable(sent)) co_return sent;
  }
}

absl::Status Tap::SetPrefixBytes(size_t bytes) {
  int prefix_bytes = static_cast<int>(bytes);
  if (::ioctl(fd_.get(), TUNSETVNETHDRSZ, &prefix_bytes) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrFormat("tap \"%s\": TUNSETVNETHDRSZ %d", name_, bytes));
}

absl::Status Tap::SetOffloads(Offloads offloads) {
  unsigned flags = 0;
  if (offloads.checksum) {  // The kernel refuses the others without it.
    flags = TUN_F_CSUM;
    if (offloads.tso4) flags |= TUN_F_TSO4;
    if (offloads.tso6) flags |= TUN_F_TSO6;
    if (offloads.tso_ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
    if (offloads.ufo) flags |= TUN_F_UFO;
  }
  if (::ioctl(fd_.get(), TUNSETOFFLOAD, flags) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrFormat("tap \"%s\": TUNSETOFFLOAD %#x", name_, flags));
}

}  // namespace vireo
