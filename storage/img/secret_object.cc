#include "storage/img/secret_object.h"

#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/crypto/secret_file.h"
#include "storage/img/arguments.h"

namespace vireo::img {
namespace {

bool IsIdentifier(const std::string& id) {
  if (id.empty() || !absl::ascii_isalpha(id[0])) return false;
  for (const char c : id) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '.' && c != '_') return false;
  }
  return true;
}

absl::StatusOr<Secret> ReadFile(Opener& opener, const std::string& path) {
  absl::StatusOr<Secret> secret = ReadSecretFile(opener, path);
  if (const int error = StatusErrno(secret.status()); error != 0) {
    return absl::Status(secret.status().code(),
                        absl::StrFormat("Unable to read %s: Failed to open file “%s”: %s", path,
                                        path, std::strerror(error)));
  }
  return secret;
}

// Line breaks may stand in base64, as its writers put them there.
absl::StatusOr<Secret> FromBase64(std::span<const uint8_t> text) {
  Secret packed(text.size());
  size_t size = 0;
  for (const uint8_t byte : text) {
    if (!absl::ascii_isspace(byte)) packed.bytes()[size++] = byte;
  }
  std::string bytes;
  const bool valid =
      absl::Base64Unescape({reinterpret_cast<const char*>(packed.bytes().data()), size}, &bytes);
  if (!valid) return absl::InvalidArgumentError("Base64 data contains invalid characters");
  Secret secret(bytes);
  explicit_bzero(bytes.data(), bytes.size());
  return secret;
}

std::optional<std::string> Take(std::map<std::string, std::string>& values, const char* key) {
  const auto found = values.find(key);
  if (found == values.end()) return std::nullopt;
  std::string value = std::move(found->second);
  values.erase(found);
  return value;
}

}  // namespace

absl::Status AddObject(Opener& opener, const std::string& text, SecretStore* secrets) {
  if (absl::StartsWith(text, "{")) {
    return absl::UnimplementedError("--object in JSON is not supported");
  }
  // The kind may stand first, without its name.
  const size_t comma = text.find(',');
  const bool bare = text.substr(0, comma).find('=') == std::string::npos;
  ASSIGN_OR_RETURN(auto values, ParseKeyValues(bare ? absl::StrCat("qom-type=", text) : text));
  const std::optional<std::string> kind = Take(values, "qom-type");
  if (!kind.has_value()) return absl::InvalidArgumentError("Parameter 'qom-type' is missing");
  if (*kind != "secret") {
    return absl::InvalidArgumentError(
        absl::StrFormat("Parameter 'qom-type' does not accept value '%s'", *kind));
  }
  const std::optional<std::string> id = Take(values, "id");
  if (!id.has_value()) return absl::InvalidArgumentError("Parameter 'id' is missing");
  const std::optional<std::string> data = Take(values, "data");
  const std::optional<std::string> file = Take(values, "file");
  const std::string format = Take(values, "format").value_or("raw");
  if (format != "raw" && format != "base64") {
    return absl::InvalidArgumentError(
        absl::StrFormat("Parameter 'format' does not accept value '%s'", format));
  }
  if (values.contains("keyid") || values.contains("iv")) {
    return absl::UnimplementedError("secrets that another secret encrypts are not supported");
  }
  if (!values.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("Parameter '%s' is unexpected", values.begin()->first));
  }
  if (!IsIdentifier(*id)) {
    return absl::InvalidArgumentError(
        "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', "
        "'_', starting with a letter.");
  }
  if (data.has_value() && file.has_value()) {
    return absl::InvalidArgumentError("'file' and 'data' are mutually exclusive");
  }
  if (!data.has_value() && !file.has_value()) {
    return absl::InvalidArgumentError("Either 'file' or 'data' must be provided");
  }
  absl::StatusOr<Secret> secret = Secret(data.value_or(""));
  if (file.has_value()) secret = ReadFile(opener, *file);
  RETURN_IF_ERROR(secret.status());
  if (format == "base64") {
    secret = FromBase64(std::as_const(*secret).bytes());
    RETURN_IF_ERROR(secret.status());
  }
  return secrets->Add(*id, *std::move(secret));
}

}  // namespace vireo::img
