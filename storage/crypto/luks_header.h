// The header of LUKS version 1 ("LUKS On-Disk Format Specification", 1.2.3): parsed, validated,
// written. Pure functions over bytes, which a stranger wrote.
//
//   0      592                4096
//   +------+------------------+-----------------+-- ... --+-----------------+
//   |header|      zeros       | key material 0  |         | key material 7  |
//   +------+------------------+-----------------+-- ... --+-----------------+
//
// A slot's key material is the master key, split into many stripes that are all needed, encrypted
// with what its passphrase derives. In a QCOW2 image the whole area is in clusters of its own.

#ifndef VIREO_STORAGE_CRYPTO_LUKS_HEADER_H_
#define VIREO_STORAGE_CRYPTO_LUKS_HEADER_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/crypto/cipher.h"
#include "storage/crypto/hash.h"

namespace vireo::crypto {

inline constexpr size_t kLuksHeaderBytes = 592;
inline constexpr size_t kLuksSlots = 8;
inline constexpr uint32_t kLuksStripes = 4000;  // Every writer's number.
inline constexpr uint64_t kLuksKeyMaterialOffset = 4096;
inline constexpr size_t kLuksSaltBytes = 32;
inline constexpr size_t kLuksDigestBytes = 20;
// Seconds of computing: a header that asks for more is an attack, not protection.
inline constexpr uint32_t kMaxLuksIterations = uint32_t{1} << 28;

struct LuksSlot {
  bool active = false;
  uint32_t iterations = 0;
  std::array<uint8_t, kLuksSaltBytes> salt = {};
  uint64_t key_material_offset = 0;  // Bytes, from the header.
  uint32_t stripes = kLuksStripes;
};

struct LuksHeader {
  CipherSpec cipher;
  HashAlgorithm hash = HashAlgorithm::kSha256;
  uint64_t payload_offset = 0;  // Bytes; where a LUKS volume of its own has its data.
  std::array<uint8_t, kLuksDigestBytes> digest = {};  // Of the master key.
  std::array<uint8_t, kLuksSaltBytes> digest_salt = {};
  uint32_t digest_iterations = 0;
  std::string uuid;
  std::array<LuksSlot, kLuksSlots> slots;

  uint64_t key_material_bytes() const { return uint64_t{cipher.key_bytes()} * kLuksStripes; }
};

// `bytes` is what `name` holds at the header, at least kLuksHeaderBytes; the header and its key
// material lie within `area_bytes`. DATA_LOSS for a damaged header, UNIMPLEMENTED for a cipher or a
// hash that is beyond us, by name.
absl::StatusOr<LuksHeader> ParseLuksHeader(absl::string_view name, std::span<const uint8_t> bytes,
                                           uint64_t area_bytes);

std::array<uint8_t, kLuksHeaderBytes> SerializeLuksHeader(const LuksHeader& header);

// One slot of it, where it stands; its first kLuksSlotStateBytes, which lie within a sector, say
// whether it is active.
inline constexpr size_t kLuksSlotBytes = 48;
inline constexpr size_t kLuksSlotStateBytes = 4;
std::array<uint8_t, kLuksSlotBytes> SerializeLuksSlot(const LuksSlot& slot);
uint64_t LuksSlotOffset(size_t index);

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_LUKS_HEADER_H_
