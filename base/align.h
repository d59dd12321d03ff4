// Alignment and checked arithmetic on unsigned integers.

#ifndef VIREO_BASE_ALIGN_H_
#define VIREO_BASE_ALIGN_H_

#include <bit>
#include <concepts>
#include <optional>

#include "base/check.h"

namespace vireo {

// `alignment` is a power of two in all three.
template <std::unsigned_integral T>
constexpr bool IsAligned(T value, std::type_identity_t<T> alignment) {
  VIREO_DCHECK(std::has_single_bit(alignment));
  return (value & (alignment - 1)) == 0;
}

template <std::unsigned_integral T>
constexpr T AlignDown(T value, std::type_identity_t<T> alignment) {
  VIREO_DCHECK(std::has_single_bit(alignment));
  return value & ~(alignment - 1);
}

// The caller knows that it does not wrap; CheckedAlignUp otherwise.
template <std::unsigned_integral T>
constexpr T AlignUp(T value, std::type_identity_t<T> alignment) {
  VIREO_DCHECK(std::has_single_bit(alignment));
  return AlignDown<T>(static_cast<T>(value + (alignment - 1)), alignment);
}

// Nothing when the result does not fit T.
template <std::unsigned_integral T>
constexpr std::optional<T> CheckedAdd(T a, std::type_identity_t<T> b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
constexpr std::optional<T> CheckedMul(T a, std::type_identity_t<T> b) {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

template <std::unsigned_integral T>
constexpr std::optional<T> CheckedAlignUp(T value, std::type_identity_t<T> alignment) {
  const std::optional<T> sum = CheckedAdd<T>(value, static_cast<T>(alignment - 1));
  if (!sum.has_value()) return std::nullopt;
  return AlignDown<T>(*sum, alignment);
}

// ceil(a / b), b not 0.
template <std::unsigned_integral T>
constexpr T DivideRoundUp(T a, std::type_identity_t<T> b) {
  return static_cast<T>(a / b + (a % b != 0 ? 1 : 0));
}

}  // namespace vireo

#endif  // VIREO_BASE_ALIGN_H_
