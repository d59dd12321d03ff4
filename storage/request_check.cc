#include "storage/request_check.h"

#include "absl/strings/str_format.h"
#include "base/align.h"

namespace vireo {

absl::Status CheckRequest(absl::string_view name, const Geometry& geometry, uint64_t offset,
                          uint64_t length) {
  if (offset > geometry.size_bytes || length > geometry.size_bytes - offset) {
    return absl::OutOfRangeError(absl::StrFormat("%s: %d bytes at offset %d of a disk of %d bytes",
                                                 name, length, offset, geometry.size_bytes));
  }
  if (!IsAligned<uint64_t>(offset, geometry.block_size) ||
      !IsAligned<uint64_t>(length, geometry.block_size)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes at offset %d are not whole blocks of %d bytes", name, length,
                        offset, geometry.block_size));
  }
  return absl::OkStatus();
}

absl::Status CheckChange(absl::string_view name, const Geometry& geometry, uint64_t offset,
                         uint64_t length) {
  if (geometry.read_only) {
    return absl::FailedPreconditionError(absl::StrFormat("%s: the disk is read-only", name));
  }
  return CheckRequest(name, geometry, offset, length);
}

}  // namespace vireo
