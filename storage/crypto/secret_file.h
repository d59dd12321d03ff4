// A secret from a file, all of it, a newline at its end too.

#ifndef VIREO_STORAGE_CRYPTO_SECRET_FILE_H_
#define VIREO_STORAGE_CRYPTO_SECRET_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "base/opener.h"
#include "storage/crypto/secret.h"

namespace vireo {

inline constexpr size_t kMaxSecretBytes = 64 << 10;

// Blocks. Errors carry the path; INVALID_ARGUMENT for more than kMaxSecretBytes.
absl::StatusOr<Secret> ReadSecretFile(Opener& opener, const std::string& path);

}  // namespace vireo

#endif  // VIREO_STORAGE_CRYPTO_SECRET_FILE_H_
