// The first part of a check: every reference is counted by walking header, L1 and L2 tables,
// snapshots, encryption header and bitmaps.

#ifndef VIREO_STORAGE_QCOW2_CHECK_REFERENCES_H_
#define VIREO_STORAGE_QCOW2_CHECK_REFERENCES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "base/endian.h"
#include "storage/qcow2/check_state.h"

namespace vireo::qcow2 {

class ReferenceWalk {
 public:
  // `state` outlives it. With Repair::kAll, entries that can only mean zeros are made to say so.
  ReferenceWalk(CheckState& state, Repair repair) : state_(state), repair_(repair) {}

  // Not OK when something cannot be read, so that nothing may be concluded from the counts.
  Task<absl::Status> Run();

 private:
  enum class Tree { kActive, kSnapshot };
  struct Table {
    std::vector<Be64> entries;
    absl::Status status;
  };
  // The tables that entries [begin, end) of an L1 table point to.
  struct TableBatch {
    const std::vector<Be64>* l1;
    size_t begin = 0;
    size_t end = 0;
    std::vector<Table> tables = {};
  };
  // One L2 table as it is walked.
  struct L2Walk {
    std::vector<Be64>* entries;
    Tree tree;
    uint64_t guest_offset;
    std::vector<size_t> zeroed = {};  // Entries that were made zeros.
  };

  Task<absl::Status> CountTree(uint64_t l1_offset, uint64_t l1_entries, Tree tree);
  Task<void> ReadTable(uint64_t offset, Table* table);
  Task<void> ReadBatch(size_t begin, TableBatch* batch);
  void CountL2(L2Walk& walk);
  void CountCompressed(uint64_t entry, size_t index, uint64_t bitmap, Tree tree);
  // False: it is taken for zeros from now on.
  bool CheckAlignment(L2Walk& walk, size_t at, uint64_t host_offset, uint64_t bitmap);
  void MakeZero(L2Walk& walk, size_t at);
  Task<absl::Status> WriteZeroed(const L2Walk& walk, uint64_t table_offset);
  Task<absl::Status> CountSnapshots();
  Task<absl::Status> CountBitmaps();
  Task<absl::Status> CountBitmap(uint64_t table_offset, uint64_t table_entries);
  // Words of one L2 entry: with extended L2 its bitmap is the second.
  size_t words_per_entry() const { return state_.layout.l2_entry_bytes / sizeof(Be64); }

  CheckState& state_;
  const Repair repair_;
  int walked_again_ = 0;  // Tables that several entries of one L1 table point to.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_REFERENCES_H_
