// From a path and its stated format to a disk: the chain of an image and its backing files.
//
// The format of every file is stated, by the caller or by the image above it; none is guessed from
// bytes that a guest could have written. Names found in an image are local paths, relative to the
// directory of that image; anything with a scheme ("nbd:", "json:") is refused.

#ifndef VIREO_STORAGE_OPEN_IMAGE_H_
#define VIREO_STORAGE_OPEN_IMAGE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/block_backend.h"
#include "storage/crypto/secret.h"
#include "storage/file.h"
#include "storage/qcow2/cache_budget.h"

namespace vireo {

enum class ImageFormat { kRaw, kQcow2 };

// "raw" or "qcow2".
std::optional<ImageFormat> ImageFormatFromName(absl::string_view name);
const char* ImageFormatName(ImageFormat format);

struct ImageOptions {
  std::string path;
  ImageFormat format = ImageFormat::kRaw;
  bool read_only = false;
  bool direct = false;      // O_DIRECT, for the whole chain.
  bool no_flush = false;    // Nothing is made durable.
  bool no_backing = false;  // The image alone: what its backing file holds reads as zeros.
  bool lock = true;         // False: others are neither refused nor respected.
  // The data file of the top image, if it has one (qcow2 spec, "external data file").
  std::optional<std::string> data_file;
  // Data files that images name may be opened. Otherwise such an image is refused.
  bool named_data_files = false;
  // Of a backing file whose image does not state it; without it such an image is refused.
  std::optional<ImageFormat> backing_format;
  // Opens every encrypted image of the chain; INVALID_ARGUMENT when the first is not encrypted.
  std::shared_ptr<const Secret> passphrase;
  // For the metadata of all layers together, at most.
  uint64_t cache_bytes = qcow2::kDefaultCacheBytes;
};

// All files are opened off the loop. INVALID_ARGUMENT: not of the stated format, or a backing file
// that may not be opened; NOT_FOUND, naming the file and the image that wants it; ABORTED: locked
// by another; DATA_LOSS: an image that contradicts itself, a chain that returns to itself;
// UNIMPLEMENTED: a feature that is beyond us, by name; PERMISSION_DENIED: a wrong passphrase;
// UNAUTHENTICATED: none for an encrypted image.
Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenImage(EventLoop& loop, Opener& opener,
                                                              ImageOptions options);

// Which file a path names, to find the same disk given twice. Off the loop.
Task<absl::StatusOr<FileIdentity>> IdentifyFile(EventLoop& loop, Opener& opener, std::string path);

// The path of the backing file that the image at `image_path` calls `name`. INVALID_ARGUMENT if
// that is no local path.
absl::StatusOr<std::string> BackingFilePath(absl::string_view image_path, absl::string_view name);

// The path of the data file that the image at `image_path` calls `name`. INVALID_ARGUMENT if that
// is no local path, or one that leads out of the image's directory: what somebody's image names
// must not be any file that we may open.
absl::StatusOr<std::string> DataFilePath(absl::string_view image_path, absl::string_view name);

}  // namespace vireo

#endif  // VIREO_STORAGE_OPEN_IMAGE_H_
