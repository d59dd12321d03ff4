// Whatever bytes a LUKS header has: it is refused, or everything that it names lies within its
// area, and written again it says the same.

#include <cstdint>
#include <span>

#include "base/check.h"
#include "storage/crypto/luks_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vireo::crypto;
  constexpr uint64_t kAreaBytes = 2068480;
  const auto header = ParseLuksHeader("fuzz", std::span(data, size), kAreaBytes);
  if (!header.ok()) return 0;
  VIREO_CHECK(header->cipher.key_bytes() <= kMaxKeyBytes);
  for (const LuksSlot& slot : header->slots) {
    VIREO_CHECK(slot.key_material_offset + header->key_material_bytes() <= kAreaBytes);
    VIREO_CHECK(!slot.active || slot.iterations <= kMaxLuksIterations);
  }
  const auto bytes = SerializeLuksHeader(*header);
  VIREO_CHECK(ParseLuksHeader("fuzz", bytes, kAreaBytes).ok());
  return 0;
}
