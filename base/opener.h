// The one way to open a path that somebody configured: nothing below cmd/ calls open(2) on one
// itself. Today the process opens for itself, within the directories it was allowed; later a broker
// may pass descriptors in.

#ifndef VIREO_BASE_OPENER_H_
#define VIREO_BASE_OPENER_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace vireo {

// Any thread. Every error message carries the path. Calls may block for ever on a dead file server:
// use EventLoop::OffloadBlocking() from a loop.
class Opener {
 public:
  virtual ~Opener() = default;

  // open(2) with O_CLOEXEC added. NOT_FOUND, PERMISSION_DENIED (also: outside the allowed
  // directories), ... "fd:N" and "fd=N" name the process's descriptor N: answers a duplicate of it
  // (same open file, so `flags` other than the access mode do not apply); PERMISSION_DENIED when it
  // was not opened for that access.
  virtual absl::StatusOr<UniqueFd> Open(const std::string& path, int flags, mode_t mode = 0) = 0;

  // The path without symbolic links, "." and "..": two names of one file become equal. "fd:N"
  // stays.
  virtual absl::StatusOr<std::string> Canonical(const std::string& path) = 0;
};

class DirectOpener final : public Opener {
 public:
  // Only what lies beneath one of `allowed_directories` after symbolic links; an empty list allows
  // all.
  static absl::StatusOr<DirectOpener> Create(std::vector<std::string> allowed_directories);
  // Allows all.
  DirectOpener() = default;

  absl::StatusOr<UniqueFd> Open(const std::string& path, int flags, mode_t mode = 0) override;
  absl::StatusOr<std::string> Canonical(const std::string& path) override;

 private:
  struct Directory {
    std::string path;  // Canonical, without a trailing slash ("" is the root).
    UniqueFd fd;       // O_PATH
  };

  absl::StatusOr<UniqueFd> OpenBeneath(const std::string& path, int flags, mode_t mode);

  std::vector<Directory> allowed_;
};

// N of "fd:N" or "fd=N"; nothing for any other path.
std::optional<int> DescriptorInPath(const std::string& path);

}  // namespace vireo

#endif  // VIREO_BASE_OPENER_H_
