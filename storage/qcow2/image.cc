#include "storage/qcow2/image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/async/async_event.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/snapshots.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {
namespace {

// Dirty L2 slices that bring a commit forward (2 MiB; less in a small cache). Writers wait when
// there are four times as many.
constexpr size_t kDirtySlices = 512;

constexpr uint64_t kZeroPieceBytes = 1 << 20;

std::vector<uint8_t> BytesOf64(std::initializer_list<uint64_t> values) {
  std::vector<uint8_t> bytes;
  for (const uint64_t value : values) {
    const Be64 wire(value);
    const auto* const at = reinterpret_cast<const uint8_t*>(&wire);
    bytes.insert(bytes.end(), at, at + sizeof(wire));
  }
  return bytes;
}

}  // namespace

struct Image::Round {
  AsyncEvent ended;
  absl::Status status;
};

Image::Image(EventLoop& loop, std::unique_ptr<File> file, Header header,
             std::unique_ptr<BlockBackend> backing, const Options& options)
    : loop_(loop),
      file_(std::move(file)),
      backing_(std::move(backing)),
      header_(std::move(header)),
      layout_(header_.layout),
      options_(options),
      barrier_(*file_),
      metadata_(layout_),
      cache_(loop, *file_, layout_, options.cache_bytes),
      refcounts_(layout_, {.file = *file_,
                           .barrier = barrier_,
                           .cache = cache_,
                           .metadata = metadata_,
                           .in_flight = in_flight_}),
      map_(layout_, {.file = *file_,
                     .barrier = barrier_,
                     .cache = cache_,
                     .metadata = metadata_,
                     .refcounts = refcounts_}),
      compressed_(loop, *file_, layout_, static_cast<Compression>(header_.compression_type)),
      dirty_limit_(std::min(kDirtySlices, cache_.limit_slices() / 4)),
      background_(loop) {
  geometry_.size_bytes = header_.size_bytes;
  geometry_.block_size = 512;
  geometry_.optimal_io_bytes = static_cast<uint32_t>(layout_.cluster_bytes());
  geometry_.discard_granularity = static_cast<uint32_t>(layout_.cluster_bytes());
  geometry_.read_only = options.read_only;
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> Image::Open(
    EventLoop& loop, std::unique_ptr<File> file, Header header,
    std::unique_ptr<BlockBackend> backing, Options options) {
  if (!options.read_only && header.dirty()) {
    LogWarning("%s: was not closed cleanly; repairing its refcounts", file->name());
    const absl::StatusOr<CheckResult> checked = co_await CheckImage(*file, Repair::kAll);
    CO_RETURN_IF_ERROR(checked.status());
    if (checked->corruptions > checked->corruptions_fixed || checked->check_errors > 0) {
      co_return absl::DataLossError(absl::StrFormat(
          "%s: was not closed cleanly, and its refcounts could not be repaired", file->name()));
    }
    CO_ASSIGN_OR_RETURN(header, co_await ReadHeader(*file, Access::kReadWrite));
  }
  std::unique_ptr<Image> image(
      new Image(loop, std::move(file), std::move(header), std::move(backing), options));
  CO_RETURN_IF_ERROR(co_await image->Load());
  std::unique_ptr<BlockBackend> opened = std::move(image);
  co_return opened;
}

Task<absl::Status> Image::Load() {
  ClusterMap* const map = &map_;
  cache_.set_vet([map](MetadataKind kind, std::span<const uint8_t> slice) {
    return kind == MetadataKind::kL2Table && map->IsSuspicious(slice);
  });
  CO_RETURN_IF_ERROR(
      co_await refcounts_.Load(header_.refcount_table_offset, header_.refcount_table_clusters));
  CO_RETURN_IF_ERROR(co_await LoadSnapshots());
  CO_RETURN_IF_ERROR(co_await map_.Load(header_.l1_offset, header_.l1_entries));
  co_return absl::OkStatus();
}

Task<absl::Status> Image::LoadSnapshots() {
  if (header_.snapshot_count == 0) co_return absl::OkStatus();
  const absl::StatusOr<SnapshotTable> table = co_await ReadSnapshotTable(*file_, header_);
  if (!table.ok()) {
    // A reader does not need them; a writer could not tell what they share with the image.
    if (geometry_.read_only) co_return absl::OkStatus();
    co_return table.status();
  }
  bool disjoint =
      metadata_.AddRange(MetadataKind::kSnapshots, header_.snapshots_offset, table->bytes);
  for (const Snapshot& snapshot : table->snapshots) {
    const absl::Status sane = CheckSnapshotL1(*file_, layout_, snapshot);
    if (!sane.ok()) {
      if (geometry_.read_only) continue;
      co_return sane;
    }
    const uint64_t bytes = uint64_t{snapshot.l1_entries} * sizeof(Be64);
    if (bytes == 0) continue;
    disjoint &= metadata_.AddRange(MetadataKind::kSnapshots, snapshot.l1_offset, bytes);
  }
  if (!disjoint && !geometry_.read_only) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the tables of its snapshots overlap", file_->name()));
  }
  co_return absl::OkStatus();
}

// --- Reading ---

Task<absl::Status> Image::Read(uint64_t offset, IoVecs dst) {
  const InFlight::Operation operation(in_flight_);
  const uint64_t length = TotalSize(dst);
  CO_RETURN_IF_ERROR(CheckRequest(file_->name(), geometry_, offset, length));
  if (length == 0) co_return absl::OkStatus();
  const absl::Status status = co_await ReadBytes(offset, dst);
  co_return status;
}

Task<absl::Status> Image::ReadBytes(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  CO_ASSIGN_OR_RETURN(MappedRun run, co_await map_.Lookup(offset, length));
  if (run.length == length) {
    const absl::Status status = co_await ReadRun(run, offset, dst);
    co_return status;
  }
  // All pieces are under way at once.
  absl::Status status;
  TaskScope pieces(loop_);
  uint64_t done = 0;
  while (true) {
    pieces.Spawn(ReadPiece(run, offset + done, Slice(dst, done, run.length), &status));
    done += run.length;
    if (done == length) break;
    const absl::StatusOr<MappedRun> next = co_await map_.Lookup(offset + done, length - done);
    if (!next.ok()) {
      status = next.status();
      break;
    }
    run = *next;
  }
  co_await pieces.Join();
  co_return status;
}

Task<void> Image::ReadPiece(MappedRun run, uint64_t offset, IoVecList dst, absl::Status* status) {
  const absl::Status read = co_await ReadRun(run, offset, dst);
  if (!read.ok()) *status = read;
}

Task<absl::Status> Image::ReadRun(MappedRun run, uint64_t offset, IoVecs dst) {
  if (const auto* allocated = std::get_if<Allocated>(&run.mapping)) {
    const absl::Status status = co_await file_->Read(allocated->host_offset, dst);
    co_return status;
  }
  if (std::holds_alternative<Unallocated>(run.mapping)) {
    const absl::Status status = co_await ReadBacking(offset, dst);
    co_return status;
  }
  if (const auto* compressed = std::get_if<Compressed>(&run.mapping)) {
    CO_ASSIGN_OR_RETURN(const CompressedClusters::Cluster cluster,
                        co_await compressed_.Get(*compressed));
    CopyToIoVecs(std::span(*cluster).subspan(layout_.offset_in_cluster(offset)), dst);
    co_return absl::OkStatus();
  }
  if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
    const absl::Status status = co_await OnInvalid(offset, *invalid);
    co_return status;
  }
  FillIoVecs(dst, 0);
  co_return absl::OkStatus();
}

Task<absl::Status> Image::ReadBacking(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  // What a longer backing file holds behind our end is invisible, also to clusters that reach
  // there.
  const uint64_t end =
      backing_ == nullptr ? 0 : std::min(backing_->geometry().size_bytes, geometry_.size_bytes);
  const uint64_t stored = offset < end ? std::min(length, end - offset) : 0;
  if (stored == length) {
    const absl::Status status = co_await backing_->Read(offset, dst);
    co_return status;
  }
  const IoVecList rest = Slice(dst, stored, length - stored);
  FillIoVecs(rest, 0);
  if (stored == 0) co_return absl::OkStatus();
  const IoVecList first = Slice(dst, 0, stored);
  const absl::Status status = co_await backing_->Read(offset, first);
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> Image::Status(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckRequest(file_->name(), geometry_, offset, length));
  CO_ASSIGN_OR_RETURN(const MappedRun run, co_await map_.Lookup(offset, length));
  if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
    const absl::Status status = co_await OnInvalid(offset, *invalid);
    co_return status;
  }
  RangeStatus answer = {.kind = RangeKind::kData, .length = run.length};
  if (std::holds_alternative<Zero>(run.mapping)) answer.kind = RangeKind::kZero;
  if (!std::holds_alternative<Unallocated>(run.mapping)) co_return answer;
  answer.kind = RangeKind::kHole;
  if (backing_ == nullptr || offset >= backing_->geometry().size_bytes) co_return answer;
  const uint64_t stored = std::min(run.length, backing_->geometry().size_bytes - offset);
  CO_ASSIGN_OR_RETURN(answer, co_await backing_->Status(offset, stored));
  ++answer.depth;
  co_return answer;
}

// --- Writing ---

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
        const absl::Status status = co_await file_->Write(allocated->host_offset, src);
        co_return status;
      }
      const IoVecList part = Slice(src, done, run.length);
      CO_RETURN_IF_ERROR(co_await file_->Write(allocated->host_offset, part));
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
  CO_RETURN_IF_ERROR(co_await file_->Write(run.host_offset + (write_head ? 0 : head), parts));
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

// --- Discarding and zeroing ---

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

// --- Size ---

Task<absl::Status> Image::Resize(uint64_t size_bytes) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, 0, 0));
  CO_RETURN_IF_ERROR(WriteError());
  const uint64_t old_size = geometry_.size_bytes;
  if (!IsAligned<uint64_t>(size_bytes, geometry_.block_size)) {
    co_return absl::InvalidArgumentError(absl::StrFormat("%s: %d bytes are not whole blocks of %d",
                                                         file_->name(), size_bytes,
                                                         geometry_.block_size));
  }
  if (size_bytes < old_size) {
    co_return absl::FailedPreconditionError(absl::StrFormat(
        "%s: an open disk does not shrink (%d to %d bytes)", file_->name(), old_size, size_bytes));
  }
  if (layout_.version < 3 && header_.snapshot_count > 0) {
    co_return absl::UnimplementedError(absl::StrFormat(
        "%s: a version 2 image with internal snapshots keeps its size", file_->name()));
  }
  const uint64_t entries = layout_.l1_entries_for(size_bytes);
  if (size_bytes >= uint64_t{1} << 63 || entries * sizeof(Be64) > kMaxL1Bytes) {
    co_return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes need more than %d L1 entries", file_->name(), size_bytes,
                        kMaxL1Bytes / sizeof(Be64)));
  }
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  if (entries > map_.l1_entries()) CO_RETURN_IF_ERROR(co_await GrowL1(entries));

  // New space reads as zeros, also where a longer backing file has bytes.
  geometry_.size_bytes = size_bytes;
  absl::Status status;
  if (backing_ != nullptr && backing_->geometry().size_bytes > old_size) {
    const uint64_t end = std::min(size_bytes, backing_->geometry().size_bytes);
    status = co_await ZeroRange(old_size, end - old_size, {});
    if (status.ok()) status = co_await Commit();
  }
  std::vector<uint8_t> size_field = BytesOf64({size_bytes});
  if (status.ok()) status = co_await WriteHeader(kSizeFieldOffset, std::move(size_field));
  if (!status.ok()) {
    geometry_.size_bytes = old_size;
    co_return status;
  }
  header_.size_bytes = size_bytes;
  co_return absl::OkStatus();
}

Task<absl::Status> Image::GrowL1(uint64_t entries) {
  CO_ASSIGN_OR_RETURN(const uint64_t l1_offset, co_await refcounts_.AllocateContiguous(
                                                    layout_.clusters_for(entries * sizeof(Be64))));
  // Until the header has switched, no table is made and no commit runs but ours: the copy is exact.
  const AsyncMutex::Guard tables = co_await map_.LockTables();
  const AsyncMutex::Guard commits = co_await committing_.Lock();
  CO_RETURN_IF_ERROR(co_await RunCommit());
  std::vector<uint8_t> table = map_.SerializeL1();
  table.resize(layout_.clusters_for(entries * sizeof(Be64)) << layout_.cluster_bits);
  const iovec part = ToIoVec(std::span<uint8_t>(table));
  CO_RETURN_IF_ERROR(co_await file_->Write(l1_offset, IoVecs(&part, 1)));
  CO_RETURN_IF_ERROR(co_await barrier_.Sync());

  struct {
    Be32 entries;
    Be64 offset;
  } fields = {.entries = static_cast<uint32_t>(entries), .offset = l1_offset};
  static_assert(sizeof(fields) == 12);
  const auto* const bytes = reinterpret_cast<const uint8_t*>(&fields);
  const absl::Status switched =
      co_await WriteHeader(kL1FieldsOffset, std::vector<uint8_t>(bytes, bytes + sizeof(fields)));
  if (!switched.ok()) {
    barrier_.Fail(switched);  // Which of the two tables counts is not known.
    co_return switched;
  }
  const HostRun old = {.host_offset = map_.l1_offset(),
                       .clusters = layout_.clusters_for(map_.l1_entries() * sizeof(Be64))};
  map_.Moved(l1_offset, entries);
  header_.l1_entries = static_cast<uint32_t>(entries);
  header_.l1_offset = l1_offset;
  if (old.clusters > 0) refcounts_.Rest({old});
  co_return absl::OkStatus();
}

// --- Header ---

Task<absl::Status> Image::WriteHeader(uint64_t offset, std::vector<uint8_t> bytes) {
  const iovec part = ToIoVec(std::span<const uint8_t>(bytes));
  CO_RETURN_IF_ERROR(co_await file_->Write(offset, IoVecs(&part, 1)));
  const absl::Status status = co_await barrier_.Sync();
  co_return status;
}

Task<absl::Status> Image::WriteFeatures() {
  std::vector<uint8_t> fields =
      BytesOf64({header_.incompatible, header_.compatible, header_.autoclear});
  const absl::Status status = co_await WriteHeader(kFeatureFieldsOffset, std::move(fields));
  co_return status;
}

Task<absl::Status> Image::PrepareToWrite() {
  const AsyncMutex::Guard guard = co_await preparing_.Lock();
  if (prepared_) co_return absl::OkStatus();
  // Of what the bits promise nothing is kept up by us (qcow2 spec, "autoclear_features").
  if (header_.autoclear != 0) {
    const uint64_t before = std::exchange(header_.autoclear, 0);
    const absl::Status written = co_await WriteFeatures();
    if (!written.ok()) {
      header_.autoclear = before;
      co_return written;
    }
  }
  prepared_ = true;
  co_return absl::OkStatus();
}

Task<void> Image::MarkCorrupt(absl::Status damage) {
  if (!damage_.ok() || geometry_.read_only) co_return;
  damage_ = damage;
  LogError("%s: the image contradicts itself, writes are refused from now on: %s", file_->name(),
           std::string(damage.message()));
  if (layout_.version < 3) co_return;
  header_.incompatible |= kIncompatibleCorrupt;
  const absl::Status written = co_await WriteFeatures();
  if (!written.ok()) LogError("%s: %s", file_->name(), written.ToString());
}

Task<absl::Status> Image::OnInvalid(uint64_t guest_offset, Invalid invalid) {
  const absl::Status damage = absl::DataLossError(
      absl::StrFormat("%s: guest offset %d: %s", file_->name(), guest_offset, invalid.reason));
  co_await MarkCorrupt(damage);
  co_return damage;
}

// --- Commits ---

void Image::NoteDirty() {
  if (!commit_planned_) {
    commit_planned_ = true;
    background_.Spawn(CommitLater());
  }
  if (!commit_hurried_ && cache_.dirty_count(MetadataKind::kL2Table) > dirty_limit_) {
    commit_hurried_ = true;
    background_.Spawn(CommitNow());
  }
}

Task<void> Image::CommitLater() {
  const absl::Status slept = co_await loop_.SleepFor(options_.commit_age, background_.stop_token());
  commit_planned_ = false;
  if (!slept.ok()) co_return;  // Closing, which commits itself.
  const absl::Status committed = co_await Commit();
  if (!committed.ok()) LogError("%s", committed.ToString());
}

Task<void> Image::CommitNow() {
  const absl::Status committed = co_await Commit();
  commit_hurried_ = false;
  if (!committed.ok()) LogError("%s", committed.ToString());
}

Task<absl::Status> Image::Flush() {
  if (geometry_.read_only) co_return absl::OkStatus();
  const InFlight::Operation operation(in_flight_);
  const absl::Status status = co_await Commit();
  co_return status;
}

Task<absl::Status> Image::Commit() {
  if (next_round_ != nullptr) {  // It has not begun: it will hold what we need.
    const std::shared_ptr<Round> round = next_round_;
    co_await round->ended.Wait();
    co_return round->status;
  }
  const auto round = std::make_shared<Round>();
  next_round_ = round;
  {
    const AsyncMutex::Guard guard = co_await committing_.Lock();
    next_round_ = nullptr;
    round->status = co_await RunCommit();
  }
  round->ended.Set();
  co_return round->status;
}

Task<absl::Status> Image::RunCommit() {
  CO_RETURN_IF_ERROR(barrier_.status());
  // This epoch: everything changed so far. What changes from here on belongs to the next.
  MetadataCache::Frozen tables = cache_.Freeze(MetadataKind::kL2Table);
  const std::vector<ClusterMap::L1Piece> l1 = map_.FreezeL1();
  std::vector<HostRun> freed = refcounts_.TakeFreed();
  const bool needs_barrier = map_.TakeBarrier();

  absl::Status status;
  if (refcounts_.NeedsWriteBack()) {
    status = co_await refcounts_.WriteBack();
    if (absl::IsDataLoss(status)) co_await MarkCorrupt(status);
  }
  const bool changed = !tables.empty() || !l1.empty();
  if (status.ok() && changed && needs_barrier) status = co_await barrier_.Sync();
  if (status.ok()) {
    status = co_await cache_.Write(std::move(tables));
  } else {
    cache_.Abandon(std::move(tables));
  }
  if (status.ok()) status = co_await map_.WriteL1(l1);
  if (status.ok()) status = co_await barrier_.Sync();
  if (!status.ok()) {
    map_.PutBackL1(l1);
    refcounts_.PutBackFreed(std::move(freed));
    if (needs_barrier) map_.RequireBarrier();
    co_return status;
  }
  refcounts_.Rest(std::move(freed));
  co_return absl::OkStatus();
}

Task<absl::Status> Image::Close() {
  background_.RequestStop();
  co_await in_flight_.Drain();
  co_await background_.Join();
  absl::Status status;
  if (!geometry_.read_only) {
    status = damage_;
    const absl::Status committed = co_await Commit();
    if (status.ok()) status = committed;
    // After damage or a failed flush nothing is counted down: leaks are the safe side.
    if (status.ok()) status = co_await refcounts_.Close();
  }
  const absl::Status closed = co_await file_->Close();
  if (status.ok()) status = closed;
  if (backing_ != nullptr) {
    const absl::Status backing_closed = co_await backing_->Close();
    if (status.ok()) status = backing_closed;
  }
  co_return status;
}

}  // namespace vireo::qcow2
