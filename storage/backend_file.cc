#include "storage/backend_file.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo {

BackendFile::BackendFile(std::unique_ptr<BlockBackend> disk, std::string name,
                         FileIdentity identity)
    : disk_(std::move(disk)), bytes_(*disk_), name_(std::move(name)), identity_(identity) {
  traits_.alignment = disk_->geometry().block_size;
  size_ = disk_->geometry().size_bytes;
}

absl::StatusOr<uint64_t> BackendFile::AllocatedBytes() {
  return absl::UnimplementedError(
      absl::StrFormat("%s: how much of a disk is stored is not known", name_));
}

Task<absl::Status> BackendFile::Read(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  const uint64_t inside = std::min(length, size() > offset ? size() - offset : 0);
  if (inside < length) {
    const IoVecList past = Slice(dst, inside, length - inside);
    FillIoVecs(past, 0);
  }
  if (inside == 0) co_return absl::OkStatus();
  const IoVecList wanted = Slice(dst, 0, inside);
  const absl::Status status = co_await bytes_.Read(offset, wanted);
  co_return status;
}

Task<absl::Status> BackendFile::Write(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  if (length == 0) co_return absl::OkStatus();
  const std::optional<uint64_t> end = CheckedAdd(offset, length);
  if (!end.has_value()) {
    co_return absl::OutOfRangeError(
        absl::StrFormat("%s: no disk holds %d bytes at offset %d", name_, length, offset));
  }
  CO_RETURN_IF_ERROR(co_await Extend(*end));
  const absl::Status status = co_await bytes_.Write(offset, src, WriteFlags{});
  co_return status;
}

Task<absl::Status> BackendFile::Sync() { return disk_->Flush(); }

Task<absl::Status> BackendFile::Extend(uint64_t size) {
  if (size > disk_->geometry().size_bytes) {
    CO_RETURN_IF_ERROR(co_await disk_->Resize(AlignUp<uint64_t>(size, traits_.alignment)));
  }
  size_ = std::max(size_, size);
  co_return absl::OkStatus();
}

Task<absl::Status> BackendFile::Truncate(uint64_t size) {
  if (size < size_) {
    CO_RETURN_IF_ERROR(
        co_await bytes_.WriteZeroes(size, size_ - size, ZeroFlags{.may_unmap = true}));
    size_ = size;
    co_return absl::OkStatus();
  }
  const absl::Status status = co_await Extend(size);
  co_return status;
}

Task<absl::Status> BackendFile::WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  return bytes_.WriteZeroes(offset, length, ZeroFlags{.may_unmap = may_unmap});
}

Task<absl::Status> BackendFile::Discard(uint64_t offset, uint64_t length) {
  return bytes_.Discard(offset, length);
}

Task<absl::StatusOr<FileExtent>> BackendFile::Extent(uint64_t offset) {
  const uint64_t first = AlignDown<uint64_t>(offset, traits_.alignment);
  const uint64_t end = AlignUp<uint64_t>(size_, traits_.alignment);
  if (offset >= size_) co_return FileExtent{.data = false, .length = 0};
  CO_ASSIGN_OR_RETURN(const RangeStatus range, co_await disk_->Status(first, end - first));
  co_return FileExtent{.data = range.kind == RangeKind::kData,
                       .length = std::min(range.length - (offset - first), size_ - offset)};
}

Task<absl::Status> BackendFile::Close() { return disk_->Close(); }

}  // namespace vireo
