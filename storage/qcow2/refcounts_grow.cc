// The end of the image: clusters that were never used, and the blocks and the table that count
// them.

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/refcount_entry.h"
#include "storage/qcow2/refcounts.h"

namespace vireo::qcow2 {

Task<absl::Status> Refcounts::FindEnd() {
  if (end_known_) co_return absl::OkStatus();
  // A device is longer than what it holds: the last counted cluster tells.
  for (uint64_t region = table_.size(); region-- > 0;) {
    if ((table_[region] & kRefcountTableOffsetMask) == 0) continue;
    const uint64_t first = region * layout_.refcounts_per_block();
    const uint64_t per_slice = layout_.refcounts_per_slice();
    for (uint64_t at = first + layout_.refcounts_per_block(); at > first; at -= per_slice) {
      CO_ASSIGN_OR_RETURN(const MetadataCache::Slice slice, co_await SliceOf(at - per_slice));
      for (uint64_t index = per_slice; index-- > 0;) {
        if (ReadRefcount(slice.bytes(), layout_.refcount_order, index) == 0) continue;
        end_ = at - per_slice + index + 1;
        end_known_ = true;
        co_return absl::OkStatus();
      }
    }
  }
  co_return absl::DataLossError(
      absl::StrFormat("%s: not even the header's refcount is above 0", file_.name()));
}

Task<absl::Status> Refcounts::GrowFile(uint64_t wanted) {
  const std::optional<uint64_t> end = CheckedAdd(end_, wanted);
  if (!end.has_value() || *end > kMaxHostOffset >> layout_.cluster_bits) {
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: no host offset beyond %d", file_.name(), kMaxHostOffset));
  }
  const uint64_t bytes = *end << layout_.cluster_bits;
  if (!file_.traits().growable || bytes <= file_.size()) co_return absl::OkStatus();
  const absl::Status status = co_await file_.ExtendAhead(bytes);
  co_return status;
}

Task<absl::Status> Refcounts::CollectAtEnd(uint64_t wanted, std::vector<HostRun>* runs) {
  const FileTraits& traits = file_.traits();
  const uint64_t limit = traits.growable ? kMaxHostOffset >> layout_.cluster_bits
                                         : file_.size() >> layout_.cluster_bits;
  while (wanted > 0) {
    if (end_ >= limit) {
      co_return absl::ResourceExhaustedError(absl::StrFormat(
          "%s: %d bytes are all it can hold", file_.name(), limit << layout_.cluster_bits));
    }
    const uint64_t region = region_of(end_);
    if (region >= table_.size()) {
      CO_RETURN_IF_ERROR(co_await GrowTable());
      continue;
    }
    if (table_[region] == 0) {
      CO_RETURN_IF_ERROR(co_await AddBlock(region));
      continue;
    }
    CO_ASSIGN_OR_RETURN(const MetadataCache::Slice slice, co_await SliceOf(end_));
    const uint64_t slice_end =
        AlignDown<uint64_t>(end_, layout_.refcounts_per_slice()) + layout_.refcounts_per_slice();
    // Behind the end of the file a crash may have left counts, but never anything else.
    while (end_ < slice_end &&
           ReadRefcount(slice.bytes(), layout_.refcount_order, IndexInSlice(end_)) != 0) {
      ++end_;
    }
    const uint64_t first = end_;
    const uint64_t stop = std::min({slice_end, first + wanted, limit});
    while (end_ < stop &&
           ReadRefcount(slice.bytes(), layout_.refcount_order, IndexInSlice(end_)) == 0) {
      ++end_;
    }
    if (end_ == first) continue;
    CO_RETURN_IF_ERROR(CheckFree(first, end_ - first));
    wanted -= end_ - first;
    runs->push_back({.host_offset = first << layout_.cluster_bits,
                     .clusters = end_ - first,
                     .fresh = traits.growable && traits.zero_filled});
  }
  const uint64_t bytes = end_ << layout_.cluster_bits;
  if (traits.growable && bytes > file_.size()) {  // Blocks have taken some of it.
    const absl::Status extended = co_await file_.ExtendAhead(bytes);
    if (!extended.ok()) {  // They work all the same, but what a crash makes of them is not known.
      for (HostRun& run : *runs) run.fresh = false;
    }
  }
  co_return absl::OkStatus();
}

// A new block describes itself or is described by a block that exists. Its content is durable
// before the table's entry is written; the entry before whoever called us uses it.
Task<absl::Status> Refcounts::AddBlock(uint64_t region) {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kRefblockAlloc);
  const uint64_t cluster = end_;
  const uint64_t host_offset = cluster << layout_.cluster_bits;
  if (!file_.traits().growable && host_offset + layout_.cluster_bytes() > file_.size()) {
    co_return absl::ResourceExhaustedError(absl::StrFormat("%s: the device is full", file_.name()));
  }
  CO_RETURN_IF_ERROR(CheckFree(cluster, 1));
  std::vector<uint8_t> block(layout_.cluster_bytes());
  if (region_of(cluster) == region) {
    WriteRefcount(block, layout_.refcount_order, cluster % layout_.refcounts_per_block(), 1);
  } else {
    const std::vector<HostRun> runs = {{host_offset, 1}};
    CO_RETURN_IF_ERROR(co_await Count(runs, 1));
    CO_RETURN_IF_ERROR(co_await WriteBlocks());
  }
  ++end_;
  const iovec part = ToIoVec(std::span<uint8_t>(block));
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kRefblockAllocWrite);
  CO_RETURN_IF_ERROR(co_await file_.Write(host_offset, IoVecs(&part, 1)));
  CO_RETURN_IF_ERROR(co_await barrier_.Sync());
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kRefblockAllocHookup);
  const Be64 entry(host_offset);
  const iovec entry_part = {const_cast<Be64*>(&entry), sizeof(entry)};
  CO_RETURN_IF_ERROR(
      co_await file_.Write(table_offset_ + region * sizeof(entry), IoVecs(&entry_part, 1)));
  table_[region] = host_offset;
  VIREO_CHECK(metadata_.Add(MetadataKind::kRefcountBlock, host_offset),
              "a new cluster is nobody's");
  co_return absl::OkStatus();
}

// The new table, and the blocks that describe it and themselves, lie at the end of the file, behind
// everything that the existing blocks describe. The header's switch makes them count.
Task<absl::Status> Refcounts::GrowTable() {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kReftableGrow);
  const uint64_t first = std::max(end_, table_.size() * layout_.refcounts_per_block());
  const uint64_t cluster_bytes = layout_.cluster_bytes();
  uint64_t blocks = 1;
  uint64_t table_clusters = 1;
  while (true) {  // Both only grow, until they describe themselves.
    const uint64_t last = first + blocks + table_clusters - 1;
    const uint64_t blocks_wanted = std::max(blocks, region_of(last) - region_of(first) + 1);
    const uint64_t entries =
        std::max(region_of(first) + blocks_wanted, table_.size() + table_.size() / 2);
    const uint64_t clusters_wanted =
        std::max(table_clusters, layout_.clusters_for(entries * sizeof(Be64)));
    if (blocks_wanted == blocks && clusters_wanted == table_clusters) break;
    blocks = blocks_wanted;
    table_clusters = clusters_wanted;
  }
  if (table_clusters * cluster_bytes > kMaxRefcountTableBytes) {
    co_return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: the refcount table would exceed %d bytes", file_.name(), kMaxRefcountTableBytes));
  }
  const uint64_t clusters = blocks + table_clusters;
  const uint64_t first_offset = first << layout_.cluster_bits;
  if (!file_.traits().growable && first_offset + clusters * cluster_bytes > file_.size()) {
    co_return absl::ResourceExhaustedError(absl::StrFormat("%s: the device is full", file_.name()));
  }

  CO_RETURN_IF_ERROR(CheckFree(first, clusters));
  std::vector<uint8_t> bytes(clusters * cluster_bytes);
  std::vector<uint64_t> table = table_;
  table.resize(table_clusters * cluster_bytes / sizeof(Be64));
  for (uint64_t i = 0; i < blocks; ++i) {
    table[region_of(first) + i] = first_offset + i * cluster_bytes;
  }
  for (uint64_t cluster = first; cluster < first + clusters; ++cluster) {
    const uint64_t block = region_of(cluster) - region_of(first);
    WriteRefcount(std::span(bytes).subspan(block * cluster_bytes, cluster_bytes),
                  layout_.refcount_order, cluster % layout_.refcounts_per_block(), 1);
  }
  const uint64_t table_offset = first_offset + blocks * cluster_bytes;
  for (size_t i = 0; i < table.size(); ++i) {
    const Be64 entry(table[i]);
    std::memcpy(bytes.data() + blocks * cluster_bytes + i * sizeof(entry), &entry, sizeof(entry));
  }
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  if (debug_ != nullptr) {
    co_await debug_->Reach(DebugEvent::kRefblockAllocWriteBlocks);
    co_await debug_->Reach(DebugEvent::kRefblockAllocWriteTable);
  }
  CO_RETURN_IF_ERROR(co_await file_.Write(first_offset, IoVecs(&part, 1)));
  CO_RETURN_IF_ERROR(co_await barrier_.Sync());

  struct {
    Be64 offset;
    Be32 clusters;
  } fields = {.offset = table_offset, .clusters = static_cast<uint32_t>(table_clusters)};
  static_assert(sizeof(fields) == 12);
  const iovec fields_part = {&fields, sizeof(fields)};
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kRefblockAllocSwitchTable);
  absl::Status switched = co_await file_.Write(kRefcountTableFieldsOffset, IoVecs(&fields_part, 1));
  if (switched.ok()) switched = co_await barrier_.Sync();
  if (!switched.ok()) {
    barrier_.Fail(switched);  // Which of the two tables counts is not known.
    co_return switched;
  }

  const uint64_t old_offset = table_offset_;
  const uint64_t old_clusters = table_.size() * sizeof(Be64) >> layout_.cluster_bits;
  metadata_.RemoveRange(old_offset);
  VIREO_CHECK(metadata_.AddRange(MetadataKind::kRefcountTable, table_offset,
                                 table_clusters * cluster_bytes),
              "new clusters are nobody's");
  for (uint64_t i = 0; i < blocks; ++i) {
    VIREO_CHECK(metadata_.Add(MetadataKind::kRefcountBlock, first_offset + i * cluster_bytes),
                "new clusters are nobody's");
  }
  table_ = std::move(table);
  table_offset_ = table_offset;
  end_ = first + clusters;
  resting_.push_back({{{.host_offset = old_offset, .clusters = old_clusters}}, in_flight_.Now()});
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
