#include "storage/qcow2/check_rebuild.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {

absl::StatusOr<uint64_t> RefcountRebuild::Allocate(uint64_t count, uint64_t* first_free) {
  ReferenceCounts& references = state_.references;
  uint64_t cluster = *first_free;
  uint64_t free = 0;
  bool seen = false;
  for (; cluster < state_.clusters && free < count; ++cluster) {
    if (references.Get(cluster) != 0) {
      free = 0;
      continue;
    }
    ++free;
    if (!seen) *first_free = cluster;
    seen = true;
  }
  const uint64_t begin = cluster - free;
  const uint64_t end = begin + count;
  if (end > state_.clusters && !state_.file.traits().growable) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: the device has no room for new refcount structures", state_.file.name()));
  }
  for (uint64_t i = begin; i < end; ++i) references.Add(i, 1);
  state_.clusters = std::max(state_.clusters, end);
  return begin;
}

absl::StatusOr<bool> RefcountRebuild::Cover(uint64_t begin) {
  const Layout& layout = state_.layout;
  const uint64_t per_block = layout.refcounts_per_block();
  bool grown = false;
  uint64_t first_free = 0;
  // The blocks themselves are counted as they come: the end moves.
  for (uint64_t cluster = state_.references.Next(begin, state_.clusters); cluster < state_.clusters;
       cluster = state_.references.Next((cluster / per_block + 1) * per_block, state_.clusters)) {
    const uint64_t region = cluster / per_block;
    if (blocks_.contains(region)) continue;
    first_free = std::max(first_free, region * per_block);
    ASSIGN_OR_RETURN(const uint64_t block, Allocate(1, &first_free));
    blocks_[region] = block << layout.cluster_bits;
    const uint64_t wanted = layout.clusters_for((region + 1) * sizeof(Be64));
    if (wanted > table_clusters_) {
      table_clusters_ = wanted;
      grown = true;
    }
  }
  if (table_clusters_ * layout.cluster_bytes() > kMaxRefcountTableBytes) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: the file is too large for a refcount table", state_.file.name()));
  }
  return grown;
}

Task<absl::Status> RefcountRebuild::WriteBlock(uint64_t region, uint64_t host_offset) {
  const Layout& layout = state_.layout;
  const uint64_t per_block = layout.refcounts_per_block();
  std::vector<uint8_t> block(layout.cluster_bytes());
  const uint64_t end = std::min((region + 1) * per_block, state_.clusters);
  for (uint64_t cluster = state_.references.Next(region * per_block, end); cluster < end;
       cluster = state_.references.Next(cluster + 1, end)) {
    const uint64_t count = state_.references.Get(cluster);
    if (count > layout.max_refcount()) {
      co_return absl::DataLossError(
          absl::StrFormat("%s: cluster %d has %d references, more than %d bits can count",
                          state_.file.name(), cluster, count, layout.refcount_bits()));
    }
    WriteRefcount(block, layout.refcount_order, cluster % per_block, count);
  }
  const absl::Status written = co_await state_.Write(host_offset, block.data(), block.size());
  co_return written;
}

Task<absl::Status> RefcountRebuild::Run() {
  const Layout& layout = state_.layout;
  CO_RETURN_IF_ERROR(Cover(0).status());
  uint64_t table_cluster = 0;
  for (bool grown = true; grown;) {
    uint64_t first_free = 0;
    CO_ASSIGN_OR_RETURN(table_cluster, Allocate(table_clusters_, &first_free));
    CO_ASSIGN_OR_RETURN(grown, Cover(table_cluster));
  }
  std::vector<uint64_t> table(table_clusters_ * layout.cluster_bytes() / sizeof(Be64));
  for (const auto& [region, host_offset] : blocks_) {
    CO_RETURN_IF_ERROR(co_await WriteBlock(region, host_offset));
    table[region] = host_offset;
  }
  const uint64_t table_offset = table_cluster << layout.cluster_bits;
  const std::vector<Be64> raw(table.begin(), table.end());
  CO_RETURN_IF_ERROR(co_await state_.Write(table_offset, raw.data(), raw.size() * sizeof(Be64)));
  CO_RETURN_IF_ERROR(co_await state_.file.Sync());

  struct {
    Be64 offset;
    Be32 clusters;
  } fields = {.offset = table_offset, .clusters = static_cast<uint32_t>(table_clusters_)};
  CO_RETURN_IF_ERROR(co_await state_.Write(kRefcountTableFieldsOffset, &fields, sizeof(fields)));
  CO_RETURN_IF_ERROR(co_await state_.file.Sync());
  state_.header.refcount_table_offset = table_offset;
  state_.header.refcount_table_clusters = static_cast<uint32_t>(table_clusters_);
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
