#include "storage/crypto/luks_header.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"

namespace vireo::crypto {
namespace {

constexpr uint8_t kMagic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
constexpr uint32_t kSlotActive = 0x00ac71f3;
constexpr uint32_t kSlotDisabled = 0x0000dead;

struct RawSlot {
  Be32 state;
  Be32 iterations;
  uint8_t salt[kLuksSaltBytes];
  Be32 key_material_sector;
  Be32 stripes;
};
static_assert(sizeof(RawSlot) == kLuksSlotBytes);

struct RawLuksHeader {
  uint8_t magic[6];
  Be16 version;
  char cipher_name[32];
  char cipher_mode[32];
  char hash[32];
  Be32 payload_sector;
  Be32 key_bytes;
  uint8_t digest[kLuksDigestBytes];
  uint8_t digest_salt[kLuksSaltBytes];
  Be32 digest_iterations;
  char uuid[40];
  RawSlot slots[kLuksSlots];
};
static_assert(sizeof(RawLuksHeader) == kLuksHeaderBytes);

template <size_t kBytes>
std::optional<std::string> Text(const char (&field)[kBytes]) {
  const size_t length = ::strnlen(field, kBytes);
  if (length == kBytes) return std::nullopt;
  return std::string(field, length);
}

template <size_t kBytes>
void SetText(char (&field)[kBytes], const std::string& text) {
  VIREO_CHECK(text.size() < kBytes, "a name of ours fits its field");
  std::memcpy(field, text.data(), text.size());
}

RawSlot RawSlotOf(const LuksSlot& slot) {
  RawSlot raw = {};
  raw.state = slot.active ? kSlotActive : kSlotDisabled;
  raw.iterations = slot.iterations;
  std::memcpy(raw.salt, slot.salt.data(), sizeof(raw.salt));
  raw.key_material_sector = static_cast<uint32_t>(slot.key_material_offset / kSectorBytes);
  raw.stripes = slot.stripes;
  return raw;
}

class Parser {
 public:
  Parser(absl::string_view name, uint64_t area_bytes) : name_(name), area_bytes_(area_bytes) {}

  absl::StatusOr<LuksHeader> Parse(std::span<const uint8_t> bytes) {
    if (bytes.size() < sizeof(raw_) || area_bytes_ < sizeof(raw_)) {
      return Bad("%d bytes are no LUKS header", std::min<uint64_t>(bytes.size(), area_bytes_));
    }
    std::memcpy(&raw_, bytes.data(), sizeof(raw_));
    if (std::memcmp(raw_.magic, kMagic, sizeof(kMagic)) != 0) return Bad("no LUKS header");
    if (raw_.version != 1) {
      return absl::UnimplementedError(
          absl::StrFormat("%s: LUKS version %d is not supported", name_, raw_.version.value()));
    }
    RETURN_IF_ERROR(ParseNames());
    header_.payload_offset = uint64_t{raw_.payload_sector} * kSectorBytes;
    if (header_.payload_offset < kLuksHeaderBytes) {
      return Bad("its payload begins at byte %d, inside the LUKS header", header_.payload_offset);
    }
    std::memcpy(header_.digest.data(), raw_.digest, sizeof(raw_.digest));
    std::memcpy(header_.digest_salt.data(), raw_.digest_salt, sizeof(raw_.digest_salt));
    header_.digest_iterations = raw_.digest_iterations;
    RETURN_IF_ERROR(CheckIterations("its master key", header_.digest_iterations));
    for (size_t i = 0; i < kLuksSlots; ++i) RETURN_IF_ERROR(ParseSlot(i));
    RETURN_IF_ERROR(CheckDisjoint());
    return std::move(header_);
  }

 private:
  template <typename... Args>
  absl::Status Bad(const absl::FormatSpec<Args...>& format, const Args&... args) const {
    return absl::DataLossError(
        absl::StrFormat("%s: LUKS header: %s", name_, absl::StrFormat(format, args...)));
  }

  absl::Status ParseNames() {
    const std::optional<std::string> cipher = Text(raw_.cipher_name);
    const std::optional<std::string> mode = Text(raw_.cipher_mode);
    const std::optional<std::string> hash = Text(raw_.hash);
    const std::optional<std::string> uuid = Text(raw_.uuid);
    if (!cipher.has_value() || !mode.has_value() || !hash.has_value() || !uuid.has_value()) {
      return Bad("a name without an end");
    }
    const absl::StatusOr<CipherSpec> spec = CipherFromLuks(*cipher, *mode, raw_.key_bytes);
    if (!spec.ok()) return Annotate(spec.status(), std::string(name_));
    header_.cipher = *spec;
    const std::optional<HashAlgorithm> algorithm = HashFromName(*hash);
    if (!algorithm.has_value()) {
      return absl::UnimplementedError(absl::StrFormat("%s: the LUKS hash \"%s\" is not supported",
                                                      name_, absl::CHexEscape(*hash)));
    }
    header_.hash = *algorithm;
    header_.uuid = *uuid;
    return absl::OkStatus();
  }

  absl::Status CheckIterations(absl::string_view what, uint32_t iterations) const {
    if (iterations == 0) return Bad("%s has 0 iterations", what);
    if (iterations > kMaxLuksIterations) {
      return Bad("%s has %d iterations, more than %d", what, iterations, kMaxLuksIterations);
    }
    return absl::OkStatus();
  }

  absl::Status ParseSlot(size_t index) {
    const RawSlot& raw = raw_.slots[index];
    LuksSlot& slot = header_.slots[index];
    if (raw.state != kSlotActive && raw.state != kSlotDisabled) {
      return Bad("key slot %d is neither active nor disabled", index);
    }
    slot.active = raw.state == kSlotActive;
    slot.iterations = raw.iterations;
    std::memcpy(slot.salt.data(), raw.salt, sizeof(raw.salt));
    slot.key_material_offset = uint64_t{raw.key_material_sector} * kSectorBytes;
    slot.stripes = raw.stripes;
    if (slot.stripes != kLuksStripes) {
      return Bad("key slot %d has %d stripes, not %d", index, slot.stripes, kLuksStripes);
    }
    if (slot.active) {
      RETURN_IF_ERROR(CheckIterations(absl::StrFormat("key slot %d", index), slot.iterations));
    }
    const uint64_t end = slot.key_material_offset + header_.key_material_bytes();  // Small numbers.
    if (slot.key_material_offset < kLuksHeaderBytes || end > area_bytes_) {
      return Bad("key slot %d has its key material at byte %d, outside the area of %d bytes", index,
                 slot.key_material_offset, area_bytes_);
    }
    return absl::OkStatus();
  }

  absl::Status CheckDisjoint() const {
    std::array<uint64_t, kLuksSlots> begins;
    for (size_t i = 0; i < kLuksSlots; ++i) begins[i] = header_.slots[i].key_material_offset;
    std::sort(begins.begin(), begins.end());
    for (size_t i = 1; i < kLuksSlots; ++i) {
      if (begins[i] - begins[i - 1] < header_.key_material_bytes()) {
        return Bad("the key material of two slots overlaps at byte %d", begins[i]);
      }
    }
    return absl::OkStatus();
  }

  const absl::string_view name_;
  const uint64_t area_bytes_;
  RawLuksHeader raw_ = {};
  LuksHeader header_;
};

}  // namespace

absl::StatusOr<LuksHeader> ParseLuksHeader(absl::string_view name, std::span<const uint8_t> bytes,
                                           uint64_t area_bytes) {
  return Parser(name, area_bytes).Parse(bytes);
}

std::array<uint8_t, kLuksHeaderBytes> SerializeLuksHeader(const LuksHeader& header) {
  RawLuksHeader raw = {};
  std::memcpy(raw.magic, kMagic, sizeof(kMagic));
  raw.version = 1;
  SetText(raw.cipher_name, LuksCipherName(header.cipher));
  SetText(raw.cipher_mode, LuksCipherMode(header.cipher));
  SetText(raw.hash, HashName(header.hash));
  raw.payload_sector = static_cast<uint32_t>(header.payload_offset / kSectorBytes);
  raw.key_bytes = static_cast<uint32_t>(header.cipher.key_bytes());
  std::memcpy(raw.digest, header.digest.data(), sizeof(raw.digest));
  std::memcpy(raw.digest_salt, header.digest_salt.data(), sizeof(raw.digest_salt));
  raw.digest_iterations = header.digest_iterations;
  SetText(raw.uuid, header.uuid);
  for (size_t i = 0; i < kLuksSlots; ++i) raw.slots[i] = RawSlotOf(header.slots[i]);
  std::array<uint8_t, kLuksHeaderBytes> bytes;
  std::memcpy(bytes.data(), &raw, sizeof(raw));
  return bytes;
}

std::array<uint8_t, kLuksSlotBytes> SerializeLuksSlot(const LuksSlot& slot) {
  const RawSlot raw = RawSlotOf(slot);
  std::array<uint8_t, kLuksSlotBytes> bytes;
  std::memcpy(bytes.data(), &raw, sizeof(raw));
  return bytes;
}

uint64_t LuksSlotOffset(size_t index) {
  return offsetof(RawLuksHeader, slots) + index * kLuksSlotBytes;
}

}  // namespace vireo::crypto
