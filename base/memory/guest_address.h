// A guest-physical address, in bytes.

#ifndef VIREO_BASE_MEMORY_GUEST_ADDRESS_H_
#define VIREO_BASE_MEMORY_GUEST_ADDRESS_H_

#include <compare>
#include <cstdint>
#include <optional>

namespace vireo {

class GuestAddress {
 public:
  constexpr GuestAddress() = default;
  explicit constexpr GuestAddress(uint64_t value) : value_(value) {}

  constexpr uint64_t value() const { return value_; }
  // Nothing when it wraps.
  constexpr std::optional<GuestAddress> Plus(uint64_t bytes) const {
    uint64_t sum = 0;
    if (__builtin_add_overflow(value_, bytes, &sum)) return std::nullopt;
    return GuestAddress(sum);
  }
  friend constexpr auto operator<=>(GuestAddress, GuestAddress) = default;

 private:
  uint64_t value_ = 0;
};

}  // namespace vireo

#endif  // VIREO_BASE_MEMORY_GUEST_ADDRESS_H_
