#include "storage/copy_on_read.h"

#include <algorithm>

#include "base/align.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kPieceBytes = 512 << 10;

}  // namespace

uint64_t CopyOnRead::Cluster() const {
  return std::max<uint64_t>(geometry().optimal_io_bytes, geometry().block_size);
}

Task<absl::Status> CopyOnRead::Copy(uint64_t begin, uint64_t end) {
  BufferPool::Buffer buffer;
  uint64_t at = begin;
  while (at < end) {
    CO_ASSIGN_OR_RETURN(const RangeStatus range, co_await disk_->Status(at, end - at));
    // What no layer stores is copied too, as zeros: that is what QEMU does.
    if (range.depth == 0 && range.present) {
      at += range.length;
      continue;
    }
    if (buffer.size() == 0) buffer = buffers_.Get(std::min(end - begin, kPieceBytes));
    const uint64_t length = std::min<uint64_t>(range.length, buffer.size());
    const iovec part = ToIoVec(buffer.bytes().first(length));
    CO_RETURN_IF_ERROR(co_await disk_->Read(at, IoVecs(&part, 1)));
    if (IsAllZero(IoVecs(&part, 1))) {
      CO_RETURN_IF_ERROR(co_await disk_->WriteZeroes(at, length, ZeroFlags{.may_unmap = true}));
    } else {
      CO_RETURN_IF_ERROR(co_await disk_->Write(at, IoVecs(&part, 1)));
    }
    at += length;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> CopyOnRead::Read(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  const uint64_t size = geometry().size_bytes;
  if (length != 0 && offset < size && length <= size - offset) {
    const uint64_t first = offset / Cluster();
    const uint64_t last = (offset + length - 1) / Cluster();
    const RangeLock::Guard guard = co_await clusters_.Lock(first, last);
    const uint64_t end = std::min((last + 1) * Cluster(), size);
    CO_RETURN_IF_ERROR(co_await Copy(first * Cluster(), end));
  }
  const absl::Status status = co_await disk_->Read(offset, dst);
  co_return status;
}

Task<absl::Status> CopyOnRead::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  const uint64_t length = TotalSize(src);
  RangeLock::Guard guard;
  if (length != 0) {
    guard = co_await clusters_.Lock(offset / Cluster(), (offset + length - 1) / Cluster());
  }
  const absl::Status status = co_await disk_->Write(offset, src, flags);
  co_return status;
}

Task<absl::Status> CopyOnRead::WriteCompressed(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  RangeLock::Guard guard;
  if (length != 0) {
    guard = co_await clusters_.Lock(offset / Cluster(), (offset + length - 1) / Cluster());
  }
  const absl::Status status = co_await disk_->WriteCompressed(offset, src);
  co_return status;
}

Task<absl::Status> CopyOnRead::Flush() { return disk_->Flush(); }

Task<absl::Status> CopyOnRead::Discard(uint64_t offset, uint64_t length) {
  RangeLock::Guard guard;
  if (length != 0) {
    guard = co_await clusters_.Lock(offset / Cluster(), (offset + length - 1) / Cluster());
  }
  const absl::Status status = co_await disk_->Discard(offset, length);
  co_return status;
}

Task<absl::Status> CopyOnRead::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  RangeLock::Guard guard;
  if (length != 0) {
    guard = co_await clusters_.Lock(offset / Cluster(), (offset + length - 1) / Cluster());
  }
  const absl::Status status = co_await disk_->WriteZeroes(offset, length, flags);
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> CopyOnRead::Status(uint64_t offset, uint64_t length) {
  return disk_->Status(offset, length);
}

Task<absl::Status> CopyOnRead::Resize(uint64_t size_bytes) { return disk_->Resize(size_bytes); }

Task<absl::Status> CopyOnRead::Close() { return disk_->Close(); }

}  // namespace vireo
