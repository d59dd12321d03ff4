// rtnetlink(7): one request, one acknowledgement. Blocks for as long as the kernel works on the
// request, which is short: used while a machine is put together, never for frames.

#ifndef VIREO_NET_NETLINK_H_
#define VIREO_NET_NETLINK_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "net/mac_address.h"

namespace vireo {

// A network interface, as RTM_GETLINK describes it.
struct Link {
  int index = 0;
  std::string name;
  std::string kind;  // "bridge", "tun", ...; empty for hardware.
  uint32_t mtu = 0;
  int master = 0;  // The bridge (or bond) that it is a port of; 0 for none.
  bool up = false;
  MacAddress mac;
};

// A request under construction: header, fixed part, attributes.
class NetlinkRequest {
 public:
  NetlinkRequest(uint16_t type, uint16_t flags);

  template <typename T>
  void Append(const T& fixed_part) {
    AppendBytes({reinterpret_cast<const uint8_t*>(&fixed_part), sizeof(fixed_part)});
  }
  void Attribute(uint16_t type, std::span<const uint8_t> value);
  void Attribute(uint16_t type, uint32_t value);
  void Attribute(uint16_t type, std::string_view text);  // With its terminating zero.
  // Attributes between the two lie within this one. Begin answers what End wants.
  size_t BeginNested(uint16_t type);
  void EndNested(size_t begin);

 private:
  friend class Netlink;
  void AppendBytes(std::span<const uint8_t> bytes);

  std::vector<uint8_t> bytes_;
};

// One socket in the network namespace of the thread that opened it. One thread at a time.
class Netlink {
 public:
  static absl::StatusOr<Netlink> Open();

  // Sends and waits for the acknowledgement: OK, or the error that the kernel names, after "`what`:
  // ".
  absl::Status Transact(NetlinkRequest request, std::string_view what);

  // NOT_FOUND when there is no such interface.
  absl::StatusOr<Link> FindLink(std::string_view name);
  // Changes one property each. Statuses carry the errno (StatusErrno).
  absl::Status SetMtu(int index, uint32_t mtu);
  absl::Status SetMac(int index, const MacAddress& mac);
  absl::Status SetUp(int index);
  absl::Status SetMaster(int index, int master);  // 0: leaves its master.
  absl::Status DeleteLink(int index);

 private:
  explicit Netlink(UniqueFd socket) : socket_(std::move(socket)) {}

  // The kernel's answer other than the acknowledgement, empty if none.
  absl::StatusOr<std::vector<uint8_t>> Exchange(NetlinkRequest request, std::string_view what);

  UniqueFd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace vireo

#endif  // VIREO_NET_NETLINK_H_
