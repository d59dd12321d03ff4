#include "storage/crypto/luks_key.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/align.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/crypto/cipher.h"
#include "storage/crypto/hash.h"

namespace vireo::crypto {
namespace {

// What QEMU and cryptsetup take at least, however slow the machine.
constexpr uint64_t kMinIterations = 1000;
constexpr uint32_t kMaxIterationMs = 10 * 60 * 1000;

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

// Of computing, if the host tells; of the clock on the wall otherwise.
absl::Duration ThreadTime() {
  timespec now = {};
  if (::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return absl::ZeroDuration();
  return absl::DurationFromTimespec(now);
}

}  // namespace

absl::Status FillRandom(std::span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return ErrnoStatus(errno, "getrandom");
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

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

absl::StatusOr<uint32_t> CountLuksIterations(HashAlgorithm hash, size_t key_bytes,
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

absl::Status ValidateLuksIterationTime(uint32_t iteration_ms) {
  if (iteration_ms <= kMaxIterationMs) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("an iteration time of %d ms is more than %d", iteration_ms, kMaxIterationMs));
}

absl::StatusOr<Secret> OpenLuksSlot(const LuksHeader& header, const LuksSlot& slot,
                                    std::span<const uint8_t> passphrase,
                                    std::span<uint8_t> material) {
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

absl::StatusOr<std::vector<uint8_t>> SealLuksSlot(const LuksHeader& header,
                                                  std::span<const uint8_t> master_key,
                                                  std::span<const uint8_t> passphrase,
                                                  absl::Duration time, LuksSlot* slot) {
  ASSIGN_OR_RETURN(slot->iterations, CountLuksIterations(header.hash, master_key.size(), time));
  RETURN_IF_ERROR(FillRandom(slot->salt));
  Secret slot_key(master_key.size());
  RETURN_IF_ERROR(
      DeriveKey(header.hash, passphrase, slot->salt, slot->iterations, slot_key.bytes()));
  ASSIGN_OR_RETURN(const std::unique_ptr<SectorCipher> cipher,
                   SectorCipher::Create(header.cipher, slot_key.bytes()));
  Secret stripes(AlignUp<uint64_t>(header.key_material_bytes(), kSectorBytes));
  RETURN_IF_ERROR(SplitIntoStripes(header.hash, master_key,
                                   stripes.bytes().first(header.key_material_bytes())));
  std::vector<uint8_t> material(stripes.size());
  cipher->Encrypt(0, stripes.bytes(), material);
  return material;
}

}  // namespace vireo::crypto
