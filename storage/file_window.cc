#include "storage/file_window.h"

#include <errno.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo {

absl::StatusOr<std::unique_ptr<File>> FileWindow::Open(std::unique_ptr<File> file, uint64_t offset,
                                                       std::optional<uint64_t> size) {
  if (offset == 0 && !size.has_value()) return file;
  const uint64_t whole = file->size();
  if (offset > whole) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "Offset (%d) cannot be greater than size of the containing file (%d)", offset, whole));
  }
  if (size.has_value() && *size > whole - offset) {
    return absl::InvalidArgumentError(
        absl::StrFormat("The sum of offset (%d) and size (%d) has to be smaller or equal to the "
                        " actual size of the containing file (%d)",
                        offset, *size, whole));
  }
  if (size.has_value() && !IsAligned<uint64_t>(*size, 512)) {
    return absl::InvalidArgumentError("Specified size is not multiple of 512");
  }
  return std::unique_ptr<File>(new FileWindow(std::move(file), offset, size));
}

FileWindow::FileWindow(std::unique_ptr<File> file, uint64_t offset, std::optional<uint64_t> size)
    : FileDecorator(std::move(file)), offset_(offset), size_(size), traits_(this->file().traits()) {
  if (size_.has_value()) traits_.growable = false;
}

uint64_t FileWindow::size() const {
  const uint64_t whole = file().size();
  const uint64_t rest = whole > offset_ ? whole - offset_ : 0;
  return size_.value_or(rest);
}

absl::Status FileWindow::Check(uint64_t offset, uint64_t length) const {
  const std::optional<uint64_t> end = CheckedAdd(offset, length);
  const uint64_t most =
      size_.value_or(static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - offset_);
  if (end.has_value() && *end <= most) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrFormat("%s: %d bytes at offset %d of a window of %d bytes",
                                               name(), length, offset, size()));
}

Task<absl::Status> FileWindow::Read(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  const uint64_t inside = std::min(length, size() > offset ? size() - offset : 0);
  if (inside < length) {  // What lies past the end reads as zeros, not as the file's next bytes.
    const IoVecList past = Slice(dst, inside, length - inside);
    FillIoVecs(past, 0);
  }
  if (inside == 0) co_return absl::OkStatus();
  const IoVecList part = Slice(dst, 0, inside);
  const absl::Status status = co_await file().Read(offset_ + offset, part);
  co_return status;
}

Task<absl::Status> FileWindow::Write(uint64_t offset, IoVecs src) {
  CO_RETURN_IF_ERROR(Check(offset, TotalSize(src)));
  const absl::Status status = co_await file().Write(offset_ + offset, src);
  co_return status;
}

Task<absl::Status> FileWindow::Extend(uint64_t size) {
  CO_RETURN_IF_ERROR(Check(size, 0));
  const absl::Status status = co_await file().Extend(offset_ + size);
  co_return status;
}

Task<absl::Status> FileWindow::Truncate(uint64_t size) {
  if (size_.has_value()) {
    co_return ErrnoStatus(ENOTSUP, "Cannot resize fixed-size raw disks");
  }
  CO_RETURN_IF_ERROR(Check(size, 0));
  const absl::Status status = co_await file().Truncate(offset_ + size);
  co_return status;
}

Task<absl::Status> FileWindow::WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  CO_RETURN_IF_ERROR(Check(offset, length));
  const absl::Status status = co_await file().WriteZeroes(offset_ + offset, length, may_unmap);
  co_return status;
}

Task<absl::Status> FileWindow::Discard(uint64_t offset, uint64_t length) {
  CO_RETURN_IF_ERROR(Check(offset, length));
  const absl::Status status = co_await file().Discard(offset_ + offset, length);
  co_return status;
}

Task<absl::StatusOr<FileExtent>> FileWindow::Extent(uint64_t offset) {
  CO_RETURN_IF_ERROR(Check(offset, 0));
  CO_ASSIGN_OR_RETURN(FileExtent extent, co_await file().Extent(offset_ + offset));
  extent.length = std::min(extent.length, size() - offset);
  co_return extent;
}

}  // namespace vireo
