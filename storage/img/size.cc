#include "storage/img/size.h"

#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_format.h"

namespace vireo::img {

std::optional<uint64_t> ParseSize(const std::string& text) {
  size_t at = 0;
  uint64_t whole = 0;
  while (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) {
    if (__builtin_mul_overflow(whole, uint64_t{10}, &whole) ||
        __builtin_add_overflow(whole, static_cast<uint64_t>(text[at] - '0'), &whole)) {
      return std::nullopt;
    }
    ++at;
  }
  if (at == 0) return std::nullopt;
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
    if (index == kSuffixes.size() || at + 1 != text.size()) return std::nullopt;
    shift = static_cast<int>(index) * 10;
  }
  if (has_fraction && shift == 0) return std::nullopt;  // No part of a byte.
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(whole, uint64_t{1} << shift, &bytes)) return std::nullopt;
  bytes += static_cast<uint64_t>(std::roundl(std::ldexp(fraction, shift)));
  if (bytes > INT64_MAX) return std::nullopt;
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
