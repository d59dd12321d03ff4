// Discarding and writing zeros.

#include <algorithm>
#include <utility>
#include <vector>

#include "base/align.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {

namespace {

constexpr uint64_t kZeroPieceBytes = 1 << 20;

}  // namespace

ClusterEntry Image::Changed(const ClusterEntry& old, Change change, uint32_t touched) const {
  if (layout_.version < 3) {
    // No zero flag: only where no backing file would show through may a cluster go.
    return backing_ == nullptr && change != Change::kZero ? ClusterEntry{} : old;
  }
  const uint32_t all = SubclusterMask(0, layout_.subclusters());
  const bool stored = old.has_host || old.kind == ClusterEntry::Kind::kCompressed;
  if (change == Change::kDiscard) {
    // What reads as zeros already stays; what a backing file holds never shows again.
    return stored || backing_ != nullptr ? ClusterEntry{.zero = all} : old;
  }
  if (touched == all) {
    const bool keep = change == Change::kZero && old.has_host;
    ClusterEntry zero = keep ? old : ClusterEntry{};
    zero.allocated = 0;
    zero.zero = all;
    return zero;
  }
  ClusterEntry zero = old;
  zero.allocated &= ~touched;
  zero.zero |= touched;
  return zero;
}

Task<absl::Status> Image::ChangeClusters(uint64_t begin, uint64_t end, Change change) {
  uint64_t at = begin;
  while (at < end) {
    if (change == Change::kDiscard && backing_ == nullptr && !map_.HasTable(at)) {
      at = std::min(map_.TableEnd(at), end);  // Nothing there: no table is made for that.
      continue;
    }
    const uint64_t stop = std::min(map_.SliceEnd(at), end);
    CO_ASSIGN_OR_RETURN(at, co_await ChangeInSlice(at, stop, change));
    if (IsTooDirty()) CO_RETURN_IF_ERROR(co_await Commit());
    if (at == stop) continue;
    // Subclusters of a compressed cluster.
    const uint64_t next = std::min(stop, layout_.cluster_start(at) + layout_.cluster_bytes());
    CO_RETURN_IF_ERROR(co_await ZeroByWriting(at, next - at));
    at = next;
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<uint64_t>> Image::ChangeInSlice(uint64_t begin, uint64_t end, Change change) {
  const RangeLock::Guard guard =
      co_await clusters_.Lock(layout_.cluster_index(begin), layout_.cluster_index(end - 1));
  CO_RETURN_IF_ERROR(WriteError());
  absl::StatusOr<MetadataCache::Slice> prepared = co_await map_.PrepareSlice(begin);
  if (absl::IsDataLoss(prepared.status())) co_await MarkCorrupt(prepared.status());
  CO_RETURN_IF_ERROR(prepared.status());
  MetadataCache::Slice slice = *std::move(prepared);
  const uint32_t all = SubclusterMask(0, layout_.subclusters());
  std::vector<HostRun> dropped;  // Of a data file.
  uint64_t at = begin;
  while (at < end) {
    const uint64_t next = std::min(end, layout_.cluster_start(at) + layout_.cluster_bytes());
    const uint32_t touched =
        SubclusterMask(layout_.subcluster_index(at), layout_.subcluster_index(next - 1) + 1);
    const ClusterEntry old = map_.Get(slice, at);
    if (old.kind == ClusterEntry::Kind::kInvalid) {
      const absl::Status status = co_await OnInvalid(at, Invalid{old.reason});
      co_return status;
    }
    if (old.kind == ClusterEntry::Kind::kCompressed && touched != all) break;
    const ClusterEntry changed = Changed(old, change, touched);
    if (changed != old) {
      if (!changed.has_host) FreeOld(old);
      if (!changed.has_host && old.has_host && layout_.external_data) {
        const uint64_t host_offset = old.host_offset;
        if (!dropped.empty() &&
            host_offset ==
                dropped.back().host_offset + (dropped.back().clusters << layout_.cluster_bits)) {
          ++dropped.back().clusters;
        } else {
          dropped.push_back({.host_offset = host_offset, .clusters = 1});
        }
      }
      map_.Set(slice, at, changed);
      NoteDirty();
    }
    at = next;
  }
  // Nobody else is given these clusters, and their guest clusters are locked: no need to wait for
  // the commit. A crash before it leaves the old bytes or zeros, and neither was flushed.
  for (const HostRun& run : dropped) {
    const uint64_t stop =
        std::min(run.host_offset + (run.clusters << layout_.cluster_bits), data_.size());
    if (stop <= run.host_offset) continue;
    const absl::Status discarded = co_await data_.Discard(run.host_offset, stop - run.host_offset);
    if (!discarded.ok()) LogDebug("%s", discarded.ToString());
  }
  co_return at;
}

Task<absl::Status> Image::Discard(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  CO_RETURN_IF_ERROR(WriteError());
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  if (header_.raw_external_data()) {
    const absl::Status status = co_await ZeroRawData(offset, length, {.may_unmap = true});
    bitmaps_.MarkDirty(offset, length);
    co_return status;
  }
  // Whole clusters only; the disk's last one counts as whole.
  const uint64_t cluster = layout_.cluster_bytes();
  const uint64_t end = offset + length == geometry_.size_bytes
                           ? AlignUp<uint64_t>(offset + length, cluster)
                           : AlignDown<uint64_t>(offset + length, cluster);
  const uint64_t begin = AlignUp<uint64_t>(offset, cluster);
  if (length == 0 || begin >= end) co_return absl::OkStatus();
  // Without a zero flag the backing file would show through.
  if (layout_.version < 3 && backing_ != nullptr) co_return absl::OkStatus();
  const absl::Status status = co_await ChangeClusters(begin, end, Change::kDiscard);
  bitmaps_.MarkDirty(begin, offset + length - begin);
  co_return status;
}

Task<absl::Status> Image::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  CO_RETURN_IF_ERROR(WriteError());
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  absl::Status status;
  if (header_.raw_external_data()) {
    status = co_await ZeroRawData(offset, length, flags);
  } else {
    status = co_await ZeroRange(offset, length, flags);
  }
  bitmaps_.MarkDirty(offset, length);
  co_return status;
}

Task<absl::Status> Image::ZeroRawData(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const uint64_t end = std::min(offset + length, data_.size());
  if (end <= offset) co_return absl::OkStatus();  // What lies past its end is zeros.
  const absl::Status status = co_await data_.WriteZeroes(offset, end - offset, flags.may_unmap);
  co_return status;
}

Task<absl::Status> Image::ZeroRange(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const uint64_t unit = layout_.subcluster_bytes();
  const uint64_t end = offset + length;
  const uint64_t first_whole = AlignUp<uint64_t>(offset, unit);
  if (first_whole >= end) {
    const absl::Status status = co_await ZeroPart(offset, length, flags);
    co_return status;
  }
  // The disk's last subcluster counts as whole.
  const uint64_t end_whole =
      end == geometry_.size_bytes ? AlignUp<uint64_t>(end, unit) : AlignDown<uint64_t>(end, unit);
  CO_RETURN_IF_ERROR(co_await ZeroPart(offset, first_whole - offset, flags));
  if (layout_.version >= 3) {
    CO_RETURN_IF_ERROR(co_await ChangeClusters(
        first_whole, end_whole, flags.may_unmap ? Change::kZeroAndUnmap : Change::kZero));
  } else if (backing_ == nullptr && flags.may_unmap) {
    CO_RETURN_IF_ERROR(co_await ChangeClusters(first_whole, end_whole, Change::kDiscard));
  } else {
    const uint64_t stop = std::min(end, end_whole);
    CO_RETURN_IF_ERROR(co_await ZeroByWriting(first_whole, stop - first_whole));
  }
  if (end > end_whole) CO_RETURN_IF_ERROR(co_await ZeroPart(end_whole, end - end_whole, flags));
  co_return absl::OkStatus();
}

Task<absl::Status> Image::ZeroPart(uint64_t offset, uint64_t length, ZeroFlags flags) {
  if (length == 0) co_return absl::OkStatus();
  bool flagged = false;
  if (layout_.version >= 3) {
    CO_ASSIGN_OR_RETURN(flagged, co_await ZeroSubclusterAround(offset, length, flags));
  }
  if (!flagged) CO_RETURN_IF_ERROR(co_await ZeroByWriting(offset, length));
  co_return absl::OkStatus();
}

Task<absl::StatusOr<bool>> Image::ZeroSubclusterAround(uint64_t offset, uint64_t length,
                                                       ZeroFlags flags) {
  const uint64_t cluster = layout_.cluster_index(offset);
  const RangeLock::Guard guard = co_await clusters_.Lock(cluster, cluster);
  CO_RETURN_IF_ERROR(WriteError());
  absl::StatusOr<MetadataCache::Slice> prepared = co_await map_.PrepareSlice(offset);
  if (absl::IsDataLoss(prepared.status())) co_await MarkCorrupt(prepared.status());
  CO_RETURN_IF_ERROR(prepared.status());
  MetadataCache::Slice slice = *std::move(prepared);
  const ClusterEntry entry = map_.Get(slice, offset);
  const uint32_t bit = uint32_t{1} << layout_.subcluster_index(offset);
  if (entry.kind != ClusterEntry::Kind::kStandard || (entry.allocated & bit) != 0) co_return false;
  const uint64_t begin = AlignDown<uint64_t>(offset, layout_.subcluster_bytes());
  const uint64_t stop = std::min(begin + layout_.subcluster_bytes(), geometry_.size_bytes);
  CO_ASSIGN_OR_RETURN(const bool zero_head, co_await EntriesReadAsZeros(slice, begin, offset));
  CO_ASSIGN_OR_RETURN(const bool zero_tail,
                      co_await EntriesReadAsZeros(slice, offset + length, stop));
  if (!zero_head || !zero_tail) co_return false;
  const ClusterEntry changed =
      Changed(entry, flags.may_unmap ? Change::kZeroAndUnmap : Change::kZero, bit);
  if (changed != entry) {
    if (!changed.has_host) FreeOld(entry);
    map_.Set(slice, offset, changed);
    NoteDirty();
  }
  co_return true;
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
