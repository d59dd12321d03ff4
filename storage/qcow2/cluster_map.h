// Where guest clusters are: the L1 table, in memory, and L2 tables, through the metadata cache.
//
//   guest offset:  | L1 index | L2 index | offset in cluster |
//   L1[L1 index] -> L2 table (one cluster) [L2 index] -> host cluster (cluster_mapping.h)
//
// A lookup whose slice is cached never waits and holds nothing. Changes are made in memory; which
// of them may reach the disk when is the commit's business (image.h).

#ifndef VIREO_STORAGE_QCOW2_CLUSTER_MAP_H_
#define VIREO_STORAGE_QCOW2_CLUSTER_MAP_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/task.h"
#include "storage/debug_events.h"
#include "storage/file.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/layout.h"
#include "storage/qcow2/metadata_cache.h"
#include "storage/qcow2/metadata_set.h"
#include "storage/qcow2/refcounts.h"

namespace vireo::qcow2 {

// Guest bytes that share one answer.
struct MappedRun {
  // The host_offset of an Allocated, or of a Zero, is that of the run's first byte, not of its
  // cluster; the host bytes follow each other. That of an Unallocated is that, too, but holds only
  // to the end of the first cluster.
  ClusterMapping mapping;
  uint64_t length = 0;
};

class ClusterMap {
 public:
  // All of them outlive the map.
  struct Parts {
    File& file;
    MetadataCache& cache;
    MetadataSet& metadata;
    Refcounts& refcounts;
  };
  ClusterMap(const Layout& layout, Parts parts);

  // Reads the L1 table. DATA_LOSS if the table overlaps other metadata. Entries that cannot be
  // right fail whoever looks them up.
  Task<absl::Status> Load(uint64_t l1_offset, uint32_t l1_entries);
  // The cache's vet: true if an entry of an L2 slice cannot be right.
  bool IsSuspicious(std::span<const uint8_t> slice) const;

  // What is at `guest_offset`; the run has at most `max_length` bytes and ends with the slice.
  Task<absl::StatusOr<MappedRun>> Lookup(uint64_t guest_offset, uint64_t max_length);
  // The same when it needs no reading; nothing otherwise.
  std::optional<MappedRun> LookupCached(uint64_t guest_offset, uint64_t max_length);

  // The slice with the entry of `guest_offset`, in an L2 table that is this image's alone: makes or
  // copies the table if need be. DATA_LOSS if there is none that may be changed.
  Task<absl::StatusOr<MetadataCache::Slice>> PrepareSlice(uint64_t guest_offset);
  // The entries of a prepared slice.
  ClusterEntry Get(const MetadataCache::Slice& slice, uint64_t guest_offset) const;
  void Set(MetadataCache::Slice& slice, uint64_t guest_offset, const ClusterEntry& entry);
  // As Lookup().
  MappedRun RunInSlice(const MetadataCache::Slice& slice, uint64_t guest_offset,
                       uint64_t max_length) const;
  // Whether there is an L2 table for `guest_offset`, good or bad.
  bool HasTable(uint64_t guest_offset) const {
    return (l1_[layout_.l1_index(guest_offset)] & kEntryOffsetMask) != 0;
  }
  // First guest byte behind the L2 table, there or not, that `guest_offset` is in.
  uint64_t TableEnd(uint64_t guest_offset) const {
    return (layout_.l1_index(guest_offset) + 1) * layout_.guest_bytes_per_l2();
  }
  // First guest byte behind the slice that `guest_offset` is in.
  uint64_t SliceEnd(uint64_t guest_offset) const;

  // --- For the commit ---

  // Pieces of the L1 table as they were at one moment.
  struct L1Piece {
    uint64_t file_offset;
    std::vector<uint8_t> bytes;
  };
  bool l1_dirty() const { return !dirty_l1_.empty(); }
  std::vector<L1Piece> FreezeL1();
  Task<absl::Status> WriteL1(const std::vector<L1Piece>& pieces);
  // They have not been written.
  void PutBackL1(const std::vector<L1Piece>& pieces);
  // The next commit flushes before it writes L2 tables: data that was copied, or tables that were
  // written, must be there first. Reading it clears it.
  void RequireBarrier() { needs_barrier_ = true; }
  bool TakeBarrier() { return std::exchange(needs_barrier_, false); }

  // While held, no entry of the L1 table changes.
  Task<AsyncMutex::Guard> LockTables() { return tables_.Lock(); }
  uint64_t l1_entries() const { return l1_.size(); }
  uint64_t l1_offset() const { return l1_offset_; }
  // The table has moved to `l1_offset` and has `l1_entries` entries, the new ones empty.
  void Moved(uint64_t l1_offset, uint64_t l1_entries);
  // The table as it is on disk once everything is committed.
  std::vector<uint8_t> SerializeL1() const;

 private:
  struct SliceAddress {
    uint64_t slice_offset;  // In the file.
    uint64_t first_index;   // Of the guest offset's entry in the slice.
  };
  std::optional<Invalid> CheckL1(uint64_t l1_index) const;
  uint64_t SliceOffset(uint64_t l1_index, uint64_t guest_offset) const;
  uint64_t IndexInSlice(uint64_t guest_offset) const;
  // No slice needed: nothing there, or an L1 entry that cannot be right.
  std::optional<MappedRun> RunWithoutSlice(uint64_t guest_offset, uint64_t max_length) const;
  // `entry`, or an invalid one if it points where guest data cannot be.
  ClusterEntry Checked(const ClusterEntry& entry) const;
  bool IsPlainlySane(std::span<const uint8_t> slice) const;
  Task<absl::Status> MakeTable(uint64_t l1_index);

  static constexpr uint64_t kL1PieceEntries = 64;  // 512 bytes.

  const Layout layout_;
  File& file_;
  DebugEvents* const debug_;  // Null unless a test injects faults (debug_events.h).
  MetadataCache& cache_;
  MetadataSet& metadata_;
  Refcounts& refcounts_;

  uint64_t l1_offset_ = 0;
  std::vector<uint64_t> l1_;
  absl::flat_hash_set<uint64_t> bad_l1_;  // Indices.
  // L2 tables that more than one L1 entry points to: to be read only. If one of these got a copy,
  // the table would go, and with it what the other says.
  absl::flat_hash_set<uint64_t> shared_tables_;
  absl::flat_hash_set<uint64_t> dirty_l1_;  // Pieces.
  bool needs_barrier_ = false;
  AsyncMutex tables_;  // Making a table.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CLUSTER_MAP_H_
