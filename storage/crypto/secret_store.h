// Secrets by the names that a command line gives them: "--object secret,id=NAME,..." defines one,
// "encrypt.key-secret=NAME" uses it.

#ifndef VIREO_STORAGE_CRYPTO_SECRET_STORE_H_
#define VIREO_STORAGE_CRYPTO_SECRET_STORE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "storage/crypto/secret.h"

namespace vireo {

class SecretStore {
 public:
  // INVALID_ARGUMENT when the name is taken.
  absl::Status Add(const std::string& id, Secret secret) {
    if (!secrets_.try_emplace(id, std::make_shared<const Secret>(std::move(secret))).second) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "attempt to add duplicate property '%s' to object (type 'container')", id));
    }
    return absl::OkStatus();
  }

  // NOT_FOUND, by name.
  absl::StatusOr<std::shared_ptr<const Secret>> Find(const std::string& id) const {
    const auto found = secrets_.find(id);
    if (found == secrets_.end()) {
      return absl::NotFoundError(absl::StrFormat("No secret with id '%s'", id));
    }
    return found->second;
  }

 private:
  std::map<std::string, std::shared_ptr<const Secret>> secrets_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_CRYPTO_SECRET_STORE_H_
