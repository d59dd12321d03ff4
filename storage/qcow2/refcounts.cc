#include "storage/qcow2/refcounts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

// A refill scans at most this many slices for free clusters before it grows the file, so that its
// price does not grow with the image. With the usual parameters: 2048 clusters each.
constexpr uint64_t kScanSlices = 16;

uint64_t TotalClusters(const std::vector<HostRun>& runs) {
  uint64_t total = 0;
  for (const HostRun& run : runs) total += run.clusters;
  return total;
}

}  // namespace

Refcounts::Refcounts(const Layout& layout, Parts parts)
    : layout_(layout),
      file_(parts.file),
      debug_(parts.file.debug_events()),
      barrier_(parts.barrier),
      cache_(parts.cache),
      metadata_(parts.metadata),
      in_flight_(parts.in_flight) {}

Task<absl::Status> Refcounts::Load(uint64_t table_offset, uint32_t table_clusters) {
  const uint64_t bytes = table_clusters * layout_.cluster_bytes();
  std::vector<Be64> raw(bytes / sizeof(Be64));
  const iovec part = {raw.data(), bytes};
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kReftableLoad);
  CO_RETURN_IF_ERROR(co_await file_.Read(table_offset, IoVecs(&part, 1)));
  table_.assign(raw.begin(), raw.end());
  table_offset_ = table_offset;
  if (!metadata_.AddRange(MetadataKind::kRefcountTable, table_offset, bytes)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the refcount table overlaps other metadata", file_.name()));
  }
  for (uint64_t region = 0; region < table_.size(); ++region) {
    if ((table_[region] & kRefcountTableOffsetMask) == 0) continue;
    const absl::StatusOr<uint64_t> block = BlockOffset(region);
    if (!block.ok()) continue;  // Whoever needs it will hear of it.
    if (metadata_.Is(MetadataKind::kRefcountBlock, *block)) {
      shared_.insert(region);
      continue;
    }
    if (!metadata_.Add(MetadataKind::kRefcountBlock, *block)) {
      co_return absl::DataLossError(absl::StrFormat(
          "%s: the refcount block at offset %d overlaps other metadata", file_.name(), *block));
    }
  }
  end_ = layout_.clusters_for(file_.size());
  end_known_ = file_.traits().growable;
  co_return absl::OkStatus();
}

absl::StatusOr<uint64_t> Refcounts::BlockOffset(uint64_t region) const {
  const uint64_t offset = table_[region] & kRefcountTableOffsetMask;
  if (layout_.offset_in_cluster(offset) != 0 || offset < layout_.cluster_bytes() ||
      offset >= kMaxHostOffset || offset >= file_.size() || shared_.contains(region)) {
    return absl::DataLossError(
        absl::StrFormat("%s: entry %d of the refcount table points to offset %d, which cannot be",
                        file_.name(), region, offset));
  }
  return offset;
}

absl::Status Refcounts::CheckFree(uint64_t cluster, uint64_t count) const {
  const uint64_t host_offset = cluster << layout_.cluster_bits;
  if (!metadata_.Overlaps(host_offset, count << layout_.cluster_bits)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("%s: the metadata in the %d clusters from offset %d on is counted as free",
                      file_.name(), count, host_offset));
}

Task<absl::StatusOr<MetadataCache::Slice>> Refcounts::SliceOf(uint64_t cluster) {
  CO_ASSIGN_OR_RETURN(const uint64_t block, BlockOffset(region_of(cluster)));
  // An entry that pointed behind the file's end when it was opened points into it as the file
  // grows: to clusters that were given to others.
  if (!metadata_.Is(MetadataKind::kRefcountBlock, block)) {
    co_return absl::DataLossError(absl::StrFormat(
        "%s: entry %d of the refcount table points to offset %d, which is another's", file_.name(),
        region_of(cluster), block));
  }
  const uint64_t index = cluster % layout_.refcounts_per_block();
  const uint64_t slice = index / layout_.refcounts_per_slice() * layout_.slice_bytes();
  auto found = cache_.Find(block + slice);
  if (found.valid()) co_return found;
  auto got = co_await cache_.Get(MetadataKind::kRefcountBlock, block + slice);
  co_return got;
}

Task<absl::StatusOr<uint64_t>> Refcounts::Get(uint64_t cluster) {
  const uint64_t region = region_of(cluster);
  if (region >= table_.size() || (table_[region] & kRefcountTableOffsetMask) == 0) {
    co_return uint64_t{0};
  }
  CO_ASSIGN_OR_RETURN(const MetadataCache::Slice slice, co_await SliceOf(cluster));
  co_return ReadRefcount(slice.bytes(), layout_.refcount_order, IndexInSlice(cluster));
}

uint64_t Refcounts::DataRefillClusters() const {
  // 1 MiB at first, then up to 16 MiB; with tiny clusters fewer bytes, so that a refill stays
  // short.
  const uint64_t bytes = (uint64_t{1} << 20) << std::min<uint64_t>(refills_, 4);
  return std::clamp<uint64_t>(bytes >> layout_.cluster_bits, 1, 4096);
}

uint64_t Refcounts::TableRefillClusters() const {
  return std::clamp<uint64_t>((uint64_t{256} << 10) >> layout_.cluster_bits, 1, 64);
}

Task<absl::StatusOr<HostRun>> Refcounts::AllocateData(uint64_t clusters) {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kClusterAlloc);
  VIREO_DCHECK(clusters > 0);
  if (data_.empty()) {
    const AsyncMutex::Guard guard = co_await mutex_.Lock();
    if (data_.empty()) {
      const uint64_t tables = tables_.empty() ? TableRefillClusters() : 0;
      const uint64_t data = std::max(clusters, DataRefillClusters());
      absl::Status refilled = co_await Refill(data, tables);
      if (absl::IsResourceExhausted(refilled)) refilled = co_await Refill(1, 0);
      CO_RETURN_IF_ERROR(refilled);
    }
  }
  HostRun& front = data_.front();
  HostRun run = front;
  run.clusters = std::min(clusters, front.clusters);
  front.clusters -= run.clusters;
  front.host_offset += run.clusters << layout_.cluster_bits;
  if (front.clusters == 0) data_.pop_front();
  co_return run;
}

Task<absl::StatusOr<uint64_t>> Refcounts::AllocateTable() {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kClusterAlloc);
  if (tables_.empty()) {
    const AsyncMutex::Guard guard = co_await mutex_.Lock();
    if (tables_.empty()) {
      absl::Status refilled = co_await Refill(0, TableRefillClusters());
      if (absl::IsResourceExhausted(refilled)) refilled = co_await Refill(0, 1);
      CO_RETURN_IF_ERROR(refilled);
    }
  }
  HostRun& front = tables_.front();
  const uint64_t host_offset = front.host_offset;
  front.host_offset += layout_.cluster_bytes();
  if (--front.clusters == 0) tables_.pop_front();
  co_return host_offset;
}

Task<absl::StatusOr<uint64_t>> Refcounts::AllocateContiguous(uint64_t clusters) {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kClusterAlloc);
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  CO_RETURN_IF_ERROR(co_await FindEnd());
  CO_RETURN_IF_ERROR(co_await GrowFile(clusters));
  // Blocks first: they are put at the end as well, and would lie in between.
  uint64_t first = end_;
  for (uint64_t cluster = first; cluster < first + clusters;) {
    const uint64_t region = region_of(cluster);
    if (region >= table_.size()) {
      CO_RETURN_IF_ERROR(co_await GrowTable());
    } else if (table_[region] == 0) {
      CO_RETURN_IF_ERROR(co_await AddBlock(region));
    } else {
      CO_ASSIGN_OR_RETURN(const uint64_t count, co_await Get(cluster));
      if (count == 0) {
        ++cluster;
        continue;
      }
      end_ = cluster + 1;
    }
    first = end_;
    cluster = first;
  }
  if (!file_.traits().growable && (first + clusters) << layout_.cluster_bits > file_.size()) {
    co_return absl::ResourceExhaustedError(absl::StrFormat("%s: the device is full", file_.name()));
  }
  CO_RETURN_IF_ERROR(CheckFree(first, clusters));
  end_ = first + clusters;
  const std::vector<HostRun> runs = {{first << layout_.cluster_bits, clusters}};
  CO_RETURN_IF_ERROR(co_await Count(runs, 1));
  CO_RETURN_IF_ERROR(co_await WriteBlocks());
  CO_RETURN_IF_ERROR(co_await barrier_.Sync());
  co_return first << layout_.cluster_bits;
}

Task<absl::StatusOr<bool>> Refcounts::AddReference(uint64_t host_offset) {
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  const uint64_t cluster = layout_.cluster_index(host_offset);
  CO_ASSIGN_OR_RETURN(MetadataCache::Slice slice, co_await SliceOf(cluster));
  const uint64_t count = ReadRefcount(slice.bytes(), layout_.refcount_order, IndexInSlice(cluster));
  if (count == 0) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the cluster at offset %d is in use, but its refcount is 0",
                        file_.name(), host_offset));
  }
  if (count == layout_.max_refcount()) co_return false;
  WriteRefcount(slice.MutableBytes(), layout_.refcount_order, IndexInSlice(cluster), count + 1);
  co_return true;
}

void Refcounts::GiveBack(HostRun run) {
  if (run.clusters == 0) return;
  run.fresh = false;
  data_.push_front(run);
}

void Refcounts::FreeLater(uint64_t host_offset, uint64_t clusters) {
  if (!freed_.empty()) {
    HostRun& last = freed_.back();
    if (last.host_offset + (last.clusters << layout_.cluster_bits) == host_offset) {
      last.clusters += clusters;
      return;
    }
  }
  freed_.push_back({.host_offset = host_offset, .clusters = clusters});
}

std::vector<HostRun> Refcounts::TakeFreed() { return std::exchange(freed_, {}); }

void Refcounts::Rest(std::vector<HostRun> freed) {
  if (!freed.empty()) resting_.push_back({std::move(freed), in_flight_.Now()});
}

void Refcounts::PutBackFreed(std::vector<HostRun> freed) {
  freed_.insert(freed_.end(), freed.begin(), freed.end());
}

bool Refcounts::HasRested() const {
  return !resting_.empty() && in_flight_.HasPassed(resting_.front().moment);
}

bool Refcounts::NeedsWriteBack() const {
  return cache_.dirty_count(MetadataKind::kRefcountBlock) > 0 || HasRested();
}

Task<absl::Status> Refcounts::WriteBack() {
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  CO_RETURN_IF_ERROR(co_await ApplyRested());
  const absl::Status status = co_await WriteBlocks();
  co_return status;
}

Task<absl::Status> Refcounts::WriteBlocks() {
  const absl::Status status = co_await cache_.Write(cache_.Freeze(MetadataKind::kRefcountBlock));
  co_return status;
}

Task<absl::Status> Refcounts::Count(const std::vector<HostRun>& runs, uint64_t value) {
  for (const HostRun& run : runs) {
    uint64_t cluster = layout_.cluster_index(run.host_offset);
    const uint64_t end = cluster + run.clusters;
    while (cluster < end) {
      CO_ASSIGN_OR_RETURN(MetadataCache::Slice slice, co_await SliceOf(cluster));
      const std::span<uint8_t> bytes = slice.MutableBytes();
      do {
        WriteRefcount(bytes, layout_.refcount_order, IndexInSlice(cluster), value);
        ++cluster;
      } while (cluster < end && IndexInSlice(cluster) != 0);
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Refcounts::Refill(uint64_t data_wanted, uint64_t tables_wanted) {
  CO_RETURN_IF_ERROR(co_await ApplyRested());
  CO_RETURN_IF_ERROR(co_await FindEnd());
  const uint64_t wanted = data_wanted + tables_wanted;
  std::vector<HostRun> runs;
  CO_RETURN_IF_ERROR(co_await CollectFreed(wanted, kScanSlices, &runs));
  // A few recycled clusters are not worth a flush of their own while the file can grow.
  uint64_t collected = TotalClusters(runs);
  if (collected < (wanted + 3) / 4) {
    absl::Status grown = co_await GrowFile(wanted - collected);
    if (grown.ok()) grown = co_await CollectAtEnd(wanted - collected, &runs);
    collected = TotalClusters(runs);
    if (absl::IsResourceExhausted(grown) && collected == 0) {
      // The host is full: look at every cluster before giving up.
      CO_RETURN_IF_ERROR(co_await CollectFreed(wanted, ~uint64_t{0}, &runs));
      collected = TotalClusters(runs);
      if (collected > 0) grown = absl::OkStatus();
    }
    if (!grown.ok() && (collected == 0 || !absl::IsResourceExhausted(grown))) co_return grown;
  }
  if (collected == 0) {
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: no free cluster is left", file_.name()));
  }

  // Tables first: they are few, and without one nothing can be linked.
  std::deque<HostRun> data;
  std::deque<HostRun> tables;
  uint64_t tables_missing = data_wanted == 0 ? collected : std::min(tables_wanted, collected - 1);
  for (const HostRun& run : runs) {
    HostRun rest = run;
    const uint64_t taken = std::min(tables_missing, rest.clusters);
    if (taken > 0) {
      tables.push_back({rest.host_offset, taken, rest.fresh});
      rest.host_offset += taken << layout_.cluster_bits;
      rest.clusters -= taken;
      tables_missing -= taken;
    }
    if (rest.clusters > 0) data.push_back(rest);
  }

  absl::Status status = co_await Count(runs, 1);
  for (const HostRun& run : tables) {
    if (!status.ok()) break;
    if (run.fresh) continue;
    status = co_await file_.WriteZeroes(run.host_offset, run.clusters << layout_.cluster_bits,
                                        /*may_unmap=*/false);
  }
  if (status.ok()) status = co_await WriteBlocks();
  if (status.ok()) status = co_await barrier_.Sync();
  if (!status.ok()) {
    // Nothing was given out: not counted again, as far as that can be said in memory.
    const absl::Status reverted = co_await Count(runs, 0);
    if (!reverted.ok()) LogWarning("%s: clusters leak: %s", file_.name(), reverted.ToString());
    for (const HostRun& run : runs) {
      scan_ = std::min(scan_, layout_.cluster_index(run.host_offset));
    }
    co_return status;
  }
  data_.insert(data_.end(), data.begin(), data.end());
  tables_.insert(tables_.end(), tables.begin(), tables.end());
  if (data_wanted > 0) ++refills_;
  co_return absl::OkStatus();
}

Task<absl::Status> Refcounts::CollectFreed(uint64_t wanted, uint64_t slice_budget,
                                           std::vector<HostRun>* runs) {
  uint64_t found = TotalClusters(*runs);
  while (found < wanted && scan_ < end_ && slice_budget > 0) {
    const uint64_t region = region_of(scan_);
    if (region >= table_.size() || table_[region] == 0) {
      scan_ = (region + 1) * layout_.refcounts_per_block();
      continue;
    }
    --slice_budget;
    CO_ASSIGN_OR_RETURN(const MetadataCache::Slice slice, co_await SliceOf(scan_));
    const uint64_t stop = std::min(end_, AlignDown<uint64_t>(scan_, layout_.refcounts_per_slice()) +
                                             layout_.refcounts_per_slice());
    for (; scan_ < stop && found < wanted; ++scan_) {
      if (ReadRefcount(slice.bytes(), layout_.refcount_order, IndexInSlice(scan_)) != 0) continue;
      const uint64_t host_offset = scan_ << layout_.cluster_bits;
      CO_RETURN_IF_ERROR(CheckFree(scan_, 1));
      ++found;
      if (!runs->empty()) {
        HostRun& last = runs->back();
        if (last.host_offset + (last.clusters << layout_.cluster_bits) == host_offset) {
          ++last.clusters;
          continue;
        }
      }
      runs->push_back({.host_offset = host_offset, .clusters = 1});
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Refcounts::Decrement(HostRun run, std::vector<HostRun>* free) {
  uint64_t cluster = layout_.cluster_index(run.host_offset);
  const uint64_t end = cluster + run.clusters;
  while (cluster < end) {
    if (region_of(cluster) >= table_.size() || table_[region_of(cluster)] == 0) {
      co_return absl::DataLossError(
          absl::StrFormat("%s: the cluster at offset %d is freed, but was never counted",
                          file_.name(), cluster << layout_.cluster_bits));
    }
    CO_ASSIGN_OR_RETURN(MetadataCache::Slice slice, co_await SliceOf(cluster));
    const std::span<uint8_t> bytes = slice.MutableBytes();
    do {
      const uint64_t host_offset = cluster << layout_.cluster_bits;
      const uint64_t count = ReadRefcount(bytes, layout_.refcount_order, IndexInSlice(cluster));
      if (count == 0) {
        co_return absl::DataLossError(
            absl::StrFormat("%s: the cluster at offset %d is freed, but its refcount is 0",
                            file_.name(), host_offset));
      }
      WriteRefcount(bytes, layout_.refcount_order, IndexInSlice(cluster), count - 1);
      if (count == 1) {
        scan_ = std::min(scan_, cluster);
        if (metadata_.Is(MetadataKind::kL2Table, host_offset)) {
          cache_.Forget(host_offset);
          metadata_.Remove(host_offset);
        }
        if (!free->empty() &&
            free->back().host_offset + (free->back().clusters << layout_.cluster_bits) ==
                host_offset) {
          ++free->back().clusters;
        } else {
          free->push_back({.host_offset = host_offset, .clusters = 1});
        }
      }
      ++cluster;
    } while (cluster < end && IndexInSlice(cluster) != 0);
    if (cache_.dirty_count(MetadataKind::kRefcountBlock) <= cache_.limit_slices() / 8) continue;
    // A large discard changes more counts than the cache is to hold.
    const absl::Status written = co_await WriteBlocks();
    if (!written.ok()) LogDebug("%s", written.ToString());  // Still dirty: the next one tells.
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Refcounts::ApplyRested() {
  std::vector<HostRun> free;
  absl::Status status;
  while (status.ok() && HasRested()) {
    const Resting resting = std::move(resting_.front());
    resting_.pop_front();
    for (const HostRun& run : resting.runs) {
      if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kClusterFree);
      const absl::Status decremented = co_await Decrement(run, &free);
      if (decremented.ok()) continue;
      if (absl::IsDataLoss(decremented)) {
        status = decremented;
        break;
      }
      LogWarning("%s: clusters leak: %s", file_.name(), decremented.ToString());
    }
  }
  // Nobody can be given these clusters before we return: the mutex is held.
  for (const HostRun& run : free) {
    const absl::Status discarded =
        co_await file_.Discard(run.host_offset, run.clusters << layout_.cluster_bits);
    if (!discarded.ok()) LogDebug("%s", discarded.ToString());
  }
  co_return status;
}

Task<absl::Status> Refcounts::Close() {
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  absl::Status status = co_await ApplyRested();
  std::vector<HostRun> unused(data_.begin(), data_.end());
  unused.insert(unused.end(), tables_.begin(), tables_.end());
  data_.clear();
  tables_.clear();
  if (status.ok()) status = co_await Count(unused, 0);
  if (status.ok()) status = co_await WriteBlocks();
  if (status.ok()) status = co_await barrier_.Sync();
  if (!status.ok() || unused.empty() || !file_.traits().growable) co_return status;

  std::sort(unused.begin(), unused.end(),
            [](const HostRun& a, const HostRun& b) { return a.host_offset > b.host_offset; });
  for (const HostRun& run : unused) {
    if (layout_.cluster_index(run.host_offset) + run.clusters != end_) break;
    end_ -= run.clusters;
  }
  const uint64_t bytes = end_ << layout_.cluster_bits;
  if (bytes >= file_.size()) co_return status;
  CO_RETURN_IF_ERROR(co_await file_.Truncate(bytes));
  status = co_await barrier_.Sync();
  co_return status;
}

}  // namespace vireo::qcow2
