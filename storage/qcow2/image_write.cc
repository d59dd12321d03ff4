// Writing: in place, or to fresh clusters with what is around the guest's data.

#include <algorithm>
#include <bit>
#include <utility>

#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {
namespace {

constexpr const char* kHoldsMetadata = "a host offset that holds metadata";

}  // namespace

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
    if (length > 0) {
      const absl::Status written = co_await WriteBytes(offset, src);
      bitmaps_.MarkDirty(offset, length);
      CO_RETURN_IF_ERROR(written);
    }
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
    std::optional<MappedRun> cached = map_.LookupCached(at, length - done);
    if (!cached.has_value()) {
      CO_ASSIGN_OR_RETURN(cached, co_await map_.Lookup(at, length - done));
    }
    const MappedRun& run = *cached;
    if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
      const absl::Status status = co_await OnInvalid(at, *invalid);
      co_return status;
    }
    const auto* allocated = std::get_if<Allocated>(&run.mapping);
    if (allocated != nullptr && allocated->copied) {
      if (OverlapsMetadata(allocated->host_offset, run.length)) {
        const absl::Status status = co_await OnInvalid(at, Invalid{kHoldsMetadata});
        co_return status;
      }
      if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kWriteAio);
      if (run.length == length) {
        const absl::Status status = co_await data_.Write(allocated->host_offset, src);
        co_return status;
      }
      const IoVecList part = Slice(src, done, run.length);
      CO_RETURN_IF_ERROR(co_await data_.Write(allocated->host_offset, part));
      done += run.length;
      continue;
    }
    if (std::shared_ptr<PendingFill> pending = FindPending(at)) {
      const uint64_t joined = std::min(length - done, pending->end - at);
      const IoVecList part = Slice(src, done, joined);
      CO_ASSIGN_OR_RETURN(const bool linked, co_await JoinFill(std::move(pending), at, part));
      if (linked) done += joined;
      continue;
    }
    const uint64_t wanted = std::min(length - done, map_.SliceEnd(at) - at);
    const IoVecList part = Slice(src, done, wanted);
    CO_ASSIGN_OR_RETURN(const uint64_t written, co_await AllocateAndWrite(at, part));
    done += written;
  }
  co_return absl::OkStatus();
}

// What a write of [guest_offset, end) can give host clusters to at once: clusters from the first
// one on that need new ones, or neighbours in the file that have their own and miss subclusters.
// Empty if the first cluster has got what it needs meanwhile.
Image::Target Image::FindTarget(const MetadataCache::Slice& slice, uint64_t guest_offset,
                                uint64_t end) const {
  Target target;
  for (uint64_t at = guest_offset; at < end;
       at = layout_.cluster_start(at) + layout_.cluster_bytes()) {
    const ClusterEntry entry = map_.Get(slice, at);
    if (entry.kind == ClusterEntry::Kind::kInvalid) break;
    if (entry.owned()) {
      const uint64_t stop = std::min(end, layout_.cluster_start(at) + layout_.cluster_bytes());
      const uint32_t touched =
          SubclusterMask(layout_.subcluster_index(at), layout_.subcluster_index(stop - 1) + 1);
      if ((entry.allocated & touched) == touched) break;
      if (target.run.clusters > 0 &&
          (!target.owned ||
           entry.host_offset !=
               target.run.host_offset + (target.run.clusters << layout_.cluster_bits))) {
        break;
      }
      if (target.run.clusters == 0) target.run.host_offset = entry.host_offset;
      target.owned = true;
    } else if (target.owned) {
      break;
    }
    ++target.run.clusters;
  }
  return target;
}

Task<absl::StatusOr<uint64_t>> Image::AllocateAndWrite(uint64_t guest_offset, IoVecs src) {
  const uint64_t end = guest_offset + TotalSize(src);
  const uint64_t first = layout_.cluster_start(guest_offset);
  const RangeLock::Guard guard =
      co_await clusters_.Lock(layout_.cluster_index(first), layout_.cluster_index(end - 1));
  CO_RETURN_IF_ERROR(WriteError());
  absl::StatusOr<MetadataCache::Slice> prepared = co_await map_.PrepareSlice(guest_offset);
  if (absl::IsDataLoss(prepared.status())) co_await MarkCorrupt(prepared.status());
  CO_RETURN_IF_ERROR(prepared.status());
  MetadataCache::Slice slice = *std::move(prepared);

  const ClusterEntry first_entry = map_.Get(slice, guest_offset);
  if (first_entry.kind == ClusterEntry::Kind::kInvalid) {
    const absl::Status status = co_await OnInvalid(guest_offset, Invalid{first_entry.reason});
    co_return status;
  }
  Target target = FindTarget(slice, guest_offset, end);
  if (target.run.clusters == 0) co_return uint64_t{0};
  if (target.owned &&
      OverlapsMetadata(target.run.host_offset, target.run.clusters << layout_.cluster_bits)) {
    const absl::Status status = co_await OnInvalid(guest_offset, Invalid{kHoldsMetadata});
    co_return status;
  }
  if (!target.owned && layout_.external_data) {
    target.run.host_offset = first;
  } else if (!target.owned) {
    const absl::StatusOr<HostRun> fresh = co_await refcounts_.AllocateData(target.run.clusters);
    if (absl::IsDataLoss(fresh.status())) co_await MarkCorrupt(fresh.status());
    CO_RETURN_IF_ERROR(fresh.status());
    target.run = *fresh;
    target.run.fresh = target.run.fresh && data_.traits().zero_filled;
  }

  const HostRun& run = target.run;
  const uint64_t stop = std::min(end, first + (run.clusters << layout_.cluster_bits));
  const IoVecList part = Slice(src, 0, stop - guest_offset);
  const FillRange fill = RangeToFill(target, map_.Get(slice, guest_offset),
                                     map_.Get(slice, stop - 1), guest_offset, stop);
  const auto pending = std::make_shared<PendingFill>();
  pending->begin = first;
  pending->end = first + (run.clusters << layout_.cluster_bits);
  pending->host_offset = run.host_offset;
  const absl::StatusOr<bool> harmless =
      co_await FillClusters(run, slice, fill, guest_offset, part, pending);
  if (!harmless.ok()) {
    co_await EndFill(pending, false);
    if (!target.owned && !layout_.external_data) refcounts_.GiveBack(run);
    co_return harmless.status();
  }

  // Linked without waiting: nothing here fails.
  if (!*harmless) map_.RequireBarrier();
  for (uint64_t i = 0; i < run.clusters; ++i) {
    const uint64_t at = first + (i << layout_.cluster_bits);
    const uint64_t cluster_end = at + layout_.cluster_bytes();
    const ClusterEntry old = map_.Get(slice, at);
    ClusterEntry linked = {.has_host = true,
                           .copied = true,
                           .host_offset = run.host_offset + (i << layout_.cluster_bits),
                           .allocated = target.owned ? old.allocated : 0,
                           .zero = old.zero};
    const uint32_t filled =
        SubclusterMask(layout_.subcluster_index(std::max(at, fill.begin)),
                       layout_.subcluster_index(std::min(cluster_end, fill.end) - 1) + 1);
    linked.allocated |= filled;
    linked.zero &= ~filled;
    if (!target.owned) FreeOld(old);
    map_.Set(slice, at, linked);
  }
  co_await EndFill(pending, true);
  NoteDirty();
  if (IsTooDirty()) CO_RETURN_IF_ERROR(co_await Commit());
  co_return stop - guest_offset;
}

// Subclusters are filled whole. A new host cluster also takes over what its old one held (in whole,
// if that was compressed): the span from the first to the last of them and of the written ones.
Image::FillRange Image::RangeToFill(const Target& target, const ClusterEntry& first,
                                    const ClusterEntry& last, uint64_t begin, uint64_t end) const {
  const uint64_t first_start = layout_.cluster_start(begin);
  const uint64_t last_start = layout_.cluster_start(end - 1);
  uint64_t first_filled = layout_.subcluster_index(begin);
  uint64_t end_filled = layout_.subcluster_index(end - 1) + 1;
  if (target.owned) {
    // What is allocated already is written in place, as far as the guest asks.
    FillRange fill = {.begin = begin, .end = end};
    if ((first.allocated >> first_filled & 1) == 0) {
      fill.begin = first_start + (first_filled << layout_.subcluster_bits());
    }
    if ((last.allocated >> (end_filled - 1) & 1) == 0) {
      fill.end = last_start + (end_filled << layout_.subcluster_bits());
    }
    return fill;
  }
  if (first.kind == ClusterEntry::Kind::kCompressed) first_filled = 0;
  if (last.kind == ClusterEntry::Kind::kCompressed) end_filled = layout_.subclusters();
  if (first.allocated != 0) {
    first_filled = std::min<uint64_t>(first_filled, std::countr_zero(first.allocated));
  }
  if (last.allocated != 0) {
    end_filled = std::max<uint64_t>(end_filled, 32 - std::countl_zero(last.allocated));
  }
  return {.begin = first_start + (first_filled << layout_.subcluster_bits()),
          .end = last_start + (end_filled << layout_.subcluster_bits())};
}

Task<absl::StatusOr<bool>> Image::FillClusters(HostRun run, const MetadataCache::Slice& slice,
                                               FillRange fill, uint64_t guest_offset, IoVecs src,
                                               std::shared_ptr<PendingFill> pending) {
  const uint64_t end = guest_offset + TotalSize(src);
  const uint64_t head = guest_offset - fill.begin;
  const uint64_t tail = fill.end - end;
  CO_ASSIGN_OR_RETURN(const bool zero_head,
                      co_await EntriesReadAsZeros(slice, fill.begin, guest_offset));
  CO_ASSIGN_OR_RETURN(const bool zero_tail, co_await EntriesReadAsZeros(slice, end, fill.end));

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
    CO_RETURN_IF_ERROR(co_await ReadOld(slice, fill.begin, head_bytes.bytes()));
    parts.push_back(ToIoVec(head_bytes.bytes()));
  }
  parts.insert(parts.end(), src.begin(), src.end());
  if (write_tail && zero_tail) AppendZeros(tail, parts);
  if (write_tail && !zero_tail) {
    tail_bytes = buffers_.Get(tail);
    CO_RETURN_IF_ERROR(co_await ReadOld(slice, end, tail_bytes.bytes()));
    parts.push_back(ToIoVec(tail_bytes.bytes()));
  }
  // What is linked before it is durable must not change what a guest reads that never flushed: only
  // a fresh cluster over zeros reads the same with and without its data.
  bool harmless = run.fresh && zero_head && zero_tail;
  if (harmless) {
    CO_ASSIGN_OR_RETURN(harmless, co_await EntriesReadAsZeros(slice, guest_offset, end));
  }
  // A subcluster that another writes would have to be marked as well.
  if (harmless && !layout_.extended_l2()) pending_fills_.push_back(std::move(pending));
  const uint64_t begin = write_head ? fill.begin : guest_offset;
  if (debug_ != nullptr) {
    if (write_head || write_tail) co_await debug_->Reach(DebugEvent::kCowWrite);
    co_await debug_->Reach(DebugEvent::kWriteAio);
  }
  CO_RETURN_IF_ERROR(
      co_await data_.Write(run.host_offset + (begin - layout_.cluster_start(guest_offset)), parts));
  co_return harmless;
}

std::shared_ptr<Image::PendingFill> Image::FindPending(uint64_t guest_offset) const {
  for (const std::shared_ptr<PendingFill>& pending : pending_fills_) {
    if (guest_offset >= pending->begin && guest_offset < pending->end) return pending;
  }
  return nullptr;
}

Task<absl::StatusOr<bool>> Image::JoinFill(std::shared_ptr<PendingFill> pending,
                                           uint64_t guest_offset, IoVecs src) {
  ++pending->joined;
  const absl::Status written =
      co_await data_.Write(pending->host_offset + (guest_offset - pending->begin), src);
  if (--pending->joined == 0) pending->left.Set();
  CO_RETURN_IF_ERROR(written);
  if (!pending->ended.is_set()) co_await pending->ended.Wait();
  co_return pending->linked;
}

Task<void> Image::EndFill(std::shared_ptr<PendingFill> pending, bool linked) {
  std::erase(pending_fills_, pending);  // Nobody joins from here on.
  pending->linked = linked;
  pending->ended.Set();
  while (!linked && pending->joined > 0) {
    pending->left.Reset();
    co_await pending->left.Wait();
  }
}

Task<absl::StatusOr<bool>> Image::EntriesReadAsZeros(const MetadataCache::Slice& slice,
                                                     uint64_t begin, uint64_t end) {
  for (uint64_t at = begin; at < end;) {
    const MappedRun run = map_.RunInSlice(slice, at, end - at);
    CO_ASSIGN_OR_RETURN(const bool zeros, co_await ReadsAsZeros(run.mapping, at, run.length));
    if (!zeros) co_return false;
    at += run.length;
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

Task<absl::Status> Image::ReadOld(const MetadataCache::Slice& slice, uint64_t guest_offset,
                                  std::span<uint8_t> dst) {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kCowRead);
  while (!dst.empty()) {
    const MappedRun run = map_.RunInSlice(slice, guest_offset, dst.size());
    const iovec part = ToIoVec(dst.first(run.length));
    CO_RETURN_IF_ERROR(co_await ReadRun(run, guest_offset, IoVecs(&part, 1)));
    guest_offset += run.length;
    dst = dst.subspan(run.length);
  }
  co_return absl::OkStatus();
}

void Image::FreeOld(const ClusterEntry& old) {
  if (layout_.external_data) return;  // Nothing is counted there.
  if (old.kind == ClusterEntry::Kind::kCompressed) {
    // Counted once for each host cluster that it touches, in whole sectors.
    const uint64_t first = layout_.cluster_index(old.host_offset);
    const uint64_t last = layout_.cluster_index(old.host_offset + old.compressed_bytes - 1);
    refcounts_.FreeLater(first << layout_.cluster_bits, last - first + 1);
  } else if (old.has_host) {
    refcounts_.FreeLater(old.host_offset, 1);
  }
}

}  // namespace vireo::qcow2
