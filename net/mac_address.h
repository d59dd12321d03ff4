// An Ethernet address.

#ifndef VIREO_NET_MAC_ADDRESS_H_
#define VIREO_NET_MAC_ADDRESS_H_

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace vireo {

class MacAddress {
 public:
  using Bytes = std::array<uint8_t, 6>;

  constexpr MacAddress() = default;  // 00:00:00:00:00:00
  explicit constexpr MacAddress(const Bytes& bytes) : bytes_(bytes) {}

  // Six pairs of hexadecimal digits, with ':' or '-' between all of them. INVALID_ARGUMENT.
  static absl::StatusOr<MacAddress> Parse(std::string_view text);
  // Random, unicast, locally administered (IEEE 802: bit 1 of the first byte).
  static MacAddress GenerateLocal();
  // The same with first byte 0xfe: higher than any other, so that a bridge, which takes the lowest
  // address among its ports, does not change its own when a tap comes or goes.
  static MacAddress GenerateForBridgePort();

  const Bytes& bytes() const { return bytes_; }
  bool is_multicast() const { return (bytes_[0] & 1) != 0; }
  bool is_local() const { return (bytes_[0] & 2) != 0; }
  bool is_zero() const { return bytes_ == Bytes{}; }
  std::string ToString() const;  // "02:00:00:00:00:01"
  friend constexpr auto operator<=>(const MacAddress&, const MacAddress&) = default;

 private:
  Bytes bytes_ = {};
};

}  // namespace vireo

#endif  // VIREO_NET_MAC_ADDRESS_H_
