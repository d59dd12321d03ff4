// The second part of a check: what the refcount blocks say is compared with what was counted.

#ifndef VIREO_STORAGE_QCOW2_CHECK_REFCOUNTS_H_
#define VIREO_STORAGE_QCOW2_CHECK_REFCOUNTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "storage/qcow2/check_state.h"

namespace vireo::qcow2 {

class RefcountComparison {
 public:
  // `state` outlives it.
  explicit RefcountComparison(CheckState& state) : state_(state) {}

  // Reads the refcount table and counts it and its blocks. The last that is counted.
  Task<absl::Status> CountStructures(Repair repair);
  // Each difference is told, counted, and mended in place where `repair` allows it.
  Task<absl::Status> Compare(Repair repair);
  // A crash may leave counts behind the end of the file, for clusters that were never there. They
  // would leak as soon as the file grows over them.
  Task<absl::Status> ClearBehindEnd();
  // What the blocks say of a cluster.
  Task<absl::StatusOr<uint64_t>> Stored(uint64_t cluster);

 private:
  // No block describes [begin, end), or none that can be read.
  void CompareNothing(uint64_t begin, uint64_t end);
  Task<absl::Status> CompareBlock(uint64_t region, uint64_t begin, uint64_t end, Repair repair);
  // Whether the counter of `cluster` was mended in `block`.
  bool Differ(uint64_t cluster, uint64_t stored, Repair repair, std::vector<uint8_t>& block);

  CheckState& state_;
  uint64_t highest_cluster_ = 0;
  // The block that was asked for last.
  uint64_t stored_region_ = ~uint64_t{0};
  std::vector<uint8_t> stored_block_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_REFCOUNTS_H_
