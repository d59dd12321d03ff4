#include "storage/backing_options.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/open_image.h"

namespace vireo {

BackingOptions TakeBacking(DriverOptions& options) {
  BackingOptions backing;
  backing.none = options.TakeNull("backing");
  backing.node_name = options.Take("backing");
  if (backing.node_name == std::string()) {
    backing.none = true;
    backing.node_name.reset();
  }
  backing.options = options.TakeBelow("backing");
  return backing;
}

absl::StatusOr<std::optional<DriverOptions>> CompleteBacking(BackingOptions backing,
                                                             const qcow2::Header& header,
                                                             const std::string& image_path) {
  if (backing.none) return std::nullopt;
  if (backing.node_name.has_value()) {
    return absl::NotFoundError(
        absl::StrFormat("Could not open backing file: Cannot find device='%s' nor node-name='%s'",
                        *backing.node_name, *backing.node_name));
  }
  DriverOptions options = std::move(backing.options);
  if (options.empty() && !header.backing_file.has_value()) return std::nullopt;
  if (header.backing_file.has_value() && !options.HasBelow("file") && !options.Has("file")) {
    ASSIGN_OR_RETURN(std::string path, BackingFilePath(image_path, *header.backing_file));
    options.Set("file.driver", "file");
    options.Set("file.filename", std::move(path));
  }
  if (!options.Has("driver")) {
    if (header.backing_format.empty()) {
      return absl::InvalidArgumentError(
          "Could not open backing file: the image does not state its format, and it is not "
          "guessed");
    }
    options.Set("driver", header.backing_format);
  }
  return options;
}

}  // namespace vireo
