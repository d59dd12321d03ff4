#include "storage/qcow2/packed_space.h"

#include "base/status.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kClustersAtOnce = 8;

}  // namespace

// Drops our reference to the cluster that next_ is inside of, and goes on with the one behind it.
void PackedSpace::LeaveCluster() {
  if (layout_.offset_in_cluster(next_) == 0) return;
  refcounts_.FreeLater(layout_.cluster_start(next_), 1);
  next_ = layout_.cluster_start(next_) + layout_.cluster_bytes();
}

void PackedSpace::Release() {
  LeaveCluster();
  refcounts_.GiveBack({.host_offset = next_, .clusters = (end_ - next_) >> layout_.cluster_bits});
  next_ = end_ = 0;
}

Task<absl::Status> PackedSpace::MakeRoom(uint64_t bytes) {
  while (end_ - next_ < bytes) {
    CO_ASSIGN_OR_RETURN(const HostRun run, co_await refcounts_.AllocateData(kClustersAtOnce));
    if (run.host_offset != end_) {
      Release();
      next_ = end_ = run.host_offset;
    }
    end_ += run.clusters << layout_.cluster_bits;
    // A run of one cluster is enough from its start on.
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<uint64_t>> PackedSpace::Allocate(uint64_t bytes) {
  const AsyncMutex::Guard guard = co_await mutex_.Lock();
  if (layout_.max_refcount() ==
      1) {  // No two streams in one cluster: our reference becomes theirs.
    CO_RETURN_IF_ERROR(co_await MakeRoom(layout_.cluster_bytes()));
    const uint64_t host_offset = next_;
    next_ += layout_.cluster_bytes();
    co_return host_offset;
  }
  while (true) {
    CO_RETURN_IF_ERROR(co_await MakeRoom(bytes));
    const uint64_t host_offset = next_;
    const uint64_t stop = host_offset + bytes;
    CO_ASSIGN_OR_RETURN(const bool first, co_await refcounts_.AddReference(host_offset));
    if (!first) {  // As many streams as can be counted.
      LeaveCluster();
      continue;
    }
    if (layout_.cluster_index(stop - 1) != layout_.cluster_index(host_offset)) {
      // Nobody else refers to that one: there is room for a second count.
      const absl::StatusOr<bool> second = co_await refcounts_.AddReference(stop - 1);
      if (!second.ok()) {
        refcounts_.FreeLater(layout_.cluster_start(host_offset), 1);
        co_return second.status();
      }
    }
    if (layout_.cluster_index(stop) != layout_.cluster_index(host_offset)) {
      refcounts_.FreeLater(layout_.cluster_start(host_offset), 1);
    }
    next_ = stop;
    co_return host_offset;
  }
}

}  // namespace vireo::qcow2
