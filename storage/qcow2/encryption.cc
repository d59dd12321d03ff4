#include "storage/qcow2/encryption.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "storage/crypto/encrypted_file.h"

namespace vireo::qcow2 {

crypto::LuksArea LuksAreaOf(const Header& header) {
  return {.offset = header.encryption->offset, .bytes = header.encryption->bytes};
}

Task<absl::StatusOr<std::unique_ptr<File>>> OpenGuestData(
    EventLoop& loop, File& file, const Header& header, std::unique_ptr<File> data_file,
    std::shared_ptr<const Secret> passphrase) {
  if (!header.encryption.has_value()) co_return data_file;
  if (passphrase == nullptr) {
    co_return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": Parameter 'encrypt.key-secret' is required for cipher"));
  }
  const crypto::LuksArea area = LuksAreaOf(header);
  CO_ASSIGN_OR_RETURN(const crypto::LuksHeader luks, co_await crypto::ReadLuksHeader(file, area));
  absl::StatusOr<Secret> key = co_await crypto::UnlockLuks(loop, file, area, luks, *passphrase);
  CO_RETURN_IF_ERROR(key.status());
  crypto::EncryptedFile::Parts parts = {.file = &file, .owned = std::move(data_file)};
  co_return crypto::EncryptedFile::Create(loop, std::move(parts), luks.cipher, *std::move(key));
}

}  // namespace vireo::qcow2
