// Discarding and writing zeros.

#include <algorithm>
#include <utility>

#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {

namespace {

constexpr uint64_t kZeroPieceBytes = 1 << 20;

}  // namespace

ClusterMapping Image::Changed(const ClusterMapping& old, Change change) const {
  const bool unallocated = std::holds_alternative<Unallocated>(old);
  if (layout_.version < 3) {
    // No zero flag: only where no backing file would show through may a cluster go.
    return backing_ == nullptr && change != Change::kZero ? ClusterMapping(Unallocated{}) : old;
  }
  if (unallocated) {
    // Reads as zeros already, or (discard) is not the guest's business.
    return backing_ == nullptr || change == Change::kDiscard ? old : ClusterMapping(Zero{});
  }
  if (change == Change::kZero) {
    if (std::holds_alternative<Zero>(old)) return old;
    const auto* allocated = std::get_if<Allocated>(&old);
    if (allocated != nullptr && allocated->copied) {
      return Zero{.host_offset = allocated->host_offset, .copied = true};
    }
  }
  return Zero{};
}

Task<absl::Status> Image::ChangeClusters(uint64_t begin, uint64_t end, Change change) {
  uint64_t at = begin;
  while (at < end) {
    CO_ASSIGN_OR_RETURN(const MappedRun run, co_await map_.Lookup(at, end - at));
    if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
      const absl::Status status = co_await OnInvalid(at, *invalid);
      co_return status;
    }
    if (Changed(run.mapping, change) == run.mapping) {
      at += run.length;
      continue;
    }
    const uint64_t stop = std::min(map_.SliceEnd(at), end);
    const RangeLock::Guard guard =
        co_await clusters_.Lock(layout_.cluster_index(at), layout_.cluster_index(stop - 1));
    CO_RETURN_IF_ERROR(WriteError());
    absl::StatusOr<MetadataCache::Slice> prepared = co_await map_.PrepareSlice(at);
    if (absl::IsDataLoss(prepared.status())) co_await MarkCorrupt(prepared.status());
    CO_RETURN_IF_ERROR(prepared.status());
    MetadataCache::Slice slice = *std::move(prepared);
    for (; at < stop; at += layout_.cluster_bytes()) {
      const ClusterMapping old = map_.Get(slice, at);
      if (std::holds_alternative<Invalid>(old)) break;  // The look-up above reports it.
      const ClusterMapping changed = Changed(old, change);
      if (changed == old) continue;
      const auto* zero = std::get_if<Zero>(&changed);
      if (zero == nullptr || zero->host_offset == 0) FreeOld(old);
      map_.Set(slice, at, changed);
    }
    NoteDirty();
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Image::Discard(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  CO_RETURN_IF_ERROR(WriteError());
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  // Whole clusters only; the disk's last one counts as whole.
  const uint64_t cluster = layout_.cluster_bytes();
  const uint64_t end = offset + length == geometry_.size_bytes
                           ? AlignUp<uint64_t>(offset + length, cluster)
                           : AlignDown<uint64_t>(offset + length, cluster);
  const uint64_t begin = AlignUp<uint64_t>(offset, cluster);
  if (length == 0 || begin >= end) co_return absl::OkStatus();
  const absl::Status status = co_await ChangeClusters(begin, end, Change::kDiscard);
  co_return status;
}

Task<absl::Status> Image::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  CO_RETURN_IF_ERROR(WriteError());
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  const absl::Status status = co_await ZeroRange(offset, length, flags);
  co_return status;
}

Task<absl::Status> Image::ZeroRange(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const uint64_t cluster = layout_.cluster_bytes();
  const uint64_t end = offset + length;
  const uint64_t first_whole = AlignUp<uint64_t>(offset, cluster);
  const uint64_t end_whole = end == geometry_.size_bytes ? AlignUp<uint64_t>(end, cluster)
                                                         : AlignDown<uint64_t>(end, cluster);
  if (first_whole >= end_whole) {
    const absl::Status status = co_await ZeroByWriting(offset, length);
    co_return status;
  }
  CO_RETURN_IF_ERROR(co_await ZeroByWriting(offset, first_whole - offset));
  if (layout_.version >= 3) {
    CO_RETURN_IF_ERROR(co_await ChangeClusters(
        first_whole, end_whole, flags.may_unmap ? Change::kZeroAndUnmap : Change::kZero));
  } else if (backing_ == nullptr && flags.may_unmap) {
    CO_RETURN_IF_ERROR(co_await ChangeClusters(first_whole, end_whole, Change::kDiscard));
  } else {
    const uint64_t stop = std::min(end, end_whole);
    CO_RETURN_IF_ERROR(co_await ZeroByWriting(first_whole, stop - first_whole));
  }
  if (end > end_whole) CO_RETURN_IF_ERROR(co_await ZeroByWriting(end_whole, end - end_whole));
  co_return absl::OkStatus();
}

// Writes zeros where the disk does not read as zeros already.
Task<absl::Status> Image::ZeroByWriting(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  while (offset < end) {
    CO_ASSIGN_OR_RETURN(MappedRun run, co_await map_.Lookup(offset, end - offset));
    run.length = std::min(run.length, kZeroPieceBytes);
    CO_ASSIGN_OR_RETURN(const bool zeros, co_await ReadsAsZeros(run.mapping, offset, run.length));
    if (!zeros) {
      std::vector<iovec> parts;
      AppendZeros(run.length, parts);
      CO_RETURN_IF_ERROR(co_await WriteBytes(offset, parts));
    }
    offset += run.length;
  }
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
