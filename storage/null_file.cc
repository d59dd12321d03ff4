#include "storage/null_file.h"

#include <errno.h>

#include <utility>

#include "base/status.h"

namespace vireo {

NullFile::NullFile(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)) {
  traits_.growable = false;
  traits_.zero_filled = options_.read_zeroes;
}

Task<absl::Status> NullFile::Delay() {
  if (options_.latency <= absl::ZeroDuration()) co_return absl::OkStatus();
  const absl::Status status = co_await loop_.SleepFor(options_.latency);
  co_return status;
}

Task<absl::Status> NullFile::Read(uint64_t /*offset*/, IoVecs dst) {
  if (options_.read_zeroes) FillIoVecs(dst, 0);
  return Delay();
}

Task<absl::Status> NullFile::Write(uint64_t /*offset*/, IoVecs /*src*/) { return Delay(); }

Task<absl::Status> NullFile::Sync() { return Delay(); }

Task<absl::Status> NullFile::Extend(uint64_t size) {
  if (size <= options_.size_bytes) co_return absl::OkStatus();
  co_return ErrnoStatus(ENOTSUP, "Image format driver does not support resize");
}

Task<absl::Status> NullFile::Truncate(uint64_t /*size*/) {
  co_return ErrnoStatus(ENOTSUP, "Image format driver does not support resize");
}

Task<absl::Status> NullFile::WriteZeroes(uint64_t /*offset*/, uint64_t /*length*/,
                                         bool /*may_unmap*/) {
  return Delay();
}

Task<absl::Status> NullFile::Discard(uint64_t /*offset*/, uint64_t /*length*/) {
  co_return absl::OkStatus();
}

Task<absl::StatusOr<FileExtent>> NullFile::Extent(uint64_t offset) {
  co_return FileExtent{.data = !options_.read_zeroes, .length = options_.size_bytes - offset};
}

Task<absl::Status> NullFile::Close() { co_return absl::OkStatus(); }

}  // namespace vireo
