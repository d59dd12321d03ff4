#include "base/unique_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"
#include "base/status.h"

namespace vireo {

void UniqueFd::Reset(int fd) {
  VIREO_CHECK(fd < 0 || fd != fd_, "a descriptor has one owner");
  const int old = std::exchange(fd_, fd);
  if (old < 0) return;
  const int saved_errno = errno;
  // Linux has released the descriptor even when close() reports EINTR or EIO; EBADF is a double
  // close.
  const int result = ::close(old);
  VIREO_CHECK(result == 0 || errno != EBADF, "a descriptor is closed once");
  errno = saved_errno;
}

absl::StatusOr<UniqueFd> UniqueFd::Duplicate() const {
  UniqueFd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return ErrnoStatus(errno, "duplicate a descriptor");
  return copy;
}

}  // namespace vireo
