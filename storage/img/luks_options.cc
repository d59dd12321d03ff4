#include "storage/img/luks_options.h"

#include <array>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/img/arguments.h"

namespace vireo::img {
namespace {

constexpr std::array<const char*, 7> kDetails = {
    "encrypt.key-secret", "encrypt.cipher-alg",     "encrypt.cipher-mode", "encrypt.ivgen-alg",
    "encrypt.hash-alg",   "encrypt.ivgen-hash-alg", "encrypt.iter-time"};

absl::Status BadValue(const char* name, const std::string& value) {
  return absl::InvalidArgumentError(
      absl::StrFormat("Parameter '%s' does not accept value '%s'", name, value));
}

absl::StatusOr<crypto::HashAlgorithm> HashOf(const char* name, const std::string& value) {
  const std::optional<crypto::HashAlgorithm> hash = crypto::HashFromName(value);
  if (!hash.has_value()) return BadValue(name, value);
  return *hash;
}

}  // namespace

absl::StatusOr<std::optional<NewEncryption>> EncryptionOf(
    const std::function<std::optional<std::string>(const char*)>& get, const SecretStore& secrets) {
  const std::optional<std::string> format = get("encrypt.format");
  const std::optional<std::string> legacy = get("encryption");
  if (format.has_value() && legacy.has_value()) {
    return absl::InvalidArgumentError(
        "'encrypt.format' and its alias 'encryption' can't be used at the same time");
  }
  if (legacy.has_value()) {
    ASSIGN_OR_RETURN(const bool on, ParseSwitch("encryption", *legacy));
    if (on) {
      return absl::UnimplementedError(
          "encryption=on, the broken AES of old, is not supported: use encrypt.format=luks");
    }
  }
  if (!format.has_value()) {
    for (const char* name : kDetails) {
      if (get(name).has_value()) {
        return absl::InvalidArgumentError("Parameter 'encrypt.format' is missing");
      }
    }
    return std::nullopt;
  }
  if (*format == "aes") {
    return absl::UnimplementedError(
        "encrypt.format=aes, the broken AES of old, is not supported: use encrypt.format=luks");
  }
  if (*format != "luks") return BadValue("format", *format);

  NewEncryption wanted;
  crypto::CipherSpec& cipher = wanted.luks.cipher;
  if (const auto name = get("encrypt.cipher-alg")) {
    ASSIGN_OR_RETURN(cipher, crypto::CipherFromName(*name));
  }
  if (const auto name = get("encrypt.cipher-mode")) {
    const std::optional<crypto::CipherMode> mode = crypto::CipherModeFromName(*name);
    if (!mode.has_value()) return BadValue("cipher-mode", *name);
    cipher.mode = *mode;
  }
  if (const auto name = get("encrypt.ivgen-alg")) {
    const std::optional<crypto::IvGenerator> iv = crypto::IvGeneratorFromName(*name);
    if (!iv.has_value()) return BadValue("ivgen-alg", *name);
    cipher.iv = *iv;
  }
  if (const auto name = get("encrypt.hash-alg")) {
    ASSIGN_OR_RETURN(wanted.luks.hash, HashOf("hash-alg", *name));
  }
  crypto::HashAlgorithm iv_hash = crypto::HashAlgorithm::kSha256;
  if (const auto name = get("encrypt.ivgen-hash-alg")) {
    ASSIGN_OR_RETURN(iv_hash, HashOf("ivgen-hash-alg", *name));
  }
  if (cipher.iv == crypto::IvGenerator::kEssiv) cipher.iv_hash = iv_hash;
  if (const auto text = get("encrypt.iter-time")) {
    if (!absl::SimpleAtoi(*text, &wanted.luks.iteration_ms)) {
      return absl::InvalidArgumentError("Parameter 'iter-time' expects a number of milliseconds");
    }
  }
  const std::optional<std::string> secret = get("encrypt.key-secret");
  if (!secret.has_value()) {
    return absl::InvalidArgumentError("Parameter 'encrypt.key-secret' is required for cipher");
  }
  ASSIGN_OR_RETURN(wanted.passphrase, secrets.Find(*secret));
  RETURN_IF_ERROR(crypto::ValidateLuksOptions(wanted.luks));
  return wanted;
}

}  // namespace vireo::img
