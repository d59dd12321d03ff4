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
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

class SliceRuns;

// What several SliceRuns may take together: those of the layers of one disk.
class RunsLimit {
 public:
  explicit RunsLimit(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  ~RunsLimit();
  RunsLimit(const RunsLimit&) = delete;
  RunsLimit& operator=(const RunsLimit&) = delete;

  uint64_t memory_bytes() const { return used_bytes_; }

 private:
  friend class SliceRuns;
  // Room for `bytes` more, for which the largest of them may have to forget everything; false if
  // there is none. What was learnt can be read again.
  bool Reserve(uint64_t bytes);

  const uint64_t limit_bytes_;
  uint64_t used_bytes_ = 0;
  std::vector<SliceRuns*> users_;
};

class SliceRuns {
 public:
  // `limit` outlives the object.
  SliceRuns(const Layout& layout, RunsLimit& limit);
  ~SliceRuns();
  SliceRuns(const SliceRuns&) = delete;
  SliceRuns& operator=(const SliceRuns&) = delete;

  // Keeps the slice of an L2 table at `host_offset`; false if it is of no such kind, or if
  // there is no room.
  bool Learn(uint64_t host_offset, std::span<const uint8_t> slice);
  // Makes the bytes of a slice that is kept; false if it is not.
  bool Restore(uint64_t host_offset, std::span<uint8_t> slice) const;
  bool Contains(uint64_t host_offset) const { return Find(host_offset) != nullptr; }

  void Forget(uint64_t host_offset);
  // All slices of one cluster.
  void ForgetCluster(uint64_t cluster_offset);

  uint64_t memory_bytes() const { return tables_.size() * table_bytes_; }

 private:
  friend class RunsLimit;

  // Entry number n is `first` + n * `step`, in host byte order; with extended L2 its bitmap is
  // `bitmap`.
  struct Run {
    uint64_t first = 0;
    uint64_t bitmap = 0;
    uint32_t step = 0;
    bool valid = false;
  };

  void ForgetAll();
  const Run* Find(uint64_t host_offset) const;
  uint64_t IndexInTable(uint64_t host_offset) const {
    return layout_.offset_in_cluster(host_offset) / layout_.slice_bytes();
  }

  const Layout layout_;
  const uint64_t slices_per_table_;
  const size_t table_bytes_;
  RunsLimit& limit_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Run[]>> tables_;  // By host offset.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_SLICE_RUNS_H_
