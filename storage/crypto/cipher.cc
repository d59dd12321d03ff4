#include "storage/crypto/cipher.h"

#include <gcrypt.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/crypto/library.h"
#include "storage/crypto/secret.h"

namespace vireo::crypto {
namespace {

constexpr size_t kMaxBlockBytes = 16;

struct CipherFacts {
  CipherFamily family;
  const char* family_name;
  uint32_t key_bits;
  int library_id;  // 0: known to others, but not to the library.
  size_t block_bytes;
};
constexpr std::array<CipherFacts, 10> kCiphers = {{
    {CipherFamily::kAes, "aes", 128, GCRY_CIPHER_AES128, 16},
    {CipherFamily::kAes, "aes", 192, GCRY_CIPHER_AES192, 16},
    {CipherFamily::kAes, "aes", 256, GCRY_CIPHER_AES256, 16},
    {CipherFamily::kCast5, "cast5", 128, GCRY_CIPHER_CAST5, 8},
    {CipherFamily::kSerpent, "serpent", 128, GCRY_CIPHER_SERPENT128, 16},
    {CipherFamily::kSerpent, "serpent", 192, GCRY_CIPHER_SERPENT192, 16},
    {CipherFamily::kSerpent, "serpent", 256, GCRY_CIPHER_SERPENT256, 16},
    {CipherFamily::kTwofish, "twofish", 128, GCRY_CIPHER_TWOFISH128, 16},
    {CipherFamily::kTwofish, "twofish", 192, 0, 16},
    {CipherFamily::kTwofish, "twofish", 256, GCRY_CIPHER_TWOFISH, 16},
}};

template <typename T>
struct Named {
  T value;
  const char* name;
};
struct ModeFacts {
  CipherMode mode;
  const char* name;
  int library_id;
};
constexpr std::array<ModeFacts, 4> kModes = {{{CipherMode::kXts, "xts", GCRY_CIPHER_MODE_XTS},
                                              {CipherMode::kCbc, "cbc", GCRY_CIPHER_MODE_CBC},
                                              {CipherMode::kEcb, "ecb", GCRY_CIPHER_MODE_ECB},
                                              {CipherMode::kCtr, "ctr", GCRY_CIPHER_MODE_CTR}}};
constexpr std::array<Named<IvGenerator>, 3> kIvGenerators = {{{IvGenerator::kPlain, "plain"},
                                                              {IvGenerator::kPlain64, "plain64"},
                                                              {IvGenerator::kEssiv, "essiv"}}};

const CipherFacts* FindCipher(CipherFamily family, uint32_t key_bits) {
  for (const CipherFacts& facts : kCiphers) {
    if (facts.family == family && facts.key_bits == key_bits) return &facts;
  }
  return nullptr;
}

const ModeFacts& FactsOf(CipherMode mode) {
  for (const ModeFacts& facts : kModes) {
    if (facts.mode == mode) return facts;
  }
  CheckFailed(__FILE__, __LINE__, "a mode of the table");
}

const char* FamilyName(CipherFamily family) {
  for (const CipherFacts& facts : kCiphers) {
    if (facts.family == family) return facts.family_name;
  }
  CheckFailed(__FILE__, __LINE__, "a cipher of the table");
}

// The cipher that makes vectors: of the same family, with a key as long as the digest.
const CipherFacts* EssivCipher(const CipherSpec& spec) {
  return FindCipher(spec.family, static_cast<uint32_t>(DigestBytes(*spec.iv_hash) * 8));
}

absl::Status LibraryError(const CipherSpec& spec, gcry_error_t error) {
  return absl::InternalError(absl::StrFormat("cipher %s-%s: %s", CipherName(spec),
                                             LuksCipherMode(spec), gcry_strerror(error)));
}

}  // namespace

absl::StatusOr<CipherSpec> CipherFromName(absl::string_view name) {
  for (const CipherFacts& facts : kCiphers) {
    if (name == absl::StrCat(facts.family_name, "-", facts.key_bits)) {
      return CipherSpec{.family = facts.family, .key_bits = facts.key_bits};
    }
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("Parameter 'cipher-alg' does not accept value '%s'", name));
}

std::optional<CipherMode> CipherModeFromName(absl::string_view name) {
  for (const ModeFacts& facts : kModes) {
    if (name == facts.name) return facts.mode;
  }
  return std::nullopt;
}

std::optional<IvGenerator> IvGeneratorFromName(absl::string_view name) {
  for (const Named<IvGenerator>& generator : kIvGenerators) {
    if (name == generator.name) return generator.value;
  }
  return std::nullopt;
}

std::string CipherName(const CipherSpec& spec) {
  return absl::StrCat(FamilyName(spec.family), "-", spec.key_bits);
}

const char* CipherModeName(CipherMode mode) { return FactsOf(mode).name; }

const char* IvGeneratorName(IvGenerator iv) {
  for (const Named<IvGenerator>& generator : kIvGenerators) {
    if (generator.value == iv) return generator.name;
  }
  CheckFailed(__FILE__, __LINE__, "a generator of the table");
}

absl::StatusOr<CipherSpec> CipherFromLuks(absl::string_view name, absl::string_view mode,
                                          size_t key_bytes) {
  const absl::Status unknown = absl::UnimplementedError(absl::StrFormat(
      "the cipher \"%s\" in the mode \"%s\" with a key of %d bytes is not supported",
      absl::CHexEscape(name), absl::CHexEscape(mode), key_bytes));
  CipherSpec spec;
  const size_t dash = mode.find('-');
  const std::optional<CipherMode> block_mode = CipherModeFromName(mode.substr(0, dash));
  if (!block_mode.has_value() || key_bytes > kMaxKeyBytes) return unknown;
  spec.mode = *block_mode;
  if (dash != absl::string_view::npos) {
    absl::string_view generator = mode.substr(dash + 1);
    const size_t colon = generator.find(':');
    if (colon != absl::string_view::npos) {
      spec.iv_hash = HashFromName(generator.substr(colon + 1));
      if (!spec.iv_hash.has_value()) return unknown;
      generator = generator.substr(0, colon);
    }
    const std::optional<IvGenerator> iv = IvGeneratorFromName(generator);
    if (!iv.has_value()) return unknown;
    spec.iv = *iv;
  } else if (spec.mode != CipherMode::kEcb) {  // It alone needs no vectors.
    return unknown;
  }
  for (const CipherFacts& facts : kCiphers) {
    spec.family = facts.family;
    spec.key_bits = facts.key_bits;
    if (name == facts.family_name && key_bytes == spec.key_bytes()) {
      RETURN_IF_ERROR(ValidateCipher(spec));
      return spec;
    }
  }
  return unknown;
}

std::string LuksCipherName(const CipherSpec& spec) { return FamilyName(spec.family); }

std::string LuksCipherMode(const CipherSpec& spec) {
  std::string mode = absl::StrCat(CipherModeName(spec.mode), "-", IvGeneratorName(spec.iv));
  if (spec.iv_hash.has_value()) absl::StrAppend(&mode, ":", HashName(*spec.iv_hash));
  return mode;
}

absl::Status ValidateCipher(const CipherSpec& spec) {
  const CipherFacts* const facts = FindCipher(spec.family, spec.key_bits);
  if (facts == nullptr || facts->library_id == 0) {
    return absl::UnimplementedError(
        absl::StrFormat("the cipher %s is not supported", CipherName(spec)));
  }
  if (spec.mode == CipherMode::kXts && facts->block_bytes != 16) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the mode xts needs a cipher with blocks of 16 bytes, not %s", CipherName(spec)));
  }
  if (spec.iv_hash.has_value() != (spec.iv == IvGenerator::kEssiv)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the IV generator %s %s", IvGeneratorName(spec.iv),
                        spec.iv_hash.has_value() ? "takes no hash" : "needs a hash"));
  }
  if (spec.iv == IvGenerator::kEssiv) {
    const CipherFacts* const essiv = EssivCipher(spec);
    if (essiv == nullptr || essiv->library_id == 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "essiv with %s needs a %s key of %d bits, which there is not", HashName(*spec.iv_hash),
          FamilyName(spec.family), DigestBytes(*spec.iv_hash) * 8));
    }
  }
  return absl::OkStatus();
}

struct SectorCipher::Handles {
  Handles() = default;
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  ~Handles() {
    gcry_cipher_close(data);  // Null is fine.
    gcry_cipher_close(essiv);
  }

  gcry_cipher_hd_t data = nullptr;
  gcry_cipher_hd_t essiv = nullptr;
  size_t block_bytes = kMaxBlockBytes;
};

SectorCipher::SectorCipher(const CipherSpec& spec, std::unique_ptr<Handles> handles)
    : spec_(spec), handles_(std::move(handles)) {}

SectorCipher::~SectorCipher() = default;

absl::StatusOr<std::unique_ptr<SectorCipher>> SectorCipher::Create(const CipherSpec& spec,
                                                                   std::span<const uint8_t> key) {
  RETURN_IF_ERROR(ValidateCipher(spec));
  VIREO_CHECK(key.size() == spec.key_bytes());
  InitialiseLibrary();
  const CipherFacts& facts = *FindCipher(spec.family, spec.key_bits);
  auto handles = std::make_unique<Handles>();
  handles->block_bytes = facts.block_bytes;
  gcry_error_t error =
      gcry_cipher_open(&handles->data, facts.library_id, FactsOf(spec.mode).library_id, 0);
  if (error == 0) error = gcry_cipher_setkey(handles->data, key.data(), key.size());
  if (error == 0 && spec.iv == IvGenerator::kEssiv) {
    Secret salt(DigestBytes(*spec.iv_hash));
    Hash(*spec.iv_hash, key, {}, salt.bytes());
    error =
        gcry_cipher_open(&handles->essiv, EssivCipher(spec)->library_id, GCRY_CIPHER_MODE_ECB, 0);
    if (error == 0) {
      error = gcry_cipher_setkey(handles->essiv, salt.bytes().data(), salt.size());
    }
  }
  if (error != 0) return LibraryError(spec, error);
  return std::unique_ptr<SectorCipher>(new SectorCipher(spec, std::move(handles)));
}

void SectorCipher::SetVector(uint64_t sector) {
  if (spec_.mode == CipherMode::kEcb) return;
  std::array<uint8_t, kMaxBlockBytes> vector = {};
  if (spec_.iv == IvGenerator::kPlain) sector &= 0xffffffff;
  const Le64 number(sector);
  std::memcpy(vector.data(), &number, sizeof(number));
  const size_t block = handles_->block_bytes;
  gcry_error_t error = 0;
  if (spec_.iv == IvGenerator::kEssiv) {
    error = gcry_cipher_encrypt(handles_->essiv, vector.data(), block, nullptr, 0);
  }
  if (error == 0) {
    error = spec_.mode == CipherMode::kCtr
                ? gcry_cipher_setctr(handles_->data, vector.data(), block)
                : gcry_cipher_setiv(handles_->data, vector.data(), block);
  }
  VIREO_CHECK(error == 0, "a cipher takes vectors of its block size");
}

void SectorCipher::Encrypt(uint64_t sector, std::span<const uint8_t> from, std::span<uint8_t> to) {
  VIREO_CHECK(from.size() == to.size() && from.size() % kSectorBytes == 0);
  for (size_t at = 0; at < from.size(); at += kSectorBytes) {
    SetVector(sector++);
    const gcry_error_t error = gcry_cipher_encrypt(handles_->data, to.data() + at, kSectorBytes,
                                                   from.data() + at, kSectorBytes);
    VIREO_CHECK(error == 0, "a sector is whole blocks of every cipher");
  }
}

void SectorCipher::Decrypt(uint64_t sector, std::span<const uint8_t> from, std::span<uint8_t> to) {
  VIREO_CHECK(from.size() == to.size() && from.size() % kSectorBytes == 0);
  for (size_t at = 0; at < from.size(); at += kSectorBytes) {
    SetVector(sector++);
    const gcry_error_t error = gcry_cipher_decrypt(handles_->data, to.data() + at, kSectorBytes,
                                                   from.data() + at, kSectorBytes);
    VIREO_CHECK(error == 0, "a sector is whole blocks of every cipher");
  }
}

}  // namespace vireo::crypto
