// L2 slices that need no bytes: those whose entries are all equal, or all data that lies in the
// file in the order of the disk. Each is kept as a few words from which its bytes can be made
// again.
//
// Freshly converted templates and disks that were filled in order are nearly all of this kind: a
// disk of 1 TiB then needs 800 KiB for a mapping of 128 MiB.

#ifndef VIREO_STORAGE_QCOW2_SLICE_RUNS_H_
#define VIREO_STORAGE_QCOW2_SLICE_RUNS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

class SliceRuns {
 public:
  // Keeps at most about `limit_bytes`.
  SliceRuns(const Layout& layout, uint64_t limit_bytes);

  // Keeps the slice of an L2 table at `host_offset`; false if it is of no such kind.
  bool Learn(uint64_t host_offset, std::span<const uint8_t> slice);
  // Makes the bytes of a slice that is kept; false if it is not.
  bool Restore(uint64_t host_offset, std::span<uint8_t> slice) const;
  bool Contains(uint64_t host_offset) const { return Find(host_offset) != nullptr; }

  void Forget(uint64_t host_offset);
  // All slices of one cluster.
  void ForgetCluster(uint64_t cluster_offset) { tables_.erase(cluster_offset); }

  size_t memory_bytes() const { return tables_.size() * table_bytes_; }

 private:
  // Entry number n is `first` + n * `step`, in host byte order; with extended L2 its bitmap is
  // `bitmap`.
  struct Run {
    uint64_t first = 0;
    uint64_t bitmap = 0;
    uint32_t step = 0;
    bool valid = false;
  };

  const Run* Find(uint64_t host_offset) const;
  uint64_t IndexInTable(uint64_t host_offset) const {
    return layout_.offset_in_cluster(host_offset) / layout_.slice_bytes();
  }

  const Layout layout_;
  const uint64_t slices_per_table_;
  const size_t table_bytes_;
  const size_t limit_tables_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Run[]>> tables_;  // By host offset.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_SLICE_RUNS_H_
