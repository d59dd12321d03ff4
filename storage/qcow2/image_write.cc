// Writing: in place, or to fresh clusters with what is around the guest's data.

#include <algorithm>
#include <utility>

#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {

absl::Status Image::WriteError() const {
  if (!damage_.ok()) return damage_;
  return barrier_.status();
}

Task<absl::Status> Image::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  {
    const InFlight::Operation operation(in_flight_);
    const uint64_t length = TotalSize(src);
    CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
    CO_RETURN_IF_ERROR(WriteError());
    if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
    if (length > 0) CO_RETURN_IF_ERROR(co_await WriteBytes(offset, src));
  }
  if (!flags.fua) co_return absl::OkStatus();
  const absl::Status status = co_await Flush();
  co_return status;
}

Task<absl::Status> Image::WriteBytes(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  uint64_t done = 0;
  while (done < length) {
    const uint64_t at = offset + done;
    CO_ASSIGN_OR_RETURN(const MappedRun run, co_await map_.Lookup(at, length - done));
    if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
      const absl::Status status = co_await OnInvalid(at, *invalid);
      co_return status;
    }
    const auto* allocated = std::get_if<Allocated>(&run.mapping);
    if (allocated != nullptr && allocated->copied) {
      if (run.length == length) {
        const absl::Status status = co_await data_.Write(allocated->host_offset, src);
        co_return status;
      }
      const IoVecList part = Slice(src, done, run.length);
      CO_RETURN_IF_ERROR(co_await data_.Write(allocated->host_offset, part));
      done += run.length;
      continue;
    }
    const uint64_t wanted = std::min(length - done, map_.SliceEnd(at) - at);
    const IoVecList part = Slice(src, done, wanted);
    CO_ASSIGN_OR_RETURN(const uint64_t written, co_await AllocateAndWrite(at, part));
    done += written;
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<uint64_t>> Image::AllocateAndWrite(uint64_t guest_offset, IoVecs src) {
  const uint64_t end = guest_offset + TotalSize(src);
  const uint64_t first = layout_.cluster_index(guest_offset);
  const uint64_t last = layout_.cluster_index(end - 1);
  const RangeLock::Guard guard = co_await clusters_.Lock(first, last);
  CO_RETURN_IF_ERROR(WriteError());
  absl::StatusOr<MetadataCache::Slice> prepared = co_await map_.PrepareSlice(guest_offset);
  if (absl::IsDataLoss(prepared.status())) co_await MarkCorrupt(prepared.status());
  CO_RETURN_IF_ERROR(prepared.status());
  MetadataCache::Slice slice = *std::move(prepared);

  // The clusters from `first` on that need a host cluster. One with a host cluster of its own
  // behind zeros is taken alone.
  uint64_t clusters = 0;
  HostRun run;
  bool reused = false;
  for (uint64_t cluster = first; cluster <= last; ++cluster) {
    const ClusterMapping mapping = map_.Get(slice, cluster << layout_.cluster_bits);
    if (const auto* invalid = std::get_if<Invalid>(&mapping)) {
      if (clusters > 0) break;
      const absl::Status status = co_await OnInvalid(guest_offset, *invalid);
      co_return status;
    }
    const auto* allocated = std::get_if<Allocated>(&mapping);
    if (allocated != nullptr && allocated->copied) break;
    const auto* zero = std::get_if<Zero>(&mapping);
    if (zero != nullptr && zero->copied) {
      if (clusters > 0) break;
      run = {.host_offset = zero->host_offset, .clusters = 1};
      reused = true;
      break;
    }
    ++clusters;
  }
  if (!reused) {
    if (clusters == 0) co_return uint64_t{0};
    const absl::StatusOr<HostRun> fresh = co_await refcounts_.AllocateData(clusters);
    if (absl::IsDataLoss(fresh.status())) co_await MarkCorrupt(fresh.status());
    CO_RETURN_IF_ERROR(fresh.status());
    run = *fresh;
    run.fresh = run.fresh && data_.traits().zero_filled;
  }

  const uint64_t stop = std::min(end, (first + run.clusters) << layout_.cluster_bits);
  const IoVecList part = Slice(src, 0, stop - guest_offset);
  const absl::StatusOr<bool> harmless = co_await FillClusters(run, slice, guest_offset, part);
  if (!harmless.ok()) {
    if (!reused) refcounts_.GiveBack(run);
    co_return harmless.status();
  }

  // Linked without waiting: nothing here fails.
  if (!*harmless) map_.RequireBarrier();
  for (uint64_t i = 0; i < run.clusters; ++i) {
    const uint64_t at = (first + i) << layout_.cluster_bits;
    if (!reused) FreeOld(map_.Get(slice, at));
    map_.Set(
        slice, at,
        Allocated{.host_offset = run.host_offset + (i << layout_.cluster_bits), .copied = true});
  }
  NoteDirty();
  if (cache_.dirty_count(MetadataKind::kL2Table) > 4 * dirty_limit_) {
    CO_RETURN_IF_ERROR(co_await Commit());
  }
  co_return stop - guest_offset;
}

Task<absl::StatusOr<bool>> Image::FillClusters(HostRun run, const MetadataCache::Slice& slice,
                                               uint64_t guest_offset, IoVecs src) {
  const uint64_t end = guest_offset + TotalSize(src);
  const uint64_t head = layout_.offset_in_cluster(guest_offset);
  const uint64_t tail = AlignUp<uint64_t>(end, layout_.cluster_bytes()) - end;
  const ClusterMapping old_first = map_.Get(slice, guest_offset);
  const ClusterMapping old_last = map_.Get(slice, end - 1);
  CO_ASSIGN_OR_RETURN(const bool zero_head,
                      co_await ReadsAsZeros(old_first, guest_offset - head, head));
  CO_ASSIGN_OR_RETURN(const bool zero_tail, co_await ReadsAsZeros(old_last, end, tail));

  // Fresh clusters hold zeros already: only what the guest wrote and what is copied need be
  // written.
  const bool write_head = head > 0 && !(zero_head && run.fresh);
  const bool write_tail = tail > 0 && !(zero_tail && run.fresh);
  BufferPool::Buffer head_bytes;
  BufferPool::Buffer tail_bytes;
  std::vector<iovec> parts;
  if (write_head && zero_head) AppendZeros(head, parts);
  if (write_head && !zero_head) {
    head_bytes = buffers_.Get(head);
    CO_RETURN_IF_ERROR(co_await ReadOld(old_first, guest_offset - head, head_bytes.bytes()));
    parts.push_back(ToIoVec(head_bytes.bytes()));
  }
  parts.insert(parts.end(), src.begin(), src.end());
  if (write_tail && zero_tail) AppendZeros(tail, parts);
  if (write_tail && !zero_tail) {
    tail_bytes = buffers_.Get(tail);
    CO_RETURN_IF_ERROR(co_await ReadOld(old_last, end, tail_bytes.bytes()));
    parts.push_back(ToIoVec(tail_bytes.bytes()));
  }
  CO_RETURN_IF_ERROR(co_await data_.Write(run.host_offset + (write_head ? 0 : head), parts));
  // What is linked before it is durable must not change what a guest reads that never flushed: only
  // a fresh cluster over zeros reads the same with and without its data (qcow2.md 14.1, rule B).
  if (!run.fresh || !zero_head || !zero_tail) co_return false;
  absl::StatusOr<bool> zeros = co_await EntriesReadAsZeros(slice, guest_offset, end);
  co_return zeros;
}

Task<absl::StatusOr<bool>> Image::EntriesReadAsZeros(const MetadataCache::Slice& slice,
                                                     uint64_t begin, uint64_t end) {
  uint64_t at = begin;
  while (at < end) {
    const ClusterMapping mapping = map_.Get(slice, at);
    uint64_t stop = layout_.cluster_start(at) + layout_.cluster_bytes();
    // Neighbours that are not allocated are asked about together.
    while (stop < end && std::holds_alternative<Unallocated>(mapping) &&
           std::holds_alternative<Unallocated>(map_.Get(slice, stop))) {
      stop += layout_.cluster_bytes();
    }
    stop = std::min(stop, end);
    CO_ASSIGN_OR_RETURN(const bool zeros, co_await ReadsAsZeros(mapping, at, stop - at));
    if (!zeros) co_return false;
    at = stop;
  }
  co_return true;
}

Task<absl::StatusOr<bool>> Image::ReadsAsZeros(ClusterMapping mapping, uint64_t guest_offset,
                                               uint64_t length) {
  if (length == 0 || std::holds_alternative<Zero>(mapping)) co_return true;
  if (!std::holds_alternative<Unallocated>(mapping)) co_return false;
  if (backing_ == nullptr) co_return true;
  const uint64_t end =
      std::min({guest_offset + length, backing_->geometry().size_bytes, geometry_.size_bytes});
  for (uint64_t at = guest_offset; at < end;) {
    CO_ASSIGN_OR_RETURN(const RangeStatus answer, co_await backing_->Status(at, end - at));
    if (answer.kind == RangeKind::kData) co_return false;
    at += answer.length;
  }
  co_return true;
}

Task<absl::Status> Image::ReadOld(ClusterMapping mapping, uint64_t guest_offset,
                                  std::span<uint8_t> dst) {
  if (auto* allocated = std::get_if<Allocated>(&mapping)) {
    allocated->host_offset += layout_.offset_in_cluster(guest_offset);
  }
  const iovec part = ToIoVec(dst);
  const absl::Status status =
      co_await ReadRun({.mapping = mapping, .length = dst.size()}, guest_offset, IoVecs(&part, 1));
  co_return status;
}

void Image::FreeOld(const ClusterMapping& old) {
  if (const auto* allocated = std::get_if<Allocated>(&old)) {
    refcounts_.FreeLater(allocated->host_offset, 1);
  } else if (const auto* zero = std::get_if<Zero>(&old)) {
    if (zero->host_offset != 0) refcounts_.FreeLater(zero->host_offset, 1);
  } else if (const auto* compressed = std::get_if<Compressed>(&old)) {
    // Counted once for each host cluster that it touches, in whole sectors.
    const uint64_t first = layout_.cluster_index(compressed->host_offset);
    const uint64_t last = layout_.cluster_index(compressed->host_offset + compressed->bytes - 1);
    refcounts_.FreeLater(first << layout_.cluster_bits, last - first + 1);
  }
}

}  // namespace vireo::qcow2
