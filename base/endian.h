// Integers with a byte order, for structs that lie on a wire, on a disk or in guest memory.
// Byte-aligned and trivially copyable: a struct of them has no padding, whatever its offsets.

#ifndef VIREO_BASE_ENDIAN_H_
#define VIREO_BASE_ENDIAN_H_

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace vireo {

template <typename T, std::endian kOrder>
class WireInteger {
  static_assert(std::is_unsigned_v<T>);

 public:
  WireInteger() = default;  // Uninitialised, as an integer is; `= {}` is 0.
  constexpr WireInteger(
      T host)  // NOLINT(google-explicit-constructor): an integer in all but layout.
      : bytes_(std::bit_cast<Bytes>(Convert(host))) {}

  constexpr T value() const { return Convert(std::bit_cast<T>(bytes_)); }
  constexpr operator T() const { return value(); }  // NOLINT(google-explicit-constructor)

 private:
  using Bytes = std::array<uint8_t, sizeof(T)>;

  static constexpr T Convert(T value) {
    if constexpr (kOrder == std::endian::native) {
      return value;
    } else if constexpr (sizeof(T) == 2) {
      return __builtin_bswap16(value);
    } else if constexpr (sizeof(T) == 4) {
      return __builtin_bswap32(value);
    } else {
      return __builtin_bswap64(value);
    }
  }

  Bytes bytes_;
};

using Le16 = WireInteger<uint16_t, std::endian::little>;
using Le32 = WireInteger<uint32_t, std::endian::little>;
using Le64 = WireInteger<uint64_t, std::endian::little>;
using Be16 = WireInteger<uint16_t, std::endian::big>;
using Be32 = WireInteger<uint32_t, std::endian::big>;
using Be64 = WireInteger<uint64_t, std::endian::big>;

static_assert(sizeof(Le16) == 2 && sizeof(Be32) == 4 && sizeof(Le64) == 8);
static_assert(std::is_trivially_copyable_v<Be64> && alignof(Be64) == 1);

}  // namespace vireo

#endif  // VIREO_BASE_ENDIAN_H_
