// "--object secret,id=NAME,...": a passphrase for the images of a command line.

#ifndef VIREO_STORAGE_IMG_SECRET_OBJECT_H_
#define VIREO_STORAGE_IMG_SECRET_OBJECT_H_

#include <string>

#include "absl/status/status.h"
#include "base/opener.h"
#include "storage/crypto/secret_store.h"

namespace vireo::img {

// Adds what the text of one --object defines to `secrets`. Kinds of objects other than secrets are
// refused by name. INVALID_ARGUMENT in qemu-img's words.
absl::Status AddObject(Opener& opener, const std::string& text, SecretStore* secrets);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_SECRET_OBJECT_H_
