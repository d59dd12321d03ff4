#include "storage/byte_disk.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kBounceBytes = 256 << 10;

}  // namespace

// From its Wait() to its end a change stands in `disk`'s list. The range is not empty.
class ByteDisk::Turn {
 public:
  Turn(ByteDisk& disk, uint64_t offset, uint64_t length) : disk_(disk) {
    change_ = disk.changes_.emplace(disk.changes_.end());
    change_->first = offset / disk.block_;
    change_->last = (offset + length - 1) / disk.block_;
    change_->parts = !disk.Whole(offset, length);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    disk_.changes_.erase(change_);
    for (auto at = disk_.changes_.begin(); at != disk_.changes_.end(); ++at) {
      if (!at->waits || !disk_.MayGo(at)) continue;
      at->waits = false;
      at->go.Set();
    }
  }

  Task<void> Wait() {
    if (disk_.MayGo(change_)) co_return;
    change_->waits = true;
    co_await change_->go.Wait();
  }

 private:
  ByteDisk& disk_;
  std::list<Change>::iterator change_;
};

bool ByteDisk::MayGo(std::list<Change>::const_iterator change) const {
  for (auto at = changes_.begin(); at != change; ++at) {
    const bool meet = at->first <= change->last && change->first <= at->last;
    if (meet && (at->parts || change->parts)) return false;
  }
  return true;
}

absl::Status ByteDisk::Check(uint64_t offset, uint64_t length) const {
  if (offset <= size() && length <= size() - offset) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrFormat("%d bytes at offset %d of a disk of %d bytes", length, offset, size()));
}

bool ByteDisk::Whole(uint64_t offset, uint64_t length) const {
  return IsAligned<uint64_t>(offset, block_) && IsAligned<uint64_t>(length, block_);
}

Task<absl::Status> ByteDisk::Read(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  CO_RETURN_IF_ERROR(Check(offset, length));
  if (Whole(offset, length)) {
    const absl::Status status = co_await disk_.Read(offset, dst);
    co_return status;
  }
  const uint64_t first = AlignDown<uint64_t>(offset, block_);
  const uint64_t last = AlignUp<uint64_t>(offset + length, block_);
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const std::span<uint8_t> piece =
        buffer.bytes().first(std::min<uint64_t>(buffer.size(), last - at));
    const iovec part = ToIoVec(piece);
    CO_RETURN_IF_ERROR(co_await disk_.Read(at, IoVecs(&part, 1)));
    const uint64_t skip = at < offset ? offset - at : 0;
    done += CopyToIoVecs(piece.subspan(skip), dst, done);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ByteDisk::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  const uint64_t length = TotalSize(src);
  CO_RETURN_IF_ERROR(Check(offset, length));
  if (length == 0) {
    const absl::Status status =
        co_await disk_.Write(AlignDown<uint64_t>(offset, block_), src, flags);
    co_return status;
  }
  const uint64_t first = AlignDown<uint64_t>(offset, block_);
  const uint64_t last = AlignUp<uint64_t>(offset + length, block_);
  // Whole blocks wait too: a part of one that is being written back must not undo them.
  Turn turn(*this, offset, length);
  co_await turn.Wait();
  if (Whole(offset, length)) {
    const absl::Status status = co_await disk_.Write(offset, src, flags);
    co_return status;
  }
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const uint64_t stop = std::min<uint64_t>(at + buffer.size(), last);
    const std::span<uint8_t> piece = buffer.bytes().first(stop - at);
    const iovec part = ToIoVec(piece);
    const uint64_t skip = at < offset ? offset - at : 0;
    const uint64_t used = std::min(offset + length, stop) - (at + skip);
    if (used != piece.size()) CO_RETURN_IF_ERROR(co_await disk_.Read(at, IoVecs(&part, 1)));
    done += CopyFromIoVecs(src, piece.subspan(skip, used), done);
    CO_RETURN_IF_ERROR(co_await disk_.Write(at, IoVecs(&part, 1), flags));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ByteDisk::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  CO_RETURN_IF_ERROR(Check(offset, length));
  const uint64_t first = AlignUp<uint64_t>(offset, block_);
  const uint64_t last = AlignDown<uint64_t>(offset + length, block_);
  if (first < last) {
    Turn turn(*this, first, last - first);
    co_await turn.Wait();
    CO_RETURN_IF_ERROR(co_await disk_.WriteZeroes(first, last - first, flags));
  }
  // The edges, each less than a block.
  BufferPool::Buffer zeros = buffers_.Get(block_);
  std::fill(zeros.bytes().begin(), zeros.bytes().end(), 0);
  const uint64_t head = std::min(first, offset + length) - offset;
  if (head != 0) {
    const iovec part = ToIoVec(zeros.bytes().first(head));
    CO_RETURN_IF_ERROR(co_await Write(offset, IoVecs(&part, 1), WriteFlags{}));
  }
  const uint64_t tail = offset + length > std::max(last, first) ? offset + length - last : 0;
  if (tail != 0) {
    const iovec part = ToIoVec(zeros.bytes().first(tail));
    CO_RETURN_IF_ERROR(co_await Write(last, IoVecs(&part, 1), WriteFlags{}));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ByteDisk::Discard(uint64_t offset, uint64_t length) {
  CO_RETURN_IF_ERROR(Check(offset, length));
  const uint64_t first = AlignUp<uint64_t>(offset, block_);
  const uint64_t last = AlignDown<uint64_t>(offset + length, block_);
  if (first >= last) co_return absl::OkStatus();
  Turn turn(*this, first, last - first);
  co_await turn.Wait();
  const absl::Status status = co_await disk_.Discard(first, last - first);
  co_return status;
}

}  // namespace vireo
