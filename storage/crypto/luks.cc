#include "storage/crypto/luks.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/align.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"

namespace vireo::crypto {
namespace {

// What QEMU and cryptsetup take at least, however slow the machine.
constexpr uint64_t kMinIterations = 1000;
constexpr uint32_t kMaxIterationMs = 10 * 60 * 1000;

absl::Status FillRandom(std::span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return ErrnoStatus(errno, "getrandom");
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

void Xor(std::span<const uint8_t> other, std::span<uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] ^= other[i];
}

// LUKS spec, "Anti-forensic splitter": hashes each digest-sized piece with its number.
void Diffuse(HashAlgorithm hash, std::span<uint8_t> bytes) {
  std::array<uint8_t, kMaxDigestBytes> digest;
  const size_t size = DigestBytes(hash);
  uint32_t index = 0;
  for (size_t at = 0; at < bytes.size(); at += size, ++index) {
    const Be32 number(index);
    const std::span<uint8_t> piece = bytes.subspan(at, std::min(size, bytes.size() - at));
    Hash(hash, {reinterpret_cast<const uint8_t*>(&number), sizeof(number)}, piece,
         std::span(digest).first(size));
    std::memcpy(piece.data(), digest.data(), piece.size());
  }
  explicit_bzero(digest.data(), digest.size());
}

absl::Status CheckMasterKey(const LuksHeader& header, std::span<const uint8_t> key, bool* matches) {
  std::array<uint8_t, kLuksDigestBytes> digest;
  RETURN_IF_ERROR(
      DeriveKey(header.hash, key, header.digest_salt, header.digest_iterations, digest));
  *matches = SameBytes(digest, header.digest);
  return absl::OkStatus();
}

// The master key if the passphrase opens this slot, whose key material is `material`; else nothing.
absl::StatusOr<Secret> TrySlot(const LuksHeader& header, const LuksSlot& slot,
                               std::span<const uint8_t> passphrase, std::span<uint8_t> material) {
  Secret slot_key(header.cipher.key_bytes());
  RETURN_IF_ERROR(DeriveKey(header.hash, passphrase, slot.salt, slot.iterations, slot_key.bytes()));
  ASSIGN_OR_RETURN(const std::unique_ptr<SectorCipher> cipher,
                   SectorCipher::Create(header.cipher, slot_key.bytes()));
  Secret stripes(material.size());
  cipher->Decrypt(0, material, stripes.bytes());
  Secret key(header.cipher.key_bytes());
  JoinStripes(header.hash, stripes.bytes().first(header.key_material_bytes()), key.bytes());
  bool matches = false;
  RETURN_IF_ERROR(CheckMasterKey(header, key.bytes(), &matches));
  if (!matches) return Secret();
  return key;
}

// Of computing, if the host tells; of the clock on the wall otherwise.
absl::Duration ThreadTime() {
  timespec now = {};
  if (::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return absl::ZeroDuration();
  return absl::DurationFromTimespec(now);
}

// Iterations that this machine does in `time` to derive `key_bytes`.
absl::StatusOr<uint32_t> CountIterations(HashAlgorithm hash, size_t key_bytes,
                                         absl::Duration time) {
  Secret key(key_bytes);
  const std::array<uint8_t, kLuksSaltBytes> salt = {};
  const std::array<uint8_t, 8> passphrase = {};
  for (uint32_t tried = 1 << 13;; tried *= 2) {
    const absl::Duration thread_before = ThreadTime();
    const absl::Time wall_before = absl::Now();
    RETURN_IF_ERROR(DeriveKey(hash, passphrase, salt, tried, key.bytes()));
    const absl::Duration wall = absl::Now() - wall_before;
    const absl::Duration thread = ThreadTime() - thread_before;
    // Some hosts count a thread's time in coarse steps, or not at all.
    const absl::Duration taken = thread >= wall / 4 && thread <= wall ? thread : wall;
    if (taken < absl::Milliseconds(30) && tried < kMaxLuksIterations / 2) continue;
    const double wanted = absl::FDivDuration(time, taken) * tried;
    return static_cast<uint32_t>(std::clamp<double>(wanted, kMinIterations, kMaxLuksIterations));
  }
}

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

void JoinStripes(HashAlgorithm hash, std::span<const uint8_t> stripes, std::span<uint8_t> key) {
  std::fill(key.begin(), key.end(), 0);
  const size_t last = stripes.size() / key.size() - 1;
  for (size_t i = 0; i < last; ++i) {
    Xor(stripes.subspan(i * key.size(), key.size()), key);
    Diffuse(hash, key);
  }
  Xor(stripes.subspan(last * key.size(), key.size()), key);
}

absl::Status SplitIntoStripes(HashAlgorithm hash, std::span<const uint8_t> key,
                              std::span<uint8_t> stripes) {
  const size_t last = stripes.size() - key.size();
  RETURN_IF_ERROR(FillRandom(stripes.first(last)));
  std::fill(stripes.begin() + last, stripes.end(), 0);
  // With a last stripe of zeros the others join to what it has to make up for.
  Secret joined(key.size());
  JoinStripes(hash, stripes, joined.bytes());
  Xor(key, joined.bytes());
  std::memcpy(stripes.data() + last, joined.bytes().data(), key.size());
  return absl::OkStatus();
}

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
      return TrySlot(*header_pointer, *slot_pointer, text, bytes);
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
  if (options.iteration_ms > kMaxIterationMs) {
    return absl::InvalidArgumentError(absl::StrFormat("an iteration time of %d ms is more than %d",
                                                      options.iteration_ms, kMaxIterationMs));
  }
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
                   CountIterations(header.hash, kLuksDigestBytes, time / 8));
  RETURN_IF_ERROR(FillRandom(header.digest_salt));
  RETURN_IF_ERROR(DeriveKey(header.hash, key.bytes(), header.digest_salt, header.digest_iterations,
                            header.digest));
  for (size_t i = 0; i < kLuksSlots; ++i) {
    header.slots[i].key_material_offset = kLuksKeyMaterialOffset + i * SlotBytes(options.cipher);
  }
  LuksSlot& slot = header.slots[0];
  slot.active = true;
  ASSIGN_OR_RETURN(slot.iterations, CountIterations(header.hash, key_bytes, time));
  RETURN_IF_ERROR(FillRandom(slot.salt));
  Secret slot_key(key_bytes);
  RETURN_IF_ERROR(DeriveKey(header.hash, passphrase, slot.salt, slot.iterations, slot_key.bytes()));
  ASSIGN_OR_RETURN(const std::unique_ptr<SectorCipher> cipher,
                   SectorCipher::Create(options.cipher, slot_key.bytes()));
  Secret stripes(AlignUp<uint64_t>(header.key_material_bytes(), kSectorBytes));
  RETURN_IF_ERROR(SplitIntoStripes(header.hash, key.bytes(),
                                   stripes.bytes().first(header.key_material_bytes())));

  std::vector<uint8_t> area(header.payload_offset);
  const std::array<uint8_t, kLuksHeaderBytes> head = SerializeLuksHeader(header);
  std::memcpy(area.data(), head.data(), head.size());
  cipher->Encrypt(0, stripes.bytes(),
                  std::span(area).subspan(slot.key_material_offset, stripes.size()));
  return area;
}

}  // namespace vireo::crypto
