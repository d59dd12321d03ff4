#include "storage/backend_file.h"

#include <errno.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kBounceBytes = 256 << 10;

}  // namespace

BackendFile::BackendFile(std::unique_ptr<BlockBackend> disk, std::string name,
                         FileIdentity identity)
    : disk_(std::move(disk)), name_(std::move(name)), identity_(identity) {
  traits_.alignment = disk_->geometry().block_size;
}

absl::StatusOr<uint64_t> BackendFile::AllocatedBytes() {
  return absl::UnimplementedError(
      absl::StrFormat("%s: how much of a disk is stored is not known", name_));
}

bool BackendFile::Whole(uint64_t offset, uint64_t length) const {
  return IsAligned<uint64_t>(offset, traits_.alignment) &&
         IsAligned<uint64_t>(length, traits_.alignment);
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
  if (Whole(offset, inside)) {
    const absl::Status status = co_await disk_->Read(offset, wanted);
    co_return status;
  }
  const uint64_t first = AlignDown<uint64_t>(offset, traits_.alignment);
  const uint64_t last = AlignUp<uint64_t>(offset + inside, traits_.alignment);
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const std::span<uint8_t> piece =
        buffer.bytes().first(std::min<uint64_t>(buffer.size(), last - at));
    const iovec part = ToIoVec(piece);
    CO_RETURN_IF_ERROR(co_await disk_->Read(at, IoVecs(&part, 1)));
    const uint64_t skip = at < offset ? offset - at : 0;
    done += CopyToIoVecs(piece.subspan(skip), wanted, done);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> BackendFile::Write(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  if (length == 0) co_return absl::OkStatus();
  const std::optional<uint64_t> end = CheckedAdd(offset, length);
  if (!end.has_value()) {
    co_return absl::OutOfRangeError(
        absl::StrFormat("%s: no disk holds %d bytes at offset %d", name_, length, offset));
  }
  const uint64_t first = AlignDown<uint64_t>(offset, traits_.alignment);
  const uint64_t last = AlignUp<uint64_t>(*end, traits_.alignment);
  const RangeLock::Guard guard =
      co_await blocks_.Lock(first / traits_.alignment, last / traits_.alignment - 1);
  CO_RETURN_IF_ERROR(co_await Extend(last));
  if (Whole(offset, length)) {
    const absl::Status status = co_await disk_->Write(offset, src);
    co_return status;
  }
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const uint64_t stop = std::min<uint64_t>(at + buffer.size(), last);
    const std::span<uint8_t> piece = buffer.bytes().first(stop - at);
    const iovec part = ToIoVec(piece);
    const uint64_t skip = at < offset ? offset - at : 0;
    const uint64_t used = std::min(*end, stop) - (at + skip);
    if (used != piece.size()) CO_RETURN_IF_ERROR(co_await disk_->Read(at, IoVecs(&part, 1)));
    done += CopyFromIoVecs(src, piece.subspan(skip, used), done);
    CO_RETURN_IF_ERROR(co_await disk_->Write(at, IoVecs(&part, 1)));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> BackendFile::Sync() { return disk_->Flush(); }

Task<absl::Status> BackendFile::Extend(uint64_t size) {
  if (size <= this->size()) co_return absl::OkStatus();
  const absl::Status status = co_await disk_->Resize(AlignUp<uint64_t>(size, traits_.alignment));
  co_return status;
}

Task<absl::Status> BackendFile::Truncate(uint64_t size) {
  if (size < this->size()) {
    co_return ErrnoStatus(ENOTSUP, absl::StrFormat("%s: an open disk does not shrink", name_));
  }
  const absl::Status status = co_await Extend(size);
  co_return status;
}

Task<absl::Status> BackendFile::WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  const uint64_t first = AlignUp<uint64_t>(offset, traits_.alignment);
  const uint64_t last = AlignDown<uint64_t>(offset + length, traits_.alignment);
  if (first < last) {
    const ZeroFlags flags = {.may_unmap = may_unmap};
    CO_RETURN_IF_ERROR(co_await disk_->WriteZeroes(first, last - first, flags));
  }
  // The edges, each less than a block.
  BufferPool::Buffer zeros = buffers_.Get(traits_.alignment);
  std::fill(zeros.bytes().begin(), zeros.bytes().end(), 0);
  const uint64_t head = std::min(first, offset + length) - offset;
  if (head != 0) {
    const iovec part = ToIoVec(zeros.bytes().first(head));
    CO_RETURN_IF_ERROR(co_await Write(offset, IoVecs(&part, 1)));
  }
  const uint64_t tail = offset + length > std::max(last, first) ? offset + length - last : 0;
  if (tail != 0) {
    const iovec part = ToIoVec(zeros.bytes().first(tail));
    CO_RETURN_IF_ERROR(co_await Write(last, IoVecs(&part, 1)));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> BackendFile::Discard(uint64_t offset, uint64_t length) {
  const uint64_t first = AlignUp<uint64_t>(offset, traits_.alignment);
  const uint64_t last = AlignDown<uint64_t>(offset + length, traits_.alignment);
  if (first >= last) co_return absl::OkStatus();
  const absl::Status status = co_await disk_->Discard(first, last - first);
  co_return status;
}

Task<absl::StatusOr<FileExtent>> BackendFile::Extent(uint64_t offset) {
  const uint64_t first = AlignDown<uint64_t>(offset, traits_.alignment);
  if (first >= size()) co_return FileExtent{.data = false, .length = 0};
  CO_ASSIGN_OR_RETURN(const RangeStatus range, co_await disk_->Status(first, size() - first));
  co_return FileExtent{.data = range.kind == RangeKind::kData,
                       .length = range.length - (offset - first)};
}

Task<absl::Status> BackendFile::Close() { return disk_->Close(); }

}  // namespace vireo
