// May this stranger's image become a template? Each rule that it breaks, by name and with the
// reason.
//
// The image is hostile: it is looked at in its own file and nothing that it names is opened.

#ifndef VIREO_STORAGE_IMG_UPLOAD_RULES_H_
#define VIREO_STORAGE_IMG_UPLOAD_RULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/open_image.h"

namespace vireo::img {

struct UploadLimits {
  ImageFormat format = ImageFormat::kQcow2;  // As the uploader stated it; not guessed.
  uint64_t max_virtual_bytes = uint64_t{2} << 40;
  uint64_t max_ratio = 100;  // What the clusters hold, to the bytes of the file.
  bool allow_snapshots = false;
};

struct BrokenRule {
  std::string rule;    // "format", "header", "backing-file", ...
  std::string reason;  // For people.
};

struct UploadVerdict {
  uint64_t virtual_bytes = 0;  // 0 = unknown.
  std::vector<BrokenRule> broken;

  bool accepted() const { return broken.empty(); }
};

// Not OK when it cannot be told: the file cannot be read.
Task<absl::StatusOr<UploadVerdict>> JudgeUpload(File& file, UploadLimits limits);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_UPLOAD_RULES_H_
