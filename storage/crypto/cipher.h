// A cipher over sectors of 512 bytes, each with an initialisation vector made from its number, as
// LUKS and dm-crypt have it.

#ifndef VIREO_STORAGE_CRYPTO_CIPHER_H_
#define VIREO_STORAGE_CRYPTO_CIPHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/crypto/hash.h"

namespace vireo::crypto {

inline constexpr size_t kSectorBytes = 512;

enum class CipherFamily { kAes, kSerpent, kTwofish, kCast5 };
enum class CipherMode { kXts, kCbc, kEcb, kCtr };
// The vector is: kPlain the sector's number in 32 bits, kPlain64 in 64 bits, kEssiv that encrypted
// with a hash of the key.
enum class IvGenerator { kPlain, kPlain64, kEssiv };

struct CipherSpec {
  CipherFamily family = CipherFamily::kAes;
  uint32_t key_bits = 256;  // Of the cipher itself: XTS takes two such keys.
  CipherMode mode = CipherMode::kXts;
  IvGenerator iv = IvGenerator::kPlain64;
  std::optional<HashAlgorithm> iv_hash;  // With kEssiv, exactly.

  size_t key_bytes() const { return key_bits / 8 * (mode == CipherMode::kXts ? 2 : 1); }
};
inline constexpr size_t kMaxKeyBytes = 64;

// Names as options of images have them: "aes-256", "xts", "plain64".
absl::StatusOr<CipherSpec> CipherFromName(absl::string_view name);  // Family and key alone.
std::optional<CipherMode> CipherModeFromName(absl::string_view name);
std::optional<IvGenerator> IvGeneratorFromName(absl::string_view name);
std::string CipherName(const CipherSpec& spec);
const char* CipherModeName(CipherMode mode);
const char* IvGeneratorName(IvGenerator iv);

// Names as a LUKS header has them: "aes", "xts-plain64", "cbc-essiv:sha256"; the key's length tells
// which aes. UNIMPLEMENTED, by name, for what is beyond us.
absl::StatusOr<CipherSpec> CipherFromLuks(absl::string_view name, absl::string_view mode,
                                          size_t key_bytes);
std::string LuksCipherName(const CipherSpec& spec);
std::string LuksCipherMode(const CipherSpec& spec);

// OK if the parts go together and the library has them. UNIMPLEMENTED or INVALID_ARGUMENT, by name.
absl::Status ValidateCipher(const CipherSpec& spec);

// One user at a time, on any thread.
class SectorCipher {
 public:
  // `key` has spec.key_bytes().
  static absl::StatusOr<std::unique_ptr<SectorCipher>> Create(const CipherSpec& spec,
                                                              std::span<const uint8_t> key);
  ~SectorCipher();
  SectorCipher(const SectorCipher&) = delete;
  SectorCipher& operator=(const SectorCipher&) = delete;

  // Whole sectors, the first of which has the number `sector`; `from` and `to` are as long, and
  // either the same bytes or have none in common.
  void Encrypt(uint64_t sector, std::span<const uint8_t> from, std::span<uint8_t> to);
  void Decrypt(uint64_t sector, std::span<const uint8_t> from, std::span<uint8_t> to);

 private:
  struct Handles;

  SectorCipher(const CipherSpec& spec, std::unique_ptr<Handles> handles);
  void SetVector(uint64_t sector);

  const CipherSpec spec_;
  const std::unique_ptr<Handles> handles_;
};

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_CIPHER_H_
