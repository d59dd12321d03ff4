// Hashes by the names that LUKS gives them, and PBKDF2. Pure functions, any thread.

#ifndef VIREO_STORAGE_CRYPTO_HASH_H_
#define VIREO_STORAGE_CRYPTO_HASH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vireo::crypto {

enum class HashAlgorithm { kMd5, kSha1, kSha224, kSha256, kSha384, kSha512, kRipemd160 };

// "sha256" and its kin.
std::optional<HashAlgorithm> HashFromName(absl::string_view name);
const char* HashName(HashAlgorithm hash);
size_t DigestBytes(HashAlgorithm hash);
inline constexpr size_t kMaxDigestBytes = 64;

// The digest of `head` followed by `tail`; `digest` has DigestBytes().
void Hash(HashAlgorithm hash, std::span<const uint8_t> head, std::span<const uint8_t> tail,
          std::span<uint8_t> digest);

// PBKDF2 with HMAC (RFC 8018) fills `key`. Takes as long as `iterations`, which is not 0, says.
// INTERNAL when the library cannot.
absl::Status DeriveKey(HashAlgorithm hash, std::span<const uint8_t> passphrase,
                       std::span<const uint8_t> salt, uint32_t iterations, std::span<uint8_t> key);

// Whether two strings of bytes are equal, in a time that does not tell where they differ.
bool SameBytes(std::span<const uint8_t> a, std::span<const uint8_t> b);

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_HASH_H_
