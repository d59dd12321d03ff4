#include "storage/qcow2/check_refcounts.h"

#include <algorithm>
#include <span>
#include <string>

#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {

Task<absl::Status> RefcountComparison::CountStructures(Repair repair) {
  const Layout& layout = state_.layout;
  const Header& header = state_.header;
  const uint64_t table_bytes = header.refcount_table_clusters * layout.cluster_bytes();
  const uint64_t file_bytes = layout.clusters_for(state_.file.size()) << layout.cluster_bits;
  stored_region_ = ~uint64_t{0};
  state_.refcount_table.clear();
  if (table_bytes == 0 || header.refcount_table_offset >= state_.file.size()) {
    state_.Corruption("ERROR there is no refcount table");
    state_.must_rebuild = true;
    co_return absl::OkStatus();
  }
  // Bytes that are missing at the end of the file are zeros.
  state_.AddReference(header.refcount_table_offset,
                      std::min(table_bytes, file_bytes - header.refcount_table_offset));
  std::vector<Be64> raw(table_bytes / sizeof(Be64));
  CO_RETURN_IF_ERROR(co_await state_.ReadEntries(header.refcount_table_offset, raw));
  std::vector<uint64_t>& table = state_.refcount_table;
  table.assign(raw.begin(), raw.end());
  state_.unreadable.assign(table.size(), false);
  for (uint64_t region = 0; region < table.size(); ++region) {
    if (table[region] == 0) continue;
    const uint64_t block = table[region] & kRefcountTableOffsetMask;
    if ((table[region] & ~kRefcountTableOffsetMask) != 0) {
      state_.Corruption("ERROR refcount table entry %d has reserved bits set", region);
      state_.must_rebuild = true;
      table[region] = layout.offset_in_cluster(block) == 0 && block < file_bytes ? block : 0;
      continue;
    }
    if (layout.offset_in_cluster(block) != 0) {
      state_.Corruption(
          "ERROR refcount block %d is not cluster aligned; refcount table entry corrupted", region);
      state_.must_rebuild = true;
      state_.unreadable[region] = true;
      table[region] = 0;
      continue;
    }
    if (block >= file_bytes) {
      // A file that grew to hold it would gain nothing but zeros: the rebuilding does without it.
      state_.Corruption("%s refcount block %d is outside image",
                        repair == Repair::kAll ? "Repairing" : "ERROR", region);
      if (repair == Repair::kAll) state_.must_rebuild = true;
      table[region] = 0;
      continue;
    }
    state_.AddReference(block, layout.cluster_bytes());
    const uint64_t count = state_.references.Get(layout.cluster_index(block));
    if (count != 1) {
      state_.Corruption("ERROR refcount block %d refcount=%d", region, count);
      state_.must_rebuild = true;
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> RefcountComparison::Compare(Repair repair) {
  const uint64_t per_block = state_.layout.refcounts_per_block();
  const uint64_t clusters = state_.clusters;
  const std::vector<uint64_t>& table = state_.refcount_table;
  highest_cluster_ = 0;
  stored_region_ = ~uint64_t{0};
  uint64_t region = 0;
  while (region * per_block < clusters) {
    const uint64_t begin = region * per_block;
    const uint64_t end = std::min(begin + per_block, clusters);
    if (region < table.size() && table[region] != 0) {
      CO_RETURN_IF_ERROR(co_await CompareBlock(region, begin, end, repair));
      ++region;
      continue;
    }
    if (region < table.size() && state_.unreadable[region]) {
      ++state_.result.check_errors;
      state_.Report("Can't get refcount for cluster %d and those behind it: Input/output error",
                    begin);
      ++region;
      continue;
    }
    if (region >= table.size()) {  // No block to come: straight to what is counted.
      const uint64_t next = state_.references.Next(begin, clusters);
      if (next == clusters) break;
      CompareNothing(next, std::min((next / per_block + 1) * per_block, clusters));
      region = next / per_block + 1;
      continue;
    }
    CompareNothing(begin, end);
    ++region;
  }
  state_.result.image_end_offset = (highest_cluster_ + 1) << state_.layout.cluster_bits;
  co_return absl::OkStatus();
}

void RefcountComparison::CompareNothing(uint64_t begin, uint64_t end) {
  for (uint64_t cluster = state_.references.Next(begin, end); cluster < end;
       cluster = state_.references.Next(cluster + 1, end)) {
    highest_cluster_ = cluster;
    std::vector<uint8_t> none;
    static_cast<void>(Differ(cluster, 0, Repair::kNone, none));
  }
}

bool RefcountComparison::Differ(uint64_t cluster, uint64_t stored, Repair repair,
                                std::vector<uint8_t>& block) {
  const Layout& layout = state_.layout;
  const uint64_t counted = state_.references.Get(cluster);
  const bool leak = stored > counted;
  bool fix = false;
  if (stored == 0) {
    // The cluster may have been given to another meanwhile: one counter is not enough.
    state_.must_rebuild = true;
  } else {
    fix = (leak ? repair != Repair::kNone : repair == Repair::kAll) &&
          counted <= layout.max_refcount();
  }
  state_.Report("%s cluster %d refcount=%d reference=%d",
                fix    ? "Repairing"
                : leak ? "Leaked"
                       : "ERROR",
                cluster, stored, counted);
  CheckResult& result = state_.result;
  if (!fix) {
    ++(leak ? result.leaks : result.corruptions);
    return false;
  }
  WriteRefcount(block, layout.refcount_order, cluster % layout.refcounts_per_block(), counted);
  ++(leak ? result.leaks_fixed : result.corruptions_fixed);
  return true;
}

Task<absl::Status> RefcountComparison::CompareBlock(uint64_t region, uint64_t begin, uint64_t end,
                                                    Repair repair) {
  const Layout& layout = state_.layout;
  std::vector<uint8_t> block(layout.cluster_bytes());
  const iovec part = ToIoVec(std::span<uint8_t>(block));
  const uint64_t offset = state_.refcount_table[region];
  const absl::Status read = co_await state_.file.Read(offset, IoVecs(&part, 1));
  if (!read.ok()) {
    ++state_.result.check_errors;
    state_.Report("Can't get refcount for cluster %d and those behind it: %s", begin,
                  std::string(read.message()));
    co_return absl::OkStatus();
  }
  bool changed = false;
  for (uint64_t cluster = begin; cluster < end; ++cluster) {
    const uint64_t at = cluster - begin;
    const uint64_t stored = layout.refcount_order == 4
                                ? uint64_t{block[2 * at]} << 8 | block[2 * at + 1]
                                : ReadRefcount(block, layout.refcount_order, at);
    const uint64_t counted = state_.references.Get(cluster);
    if (stored != 0 || counted != 0) highest_cluster_ = cluster;
    if (stored != counted && Differ(cluster, stored, repair, block)) changed = true;
  }
  if (!changed) co_return absl::OkStatus();
  const absl::Status written = co_await state_.Write(offset, block.data(), block.size());
  co_return written;
}

Task<absl::Status> RefcountComparison::ClearBehindEnd() {
  const Layout& layout = state_.layout;
  const uint64_t per_block = layout.refcounts_per_block();
  const uint64_t clusters = state_.clusters;
  const std::vector<uint64_t>& table = state_.refcount_table;
  std::vector<uint8_t> block(layout.cluster_bytes());
  for (uint64_t region = clusters / per_block; region < table.size(); ++region) {
    if (table[region] == 0) continue;
    const iovec part = ToIoVec(std::span<uint8_t>(block));
    CO_RETURN_IF_ERROR(co_await state_.file.Read(table[region], IoVecs(&part, 1)));
    bool changed = false;
    for (uint64_t at = clusters - std::min(clusters, region * per_block); at < per_block; ++at) {
      if (ReadRefcount(block, layout.refcount_order, at) == 0) continue;
      WriteRefcount(block, layout.refcount_order, at, 0);
      changed = true;
    }
    if (!changed) continue;
    CO_RETURN_IF_ERROR(co_await state_.Write(table[region], block.data(), block.size()));
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<uint64_t>> RefcountComparison::Stored(uint64_t cluster) {
  const Layout& layout = state_.layout;
  const uint64_t region = cluster / layout.refcounts_per_block();
  if (region >= state_.refcount_table.size() || state_.refcount_table[region] == 0) {
    co_return uint64_t{0};
  }
  if (region != stored_region_) {
    stored_block_.resize(layout.cluster_bytes());
    const iovec part = ToIoVec(std::span<uint8_t>(stored_block_));
    stored_region_ = ~uint64_t{0};
    CO_RETURN_IF_ERROR(co_await state_.file.Read(state_.refcount_table[region], IoVecs(&part, 1)));
    stored_region_ = region;
  }
  co_return ReadRefcount(stored_block_, layout.refcount_order,
                         cluster % layout.refcounts_per_block());
}

}  // namespace vireo::qcow2
