#include "net/interface_name.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace vireo {
namespace {

constexpr size_t kLongest = 15;  // IFNAMSIZ counts the terminating zero.

// What the kernel's dev_valid_name() refuses; and '%', which TUNSETIFF takes for a pattern
// ("tap%d").
bool IsForbidden(char c) {
  const unsigned char byte = static_cast<unsigned char>(c);
  return byte <= ' ' || byte == 0x7f || c == '/' || c == ':' || c == '%';
}

}  // namespace

absl::Status CheckInterfaceName(std::string_view what, std::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError(absl::StrFormat("%s: no name", what));
  if (name.size() > kLongest) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s \"%s\": the name has %d bytes, an interface name at most %d", what,
                        name, name.size(), kLongest));
  }
  if (name == "." || name == ".." || std::any_of(name.begin(), name.end(), IsForbidden)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s \"%s\": not a name for a network interface", what, name));
  }
  return absl::OkStatus();
}

}  // namespace vireo
