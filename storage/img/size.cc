#include "storage/img/size.h"

#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_format.h"

namespace vireo::img {

std::optional<uint64_t> ParseSize(const std::string& text) {
  const absl::StatusOr<uint64_t> bytes = ReadSize(text);
  if (!bytes.ok()) return std::nullopt;
  return *bytes;
}

absl::StatusOr<uint64_t> ReadSize(const std::string& text) {
  const absl::Status no_size = absl::InvalidArgumentError("no size");
  const absl::Status too_large = absl::OutOfRangeError("does not fit 63 bits");
  size_t at = 0;
  uint64_t whole = 0;
  bool overflow = false;
  const bool hexadecimal = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
  if (hexadecimal) at = 2;
  const size_t first = at;
  const uint64_t base = hexadecimal ? 16 : 10;
  for (; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (hexadecimal ? !std::isxdigit(byte) : !std::isdigit(byte)) break;
    const uint64_t digit = std::isdigit(byte) ? byte - '0' : std::tolower(byte) - 'a' + 10;
    overflow |=
        __builtin_mul_overflow(whole, base, &whole) || __builtin_add_overflow(whole, digit, &whole);
  }
  if (at == first) return no_size;
  if (hexadecimal) {
    if (at != text.size()) return no_size;
    if (overflow || whole > INT64_MAX) return too_large;
    return whole;
  }
  long double fraction = 0;
  bool has_fraction = false;
  if (at < text.size() && text[at] == '.') {
    has_fraction = true;
    long double digit = 0.1L;
    for (++at; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at) {
      fraction += digit * (text[at] - '0');
      digit /= 10;
    }
  }
  int shift = 0;
  if (at < text.size()) {
    constexpr std::array<char, 7> kSuffixes = {'b', 'k', 'm', 'g', 't', 'p', 'e'};
    const char suffix = static_cast<char>(std::tolower(static_cast<unsigned char>(text[at])));
    size_t index = 0;
    while (index < kSuffixes.size() && kSuffixes[index] != suffix) ++index;
    if (index == kSuffixes.size() || at + 1 != text.size()) return no_size;
    shift = static_cast<int>(index) * 10;
  }
  if (has_fraction && shift == 0) return no_size;  // No part of a byte.
  uint64_t bytes = 0;
  if (overflow || __builtin_mul_overflow(whole, uint64_t{1} << shift, &bytes)) return too_large;
  bytes += static_cast<uint64_t>(std::roundl(std::ldexp(fraction, shift)));
  if (bytes > INT64_MAX) return too_large;
  return bytes;
}

std::string FormatSize(uint64_t bytes) {
  constexpr std::array<const char*, 7> kUnits = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  // The unit that leaves less than 1000 of it.
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.3g %sB", value, kUnits[unit]);
}

}  // namespace vireo::img
