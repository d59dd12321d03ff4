#include "storage/crypto/luks.h"

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/crypto/luks_key.h"

namespace vireo::crypto {
namespace {

std::string FormatUuid(std::span<uint8_t, 16> bytes) {
  bytes[6] = (bytes[6] & 0x0f) | 0x40;  // RFC 4122: version 4, random.
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += absl::StrFormat("%02x", bytes[i]);
  }
  return text;
}

uint64_t SlotBytes(const CipherSpec& cipher) {
  return AlignUp<uint64_t>(uint64_t{cipher.key_bytes()} * kLuksStripes, kLuksKeyMaterialOffset);
}

}  // namespace

Task<absl::StatusOr<LuksHeader>> ReadLuksHeader(File& file, LuksArea area) {
  std::array<uint8_t, kLuksHeaderBytes> bytes;
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  CO_RETURN_IF_ERROR(co_await file.Read(area.offset, IoVecs(&part, 1)));
  co_return ParseLuksHeader(file.name(), bytes, area.bytes);
}

Task<absl::StatusOr<Secret>> UnlockLuks(EventLoop& loop, File& file, LuksArea area,
                                        const LuksHeader& header, const Secret& passphrase) {
  std::vector<uint8_t> material(AlignUp<uint64_t>(header.key_material_bytes(), kSectorBytes));
  const std::span<uint8_t> bytes(material);
  const LuksHeader* const header_pointer = &header;
  const std::span<const uint8_t> text = passphrase.bytes();
  for (const LuksSlot& slot : header.slots) {
    if (!slot.active) continue;
    const iovec part = ToIoVec(bytes);
    CO_RETURN_IF_ERROR(
        co_await file.Read(area.offset + slot.key_material_offset, IoVecs(&part, 1)));
    const LuksSlot* const slot_pointer = &slot;
    auto attempt = [header_pointer, slot_pointer, text, bytes]() {
      return OpenLuksSlot(*header_pointer, *slot_pointer, text, bytes);
    };
    auto attempting = loop.Offload(std::move(attempt));
    absl::StatusOr<Secret> key = co_await std::move(attempting);
    if (!key.ok()) co_return Annotate(key.status(), file.name());
    if (key->size() > 0) co_return key;
  }
  co_return absl::PermissionDeniedError(
      absl::StrFormat("%s: Invalid password, cannot unlock any keyslot", file.name()));
}

absl::Status ValidateLuksOptions(const LuksOptions& options) {
  RETURN_IF_ERROR(ValidateLuksIterationTime(options.iteration_ms));
  RETURN_IF_ERROR(ValidateCipher(options.cipher));
  if (options.cipher.key_bytes() * kLuksStripes % kSectorBytes != 0) {
    // QEMU aborts on key material that is not whole sectors.
    return absl::InvalidArgumentError(
        absl::StrFormat("keys of %d bytes (%s in the mode %s) do not fill whole sectors",
                        options.cipher.key_bytes(), CipherName(options.cipher),
                        CipherModeName(options.cipher.mode)));
  }
  return absl::OkStatus();
}

uint64_t LuksAreaBytes(const CipherSpec& cipher) {
  return kLuksKeyMaterialOffset + kLuksSlots * SlotBytes(cipher);
}

absl::StatusOr<std::vector<uint8_t>> MakeLuksArea(const LuksOptions& options,
                                                  std::span<const uint8_t> passphrase) {
  RETURN_IF_ERROR(ValidateLuksOptions(options));
  LuksHeader header = {.cipher = options.cipher, .hash = options.hash};
  header.payload_offset = LuksAreaBytes(options.cipher);
  const size_t key_bytes = header.cipher.key_bytes();
  Secret key(key_bytes);
  RETURN_IF_ERROR(FillRandom(key.bytes()));
  std::array<uint8_t, 16> uuid;
  RETURN_IF_ERROR(FillRandom(uuid));
  header.uuid = FormatUuid(uuid);

  const absl::Duration time = absl::Milliseconds(options.iteration_ms);
  ASSIGN_OR_RETURN(header.digest_iterations,
                   CountLuksIterations(header.hash, kLuksDigestBytes, time / 8));
  RETURN_IF_ERROR(FillRandom(header.digest_salt));
  RETURN_IF_ERROR(DeriveKey(header.hash, key.bytes(), header.digest_salt, header.digest_iterations,
                            header.digest));
  for (size_t i = 0; i < kLuksSlots; ++i) {
    header.slots[i].key_material_offset = kLuksKeyMaterialOffset + i * SlotBytes(options.cipher);
  }
  LuksSlot& slot = header.slots[0];
  slot.active = true;
  ASSIGN_OR_RETURN(const std::vector<uint8_t> material,
                   SealLuksSlot(header, key.bytes(), passphrase, time, &slot));

  std::vector<uint8_t> area(header.payload_offset);
  const std::array<uint8_t, kLuksHeaderBytes> head = SerializeLuksHeader(header);
  std::memcpy(area.data(), head.data(), head.size());
  std::memcpy(area.data() + slot.key_material_offset, material.data(), material.size());
  return area;
}

}  // namespace vireo::crypto
