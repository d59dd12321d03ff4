// The repair of refcounts that cannot be mended where they are: blocks and table are written anew,
// in clusters that nothing refers to, and the header is switched to them.

#ifndef VIREO_STORAGE_QCOW2_CHECK_REBUILD_H_
#define VIREO_STORAGE_QCOW2_CHECK_REBUILD_H_

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "storage/qcow2/check_state.h"

namespace vireo::qcow2 {

class RefcountRebuild {
 public:
  // `state`, which outlives it, has everything counted, the structures in force included.
  explicit RefcountRebuild(CheckState& state) : state_(state) {}

  // RESOURCE_EXHAUSTED when a block device has no room, or the file is too large for a table;
  // DATA_LOSS when a counter is too narrow. The old structures are in force then; afterwards they
  // are leaks.
  Task<absl::Status> Run();

 private:
  // A place for `count` clusters in a row, the first that is free; `*first_free`, where the search
  // begins, becomes the first free cluster that was seen.
  absl::StatusOr<uint64_t> Allocate(uint64_t count, uint64_t* first_free);
  // Gives each region of [begin, the end) with a counted cluster a block. True if the table grew.
  absl::StatusOr<bool> Cover(uint64_t begin);
  Task<absl::Status> WriteBlock(uint64_t region, uint64_t host_offset);

  CheckState& state_;
  std::map<uint64_t, uint64_t> blocks_;  // Host offsets, by region.
  uint64_t table_clusters_ = 0;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_REBUILD_H_
