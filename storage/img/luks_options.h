// The options "encrypt.*" of a new image.

#ifndef VIREO_STORAGE_IMG_LUKS_OPTIONS_H_
#define VIREO_STORAGE_IMG_LUKS_OPTIONS_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/secret_store.h"

namespace vireo::img {

struct NewEncryption {
  crypto::LuksOptions luks;
  std::shared_ptr<const Secret> passphrase;
};

// `get` answers an option as given, or nothing. Nothing when the image is not to be encrypted.
// INVALID_ARGUMENT in qemu-img's words; UNIMPLEMENTED, by name, for what is beyond us.
absl::StatusOr<std::optional<NewEncryption>> EncryptionOf(
    const std::function<std::optional<std::string>(const char*)>& get, const SecretStore& secrets);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_LUKS_OPTIONS_H_
