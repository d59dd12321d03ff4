#include "net/mac_address.h"

#include <sys/random.h>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace vireo {
namespace {

constexpr size_t kTextLength = 17;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

MacAddress::Bytes RandomBytes() {
  MacAddress::Bytes bytes;
  // Up to 256 bytes come whole, and no signal interrupts them: getrandom(2).
  VIREO_CHECK(::getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return bytes;
}

}  // namespace

absl::StatusOr<MacAddress> MacAddress::Parse(std::string_view text) {
  const absl::Status error = absl::InvalidArgumentError(
      absl::StrFormat("\"%s\" is not a MAC address such as 02:00:00:00:00:01", text));
  if (text.size() != kTextLength) return error;
  const char separator = text[2];
  if (separator != ':' && separator != '-') return error;
  Bytes bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = HexDigit(text[3 * i]);
    const int low = HexDigit(text[3 * i + 1]);
    if (high < 0 || low < 0) return error;
    if (i > 0 && text[3 * i - 1] != separator) return error;
    bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return MacAddress(bytes);
}

MacAddress MacAddress::GenerateLocal() {
  Bytes bytes = RandomBytes();
  bytes[0] = static_cast<uint8_t>((bytes[0] & ~1) | 2);
  return MacAddress(bytes);
}

MacAddress MacAddress::GenerateForBridgePort() {
  Bytes bytes = RandomBytes();
  bytes[0] = 0xfe;
  return MacAddress(bytes);
}

std::string MacAddress::ToString() const {
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", bytes_[0], bytes_[1], bytes_[2],
                         bytes_[3], bytes_[4], bytes_[5]);
}

}  // namespace vireo
