// The guest data of an image with LUKS (qcow2 spec, "Data encryption"): encrypted in the clusters
// of the image or of its data file; metadata is not, and compressed clusters cannot be.

#ifndef VIREO_STORAGE_QCOW2_ENCRYPTION_H_
#define VIREO_STORAGE_QCOW2_ENCRYPTION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/secret.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

// Where `header`, which has one, says that the LUKS header is.
crypto::LuksArea LuksAreaOf(const Header& header);

// What Image::Parts wants as `data`: `data_file` with what `passphrase` opens, or `file` without a
// data file, which then outlives the answer. For an image that is not encrypted just `data_file`.
// INVALID_ARGUMENT without a passphrase for one that is; PERMISSION_DENIED with a wrong one;
// DATA_LOSS for a damaged LUKS header; UNIMPLEMENTED for a cipher that is beyond us, by name.
Task<absl::StatusOr<std::unique_ptr<File>>> OpenGuestData(EventLoop& loop, File& file,
                                                          const Header& header,
                                                          std::unique_ptr<File> data_file,
                                                          std::shared_ptr<const Secret> passphrase);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_ENCRYPTION_H_
