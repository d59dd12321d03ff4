// A tap: a network interface of the host whose other end is a file descriptor, the guest's side
// (the kernel's Documentation/networking/tuntap.rst). Made by ioctl, configured by netlink, gone
// when its descriptor closes, so that nothing is left behind even if the process is killed.

#ifndef VIREO_NET_TAP_H_
#define VIREO_NET_TAP_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/unique_fd.h"
#include "net/packet_port.h"

namespace vireo {

struct TapOptions {
  std::string name;            // The interface to make.
  std::string bridge;          // An existing bridge to join; empty for none.
  uint16_t mtu = 0;            // 0: the bridge's, 1500 without one. From 68 on.
  std::optional<uid_t> owner;  // Who else may attach to it; nobody if unset.
};

// Owned by `loop`, which outlives it; made and destroyed on any thread while nothing waits on it.
class Tap final : public PacketPort {
 public:
  // Makes the interface, joins it to the bridge and brings it up; on any error nothing is left.
  // INVALID_ARGUMENT: the name is too long or impossible, the MTU is, or `bridge` is no bridge;
  // ALREADY_EXISTS: the name is taken; FAILED_PRECONDITION: the bridge is absent, no /dev/net/tun,
  // or no right to (CAP_NET_ADMIN).
  static absl::StatusOr<std::unique_ptr<Tap>> Create(EventLoop& loop, const TapOptions& options);

  // Takes over an open tap with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR. Its interface stays as it is
  // configured. INVALID_ARGUMENT: the descriptor is not such a tap. `mtu` 0: asked of the
  // interface, 1500 if that is in another network namespace.
  static absl::StatusOr<std::unique_ptr<Tap>> Adopt(EventLoop& loop, UniqueFd fd, uint16_t mtu = 0);

  const std::string& name() const { return name_; }

  // PacketPort:
  absl::StatusOr<size_t> TryReceive(IoVecs dst) override;
  Task<absl::StatusOr<size_t>> Receive(IoVecs dst, StopToken stop) override;
  absl::Status TrySend(IoVecs src) override;
  Task<absl::Status> Send(IoVecs src, StopToken stop) override;
  absl::Status SetOffloads(Offloads offloads) override;
  absl::Status SetPrefixBytes(size_t bytes) override;
  uint16_t mtu() const override { return mtu_; }
  // Whether the interface was up when it was made or taken over.
  bool link_up() const override { return link_up_; }

 private:
  Tap(EventLoop& loop, UniqueFd fd, std::string name)
      : loop_(loop), fd_(std::move(fd)), name_(std::move(name)) {}

  absl::Status Prepare();
  absl::Status Configure(const TapOptions& options);

  EventLoop& loop_;
  const UniqueFd fd_;
  const std::string name_;
  uint16_t mtu_ = 0;
  bool link_up_ = false;
  std::vector<uint8_t> bounce_;  // For a frame in more pieces than one system call takes.
};

}  // namespace vireo

#endif  // VIREO_NET_TAP_H_
