// What is beneath an image: what the options of its node say and, where they are silent, what its
// header says.

#ifndef VIREO_STORAGE_BACKING_OPTIONS_H_
#define VIREO_STORAGE_BACKING_OPTIONS_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "storage/driver_options.h"
#include "storage/qcow2/header.h"

namespace vireo {

// What the options of an image say about its backing file.
struct BackingOptions {
  bool none = false;                     // There is to be none.
  std::optional<std::string> node_name;  // Of a node that exists already: there are none such.
  DriverOptions options;
};

BackingOptions TakeBacking(DriverOptions& options);

// The options of the node that is the backing file of the image with that header, which is at
// `image_path`; nothing if it has none. NOT_FOUND for the name of a node; INVALID_ARGUMENT if
// nobody states the format, which is not guessed; others as BackingFilePath() (open_image.h).
absl::StatusOr<std::optional<DriverOptions>> CompleteBacking(BackingOptions backing,
                                                             const qcow2::Header& header,
                                                             const std::string& image_path);

}  // namespace vireo

#endif  // VIREO_STORAGE_BACKING_OPTIONS_H_
