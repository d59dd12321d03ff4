// The mapping of an image that nobody has open, walked as a whole: every L2 table of an L1 table,
// read in large steps with many reads in flight.

#ifndef VIREO_STORAGE_QCOW2_OFFLINE_TABLES_H_
#define VIREO_STORAGE_QCOW2_OFFLINE_TABLES_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/endian.h"
#include "storage/file.h"
#include "storage/qcow2/layout.h"
#include "storage/qcow2/offline_refcounts.h"

namespace vireo::qcow2 {

// The entries of an L1 table. OK also where it ends in the last, cut cluster of the file.
Task<absl::StatusOr<std::vector<Be64>>> ReadL1Table(File& file, uint64_t l1_offset,
                                                    uint64_t entries);

// Host offsets of the L2 tables that `l1` points to, in order. DATA_LOSS for one that cannot be
// right (qcow2 spec, "L1 table entry").
absl::StatusOr<std::vector<uint64_t>> TablesOf(const File& file, const Layout& layout,
                                               std::span<const Be64> l1);

// Whether a cluster of [first, last] is in one of `runs`, which are sorted and do not overlap.
bool Touches(std::span<const ClusterRun> runs, uint64_t first, uint64_t last);

// Some L2 tables in memory.
class TableWindow {
 public:
  // Both outlive the window.
  TableWindow(EventLoop& loop, File& file, const Layout& layout)
      : loop_(loop), file_(file), layout_(layout) {}

  // How many tables a window should hold.
  static size_t Size(const Layout& layout);

  // Reads those at `offsets`, neighbours in one request.
  Task<absl::Status> Read(std::span<const uint64_t> offsets);
  size_t size() const { return offsets_.size(); }
  // Its first word of each entry is the mapping; see Layout::l2_entry_bytes.
  std::span<uint8_t> table(size_t index);
  void MarkChanged(size_t index) { changed_[index] = true; }
  // Writes the changed ones; no flush.
  Task<absl::Status> WriteChanged();

 private:
  Task<void> ReadRun(size_t begin, size_t end, absl::Status* status);
  Task<void> WriteRun(size_t begin, size_t end, absl::Status* status);
  // The first index behind `begin` whose table is not the file's next.
  size_t RunEnd(size_t begin, size_t limit) const;

  EventLoop& loop_;
  File& file_;
  const Layout layout_;
  std::vector<uint64_t> offsets_;
  std::vector<uint8_t> bytes_;
  std::vector<bool> changed_;
};

// Appends the host clusters that the entries of one L2 table refer to, one run for neighbours, one
// for each reference. DATA_LOSS for an entry that cannot be right, or that points into `metadata`
// (sorted, apart); with `skip_invalid` such entries are left out instead.
absl::Status AppendReferences(const std::string& name, const Layout& layout,
                              std::span<const uint8_t> table, std::span<const ClusterRun> metadata,
                              bool skip_invalid, std::vector<ClusterRun>* runs);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_OFFLINE_TABLES_H_
