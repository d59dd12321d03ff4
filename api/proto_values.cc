#include "api/proto_values.h"

#include "absl/strings/str_cat.h"

namespace vireo::api {

std::string Utf8(absl::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&text](size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char lead = byte(i);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xc2 ? 0
                          : lead < 0xe0 ? 2
                          : lead < 0xf0 ? 3
                          : lead < 0xf5 ? 4
                                        : 0;
    bool good = length != 0 && i + length <= text.size();
    for (size_t k = 1; good && k < length; ++k) good = (byte(i + k) & 0xc0) == 0x80;
    // Overlong forms, surrogates, and what lies past U+10FFFF (RFC 3629 §4).
    if (good && length > 2) {
      const unsigned char next = byte(i + 1);
      good = !(lead == 0xe0 && next < 0xa0) && !(lead == 0xed && next > 0x9f) &&
             !(lead == 0xf0 && next < 0x90) && !(lead == 0xf4 && next > 0x8f);
    }
    if (good) {
      absl::StrAppend(&result, text.substr(i, length));
      i += length;
    } else {
      result += '?';
      ++i;
    }
  }
  return result;
}

}  // namespace vireo::api
