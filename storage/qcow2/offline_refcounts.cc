#include "storage/qcow2/offline_refcounts.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/async/task_scope.h"
#include "base/check.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

// Of blocks in memory: 4 TiB of image with the usual parameters.
constexpr uint64_t kMaxLoadedBytes = uint64_t{128} << 20;
// Blocks read at once, and in flight when written.
constexpr uint64_t kReadAhead = 32;

constexpr uint64_t kWriteUnit = 4096;

}  // namespace

OfflineRefcounts::OfflineRefcounts(EventLoop& loop, File& file, Header& header)
    : loop_(loop),
      file_(file),
      header_(header),
      layout_(header.layout),
      per_block_(layout_.refcounts_per_block()) {}

Task<absl::Status> OfflineRefcounts::Load() {
  std::vector<Be64> raw(header_.refcount_table_clusters * layout_.cluster_bytes() / sizeof(Be64));
  const iovec part = {raw.data(), raw.size() * sizeof(Be64)};
  CO_RETURN_IF_ERROR(co_await file_.Read(header_.refcount_table_offset, IoVecs(&part, 1)));
  table_.assign(raw.begin(), raw.end());
  blocks_.clear();
  blocks_.resize(table_.size());
  loaded_ = 0;
  next_gap_ = 0;
  for (uint64_t region = 0; region < table_.size(); ++region) {
    const uint64_t block = table_[region];
    if (block == 0) continue;
    if (layout_.offset_in_cluster(block) != 0 || block < layout_.cluster_bytes() ||
        block >= file_.size()) {
      co_return absl::DataLossError(
          absl::StrFormat("%s: refcount block %d is at offset %d", file_.name(), region, block));
    }
  }
  co_return absl::OkStatus();
}

std::vector<ClusterRun> OfflineRefcounts::StructureRuns() const {
  std::vector<ClusterRun> runs = {
      {layout_.cluster_index(header_.refcount_table_offset), header_.refcount_table_clusters}};
  for (const uint64_t block : table_) {
    if (block != 0) runs.push_back({layout_.cluster_index(block), 1});
  }
  return runs;
}

// --- Blocks in memory ---

Task<void> OfflineRefcounts::ReadBlock(uint64_t region, absl::Status* status) {
  auto block = std::make_unique<Block>();
  block->bytes.resize(layout_.cluster_bytes());
  const iovec part = ToIoVec(std::span<uint8_t>(block->bytes));
  const absl::Status read = co_await file_.Read(table_[region], IoVecs(&part, 1));
  if (!read.ok()) {
    *status = read;
    co_return;
  }
  blocks_[region] = std::move(block);
  ++loaded_;
}

Task<absl::Status> OfflineRefcounts::LoadBlock(uint64_t region) {
  if ((loaded_ + kReadAhead) * layout_.cluster_bytes() > kMaxLoadedBytes && loaded_ > 0) {
    CO_RETURN_IF_ERROR(co_await Write());
    for (std::unique_ptr<Block>& block : blocks_) block.reset();
    loaded_ = 0;
  }
  absl::Status status;
  TaskScope reads(loop_);
  uint64_t started = 0;
  for (uint64_t at = region; at < table_.size() && started < kReadAhead; ++at) {
    if (table_[at] == 0 || blocks_[at] != nullptr) {
      if (at >= region + 4 * kReadAhead) break;
      continue;
    }
    reads.Spawn(ReadBlock(at, &status));
    ++started;
    // What a caller needs may be one block of large clusters: no further ahead than 4 MiB.
    if (started * layout_.cluster_bytes() >= (uint64_t{4} << 20)) break;
  }
  co_await reads.Join();
  if (blocks_[region] != nullptr) co_return absl::OkStatus();
  co_return status;
}

Task<void> OfflineRefcounts::WriteBlock(uint64_t region, absl::Status* status) {
  Block& block = *blocks_[region];
  const iovec part = {block.bytes.data() + block.dirty_begin, block.dirty_end - block.dirty_begin};
  const absl::Status written =
      co_await file_.Write(table_[region] + block.dirty_begin, IoVecs(&part, 1));
  if (written.ok()) {
    block.dirty_begin = block.dirty_end = 0;
  } else {
    *status = written;
  }
}

Task<absl::Status> OfflineRefcounts::Write() {
  absl::Status status;
  TaskScope writes(loop_);
  for (uint64_t region = 0; region < blocks_.size() && status.ok(); ++region) {
    const Block* const block = blocks_[region].get();
    if (block == nullptr || block->dirty_begin == block->dirty_end) continue;
    writes.Spawn(WriteBlock(region, &status));
    if (writes.size() >= kReadAhead) co_await writes.Join();
  }
  co_await writes.Join();
  co_return status;
}

void OfflineRefcounts::Discard() {
  for (std::unique_ptr<Block>& block : blocks_) {
    if (block == nullptr || block->dirty_begin == block->dirty_end) continue;
    block.reset();
    --loaded_;
  }
  next_gap_ = 0;
}

void OfflineRefcounts::MarkDirty(Block& block, uint64_t index, uint64_t count) {
  const uint64_t unit = std::min(kWriteUnit, layout_.cluster_bytes());
  const uint64_t bits = layout_.refcount_bits();
  const uint64_t begin = AlignDown<uint64_t>(index * bits / 8, unit);
  const uint64_t end = AlignUp<uint64_t>(DivideRoundUp<uint64_t>((index + count) * bits, 8), unit);
  if (block.dirty_begin == block.dirty_end) {
    block.dirty_begin = begin;
    block.dirty_end = end;
    return;
  }
  block.dirty_begin = std::min(block.dirty_begin, begin);
  block.dirty_end = std::max(block.dirty_end, end);
}

// --- Counting ---

std::optional<uint64_t> OfflineRefcounts::Peek(uint64_t cluster) const {
  const uint64_t region = region_of(cluster);
  if (region >= table_.size() || table_[region] == 0) return 0;
  const Block* const block = blocks_[region].get();
  if (block == nullptr) return std::nullopt;
  return ReadRefcount(block->bytes, layout_.refcount_order, cluster % per_block_);
}

Task<absl::StatusOr<uint64_t>> OfflineRefcounts::Get(uint64_t cluster) {
  const uint64_t region = region_of(cluster);
  if (region >= table_.size() || table_[region] == 0) co_return uint64_t{0};
  if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
  co_return ReadRefcount(blocks_[region]->bytes, layout_.refcount_order, cluster % per_block_);
}

Task<absl::Status> OfflineRefcounts::Raise(std::span<const ClusterRun> runs) {
  return Change(runs, true);
}

Task<absl::Status> OfflineRefcounts::Lower(std::span<const ClusterRun> runs) {
  return Change(runs, false);
}

Task<absl::Status> OfflineRefcounts::Change(std::span<const ClusterRun> runs, bool raise) {
  for (const ClusterRun& run : runs) {
    uint64_t at = run.first;
    const uint64_t end = run.first + run.count;
    while (at < end) {
      const uint64_t region = region_of(at);
      if (region >= table_.size() || table_[region] == 0) {
        co_return absl::DataLossError(
            absl::StrFormat("%s: cluster %d is in use, but not counted", file_.name(), at));
      }
      if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
      const uint64_t index = at % per_block_;
      const uint64_t count = std::min(end - at, per_block_ - index);
      CO_RETURN_IF_ERROR(ChangeInBlock(*blocks_[region], region, index, count, raise));
      at += count;
    }
    if (!raise) next_gap_ = std::min(next_gap_, run.first);
  }
  co_return absl::OkStatus();
}

absl::Status OfflineRefcounts::ChangeInBlock(Block& block, uint64_t region, uint64_t index,
                                             uint64_t count, bool raise) {
  MarkDirty(block, index, count);
  const uint64_t max = layout_.max_refcount();
  for (uint64_t i = index; i < index + count; ++i) {
    uint64_t value;
    // The usual width, without a call for each of millions of counters.
    if (layout_.refcount_order == 4) {
      value = static_cast<uint64_t>(block.bytes[i * 2]) << 8 | block.bytes[i * 2 + 1];
    } else {
      value = ReadRefcount(block.bytes, layout_.refcount_order, i);
    }
    if (value == 0) {
      return absl::DataLossError(absl::StrFormat("%s: cluster %d is in use, but not counted",
                                                 file_.name(), region * per_block_ + i));
    }
    if (raise && value == max) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%s: cluster %d would have more references than %d bits can count",
                          file_.name(), region * per_block_ + i, layout_.refcount_bits()));
    }
    value = raise ? value + 1 : value - 1;
    if (value == 0) protected_.erase(region * per_block_ + i);
    if (layout_.refcount_order == 4) {
      block.bytes[i * 2] = static_cast<uint8_t>(value >> 8);
      block.bytes[i * 2 + 1] = static_cast<uint8_t>(value);
    } else {
      WriteRefcount(block.bytes, layout_.refcount_order, i, value);
    }
  }
  return absl::OkStatus();
}

// --- Allocating ---

void OfflineRefcounts::Protect(std::span<const ClusterRun> runs) {
  for (const ClusterRun& run : runs) {
    for (uint64_t i = 0; i < run.count; ++i) protected_.insert(run.first + i);
  }
}

absl::Status OfflineRefcounts::CheckFree(uint64_t first, uint64_t clusters) const {
  for (uint64_t cluster = first; cluster < first + clusters; ++cluster) {
    if (!IsProtected(cluster)) continue;
    return absl::DataLossError(absl::StrFormat("%s: the metadata at offset %d is counted as free",
                                               file_.name(), cluster << layout_.cluster_bits));
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<uint64_t>> OfflineRefcounts::Allocate(uint64_t clusters) {
  CO_ASSIGN_OR_RETURN(const std::optional<uint64_t> gap, co_await FindGap(clusters));
  uint64_t first = 0;
  if (gap.has_value()) {
    first = *gap;
  } else {
    CO_ASSIGN_OR_RETURN(first, co_await MakeRoom(clusters));
  }
  CO_RETURN_IF_ERROR(co_await Take(first, clusters));
  if (first == next_gap_) next_gap_ = first + clusters;
  co_return first << layout_.cluster_bits;
}

Task<absl::StatusOr<uint64_t>> OfflineRefcounts::AllocateAtEnd(uint64_t clusters) {
  CO_ASSIGN_OR_RETURN(const uint64_t first, co_await MakeRoom(clusters));
  CO_RETURN_IF_ERROR(co_await Take(first, clusters));
  co_return first << layout_.cluster_bits;
}

Task<absl::Status> OfflineRefcounts::Take(uint64_t first, uint64_t clusters) {
  CO_RETURN_IF_ERROR(CheckFree(first, clusters));
  for (uint64_t cluster = first; cluster < first + clusters; ++cluster) {
    const uint64_t region = region_of(cluster);
    if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
    Block& block = *blocks_[region];
    WriteRefcount(block.bytes, layout_.refcount_order, cluster % per_block_, 1);
    MarkDirty(block, cluster % per_block_, 1);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::optional<uint64_t>>> OfflineRefcounts::FindGap(uint64_t clusters) {
  // A host offset must be sayable, and inside a block device.
  const uint64_t device_end = file_.traits().growable ? layout_.cluster_index(kMaxHostOffset)
                                                      : layout_.cluster_index(file_.size());
  uint64_t free_since = 0;
  uint64_t free = 0;
  bool first_free_seen = false;
  for (uint64_t region = region_of(next_gap_); region < table_.size(); ++region) {
    if (table_[region] == 0) {
      free = 0;
      continue;
    }
    if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
    const Block& block = *blocks_[region];
    const uint64_t begin = region == region_of(next_gap_) ? next_gap_ % per_block_ : 0;
    for (uint64_t i = begin; i < per_block_; ++i) {
      const uint64_t cluster = region * per_block_ + i;
      if (cluster >= device_end) co_return std::nullopt;
      const bool used = layout_.refcount_order == 4
                            ? (block.bytes[i * 2] | block.bytes[i * 2 + 1]) != 0
                            : ReadRefcount(block.bytes, layout_.refcount_order, i) != 0;
      if (used) {
        free = 0;
        continue;
      }
      if (!first_free_seen) {
        first_free_seen = true;
        next_gap_ = cluster;
      }
      if (free++ == 0) free_since = cluster;
      if (free == clusters) co_return free_since;
    }
  }
  co_return std::nullopt;
}

bool OfflineRefcounts::IsEmpty(uint64_t region) const {
  const uint64_t own = layout_.cluster_index(table_[region]);
  std::vector<uint8_t> bytes = blocks_[region]->bytes;
  if (region_of(own) == region) WriteRefcount(bytes, layout_.refcount_order, own % per_block_, 0);
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

Task<absl::Status> OfflineRefcounts::DropEmptyBlocks() {
  std::vector<ClusterRun> elsewhere;  // Blocks that are counted by another one.
  bool dropped = false;
  for (uint64_t region = table_.size(); region-- > 1;) {
    if (table_[region] == 0) continue;
    if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
    if (!IsEmpty(region)) continue;
    const uint64_t own = layout_.cluster_index(table_[region]);
    const Be64 none(0);
    const iovec part = {const_cast<Be64*>(&none), sizeof(none)};
    CO_RETURN_IF_ERROR(co_await file_.Write(header_.refcount_table_offset + region * sizeof(Be64),
                                            IoVecs(&part, 1)));
    if (region_of(own) != region) elsewhere.push_back({own, 1});
    table_[region] = 0;
    blocks_[region].reset();
    --loaded_;
    dropped = true;
  }
  if (!dropped) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await file_.Sync());
  CO_RETURN_IF_ERROR(co_await Lower(elsewhere));
  const absl::Status status = co_await Write();
  co_return status;
}

Task<absl::StatusOr<uint64_t>> OfflineRefcounts::EndCluster() {
  for (uint64_t region = table_.size(); region-- > 0;) {
    if (table_[region] == 0) continue;
    if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
    const Block& block = *blocks_[region];
    for (uint64_t i = per_block_; i-- > 0;) {
      if (ReadRefcount(block.bytes, layout_.refcount_order, i) != 0) {
        co_return region* per_block_ + i + 1;
      }
    }
  }
  co_return uint64_t{0};
}

Task<absl::StatusOr<uint64_t>> OfflineRefcounts::MakeRoom(uint64_t clusters) {
  const absl::Status full = absl::ResourceExhaustedError(
      absl::StrFormat("%s: no room for %d more clusters", file_.name(), clusters));
  CO_ASSIGN_OR_RETURN(const uint64_t counted_end, co_await EndCluster());
  // Behind all that is there, counted or not: [new blocks] [new table] [room]. A device is longer
  // than what it holds: behind what is counted.
  const bool growable = file_.traits().growable;
  const uint64_t first =
      growable ? std::max(counted_end, layout_.clusters_for(file_.size())) : counted_end;
  const uint64_t limit = layout_.cluster_index(growable ? kMaxHostOffset : file_.size());
  std::vector<uint64_t> regions;
  uint64_t table_clusters = 0;
  while (true) {
    const uint64_t end = first + regions.size() + table_clusters + clusters;
    if (end > limit) co_return full;
    std::vector<uint64_t> missing;
    for (uint64_t region = region_of(first); region <= region_of(end - 1); ++region) {
      if (region >= table_.size() || table_[region] == 0) missing.push_back(region);
    }
    uint64_t wanted_table = 0;
    if (region_of(end - 1) >= table_.size()) {
      const uint64_t entries = region_of(end - 1) + 1;
      wanted_table = layout_.clusters_for((entries + entries / 2) * sizeof(Be64));
      const uint64_t most = kMaxRefcountTableBytes >> layout_.cluster_bits;
      if (wanted_table > most) wanted_table = layout_.clusters_for(entries * sizeof(Be64));
      if (wanted_table > most) co_return full;
    }
    const bool settled = missing.size() <= regions.size() && wanted_table <= table_clusters;
    if (settled) break;
    regions = std::move(missing);
    table_clusters = std::max(table_clusters, wanted_table);
  }
  const uint64_t table_first = first + regions.size();
  const uint64_t room = table_first + table_clusters;
  if (regions.empty() && table_clusters == 0) co_return room;
  CO_RETURN_IF_ERROR(CheckFree(first, room - first));

  // The blocks that are there already count their share of the new structures; they, too, have to
  // be durable before anything points there.
  const uint64_t old_offset = header_.refcount_table_offset;
  const uint64_t old_clusters = header_.refcount_table_clusters;
  std::vector<uint64_t> table = table_;
  if (table_clusters > 0) table.resize((table_clusters << layout_.cluster_bits) / sizeof(Be64));
  std::vector<std::pair<uint64_t, std::unique_ptr<Block>>> fresh;
  for (size_t i = 0; i < regions.size(); ++i) {
    table[regions[i]] = (first + i) << layout_.cluster_bits;
    auto block = std::make_unique<Block>();
    block->bytes.resize(layout_.cluster_bytes());
    fresh.emplace_back(regions[i], std::move(block));
  }
  for (uint64_t cluster = first; cluster < room; ++cluster) {
    const uint64_t region = region_of(cluster);
    Block* block = nullptr;
    for (auto& [index, made] : fresh) {
      if (index == region) block = made.get();
    }
    if (block == nullptr) {
      if (blocks_[region] == nullptr) CO_RETURN_IF_ERROR(co_await LoadBlock(region));
      block = blocks_[region].get();
      MarkDirty(*block, cluster % per_block_, 1);
    }
    WriteRefcount(block->bytes, layout_.refcount_order, cluster % per_block_, 1);
  }
  CO_RETURN_IF_ERROR(co_await Write());
  for (const auto& [region, block] : fresh) {
    const iovec part = ToIoVec(std::span<uint8_t>(block->bytes));
    CO_RETURN_IF_ERROR(co_await file_.Write(table[region], IoVecs(&part, 1)));
  }
  std::vector<Be64> raw(table.begin(), table.end());
  if (table_clusters > 0) {
    const iovec part = {raw.data(), raw.size() * sizeof(Be64)};
    CO_RETURN_IF_ERROR(co_await file_.Write(table_first << layout_.cluster_bits, IoVecs(&part, 1)));
    CO_RETURN_IF_ERROR(co_await file_.Sync());
    struct {
      Be64 offset;
      Be32 clusters;
    } fields = {.offset = table_first << layout_.cluster_bits,
                .clusters = static_cast<uint32_t>(table_clusters)};
    static_assert(sizeof(fields) == 12);
    const iovec header_part = {&fields, sizeof(fields)};
    CO_RETURN_IF_ERROR(co_await file_.Write(kRefcountTableFieldsOffset, IoVecs(&header_part, 1)));
    header_.refcount_table_offset = fields.offset;
    header_.refcount_table_clusters = fields.clusters;
  } else {
    CO_RETURN_IF_ERROR(co_await file_.Sync());
    for (const uint64_t region : regions) {
      const iovec part = {&raw[region], sizeof(Be64)};
      CO_RETURN_IF_ERROR(
          co_await file_.Write(old_offset + region * sizeof(Be64), IoVecs(&part, 1)));
    }
  }
  table_ = std::move(table);
  blocks_.resize(table_.size());
  for (auto& [region, block] : fresh) {
    blocks_[region] = std::move(block);
    ++loaded_;
  }
  CO_RETURN_IF_ERROR(co_await file_.Sync());
  if (table_clusters > 0) {
    const ClusterRun old = {layout_.cluster_index(old_offset), old_clusters};
    CO_RETURN_IF_ERROR(co_await Lower(std::span(&old, 1)));
  }
  co_return room;
}

}  // namespace vireo::qcow2
