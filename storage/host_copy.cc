#include "storage/host_copy.h"

#include <errno.h>
#include <unistd.h>

#include <utility>

#include "base/status.h"

namespace vireo {
namespace {

absl::Status CopyNow(int from, off64_t from_offset, int to, off64_t to_offset, uint64_t length) {
  while (length > 0) {
    const ssize_t copied = ::copy_file_range(from, &from_offset, to, &to_offset, length, 0);
    if (copied < 0 && errno == EINTR) continue;
    if (copied < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO)) {
      return ErrnoStatus(errno, "copy_file_range");
    }
    // Other file systems, files that end early (as those of /proc seem to), old kernels.
    if (copied <= 0) return absl::UnimplementedError("the host does not copy between these files");
    length -= static_cast<uint64_t>(copied);
  }
  return absl::OkStatus();
}

}  // namespace

Task<absl::Status> CopyInHost(EventLoop& loop, HostCopy copy) {
  const int from = copy.from->descriptor();
  const int to = copy.to->descriptor();
  if (from < 0 || to < 0) {
    co_return absl::UnimplementedError("the host does not know these files");
  }
  auto copy_now = [from, to, copy]() {
    return CopyNow(from, static_cast<off64_t>(copy.from_offset), to,
                   static_cast<off64_t>(copy.to_offset), copy.length);
  };
  auto copying = loop.Offload(std::move(copy_now));
  const absl::Status status = co_await std::move(copying);
  co_return status;
}

}  // namespace vireo
