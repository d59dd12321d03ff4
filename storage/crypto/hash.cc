#include "storage/crypto/hash.h"

#include <gcrypt.h>

#include <array>
#include <cstring>
#include <string>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "storage/crypto/library.h"

namespace vireo::crypto {
namespace {

struct HashFacts {
  HashAlgorithm hash;
  const char* name;
  int library_id;
  size_t digest_bytes;
};
constexpr std::array<HashFacts, 7> kHashes = {{
    {HashAlgorithm::kMd5, "md5", GCRY_MD_MD5, 16},
    {HashAlgorithm::kSha1, "sha1", GCRY_MD_SHA1, 20},
    {HashAlgorithm::kSha224, "sha224", GCRY_MD_SHA224, 28},
    {HashAlgorithm::kSha256, "sha256", GCRY_MD_SHA256, 32},
    {HashAlgorithm::kSha384, "sha384", GCRY_MD_SHA384, 48},
    {HashAlgorithm::kSha512, "sha512", GCRY_MD_SHA512, 64},
    {HashAlgorithm::kRipemd160, "ripemd160", GCRY_MD_RMD160, 20},
}};

const HashFacts& FactsOf(HashAlgorithm hash) {
  for (const HashFacts& facts : kHashes) {
    if (facts.hash == hash) return facts;
  }
  CheckFailed(__FILE__, __LINE__, "a hash of the table");
}

}  // namespace

std::optional<HashAlgorithm> HashFromName(absl::string_view name) {
  for (const HashFacts& facts : kHashes) {
    if (name == facts.name) return facts.hash;
  }
  return std::nullopt;
}

const char* HashName(HashAlgorithm hash) { return FactsOf(hash).name; }

size_t DigestBytes(HashAlgorithm hash) { return FactsOf(hash).digest_bytes; }

void Hash(HashAlgorithm hash, std::span<const uint8_t> head, std::span<const uint8_t> tail,
          std::span<uint8_t> digest) {
  InitialiseLibrary();
  VIREO_CHECK(digest.size() == DigestBytes(hash));
  gcry_buffer_t parts[2] = {};
  parts[0].data = const_cast<uint8_t*>(head.data());
  parts[0].len = head.size();
  parts[1].data = const_cast<uint8_t*>(tail.data());
  parts[1].len = tail.size();
  const gcry_error_t error =
      gcry_md_hash_buffers(FactsOf(hash).library_id, 0, digest.data(), parts, 2);
  VIREO_CHECK(error == 0, "libgcrypt has every hash of the table");
}

absl::Status DeriveKey(HashAlgorithm hash, std::span<const uint8_t> passphrase,
                       std::span<const uint8_t> salt, uint32_t iterations, std::span<uint8_t> key) {
  InitialiseLibrary();
  // The library wants a pointer for a passphrase of no bytes too.
  const void* const text = passphrase.empty() ? static_cast<const void*>("") : passphrase.data();
  const gcry_error_t error =
      gcry_kdf_derive(text, passphrase.size(), GCRY_KDF_PBKDF2, FactsOf(hash).library_id,
                      salt.data(), salt.size(), iterations, key.size(), key.data());
  if (error == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat("PBKDF2 with %s and %d iterations: %s", HashName(hash),
                                             iterations, gcry_strerror(error)));
}

bool SameBytes(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  if (a.size() != b.size()) return false;
  uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == 0;
}

}  // namespace vireo::crypto
