// Refcounts of an image that nobody has open, changed in bulk.
//
// For work that touches the counts of a whole image at once (internal snapshots, bitmaps, header
// surgery). Blocks are read when first needed, many at a time, changed in memory and written by
// Write(); no order is kept between blocks: the caller sees to it that one batch only raises
// counts, or only lowers those whose pointers are durably gone, and puts a flush between batches.
//
// On one loop. Bounded memory: past a limit dirty blocks are written early, which such batches
// allow.

#ifndef VIREO_STORAGE_QCOW2_OFFLINE_REFCOUNTS_H_
#define VIREO_STORAGE_QCOW2_OFFLINE_REFCOUNTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

// Neighbouring host clusters, by number.
struct ClusterRun {
  uint64_t first = 0;
  uint64_t count = 0;
};

class OfflineRefcounts {
 public:
  // All outlive the object. `header` is kept up when the refcount table moves.
  OfflineRefcounts(EventLoop& loop, File& file, Header& header);

  // Reads the table. DATA_LOSS if an entry cannot be right.
  Task<absl::Status> Load();

  // The clusters of `runs` hold metadata, whatever the counts say: nothing that allocates hands
  // them out; it answers DATA_LOSS. Those whose last reference is given up may go again.
  void Protect(std::span<const ClusterRun> runs);
  bool IsProtected(uint64_t cluster) const { return protected_.contains(cluster); }

  // Raises or lowers the count of every cluster of `runs` by one. All of them are counted already:
  // DATA_LOSS for one that is not, RESOURCE_EXHAUSTED for one that is at the most its width can
  // say. On failure the runs before are changed, in memory.
  Task<absl::Status> Raise(std::span<const ClusterRun> runs);
  Task<absl::Status> Lower(std::span<const ClusterRun> runs);

  // The count of a cluster; 0 where no block describes it.
  Task<absl::StatusOr<uint64_t>> Get(uint64_t cluster);
  // The same without waiting, if its block is in memory.
  std::optional<uint64_t> Peek(uint64_t cluster) const;

  // `clusters` neighbouring free clusters, now counted once; answers their host offset. Takes the
  // first gap that is large enough, or room at the end (AllocateAtEnd). A new refcount block or
  // table is durable before it is linked.
  Task<absl::StatusOr<uint64_t>> Allocate(uint64_t clusters);

  // The same behind the end of the file and of all that is counted; on a device behind the latter,
  // where anything may stand.
  Task<absl::StatusOr<uint64_t>> AllocateAtEnd(uint64_t clusters);

  // Writes what has changed; no flush.
  Task<absl::Status> Write();
  // Forgets what has changed and was not written.
  void Discard();

  // Clusters of the refcount table and its blocks, for overlap checks.
  std::vector<ClusterRun> StructureRuns() const;
  // Gives up blocks that count nothing but themselves, durably. What was lowered before is durable.
  Task<absl::Status> DropEmptyBlocks();
  // One past the last cluster that is counted.
  Task<absl::StatusOr<uint64_t>> EndCluster();

 private:
  struct Block {
    std::vector<uint8_t> bytes;
    uint64_t dirty_begin = 0;  // Bytes; equal when clean.
    uint64_t dirty_end = 0;
  };

  uint64_t region_of(uint64_t cluster) const { return cluster / per_block_; }
  // Whether the block of `region`, which is in memory, counts nothing, or only itself.
  bool IsEmpty(uint64_t region) const;
  Task<absl::Status> Change(std::span<const ClusterRun> runs, bool raise);
  // [index, index + count) of `block`; the status names a cluster of `region`.
  absl::Status ChangeInBlock(Block& block, uint64_t region, uint64_t index, uint64_t count,
                             bool raise);
  void MarkDirty(Block& block, uint64_t index, uint64_t count);
  // Brings the block of `region`, and some behind it, into memory.
  Task<absl::Status> LoadBlock(uint64_t region);
  Task<void> ReadBlock(uint64_t region, absl::Status* status);
  Task<void> WriteBlock(uint64_t region, absl::Status* status);
  // DATA_LOSS if one of [first, first + clusters) is protected.
  absl::Status CheckFree(uint64_t first, uint64_t clusters) const;
  // Counts [first, first + clusters), which is free and has blocks.
  Task<absl::Status> Take(uint64_t first, uint64_t clusters);
  Task<absl::StatusOr<std::optional<uint64_t>>> FindGap(uint64_t clusters);
  // Makes blocks, and a larger table if need be, for `clusters` more behind the end of the file;
  // answers the first of those.
  Task<absl::StatusOr<uint64_t>> MakeRoom(uint64_t clusters);

  EventLoop& loop_;
  File& file_;
  Header& header_;
  const Layout layout_;
  const uint64_t per_block_;
  std::vector<uint64_t> table_;  // Block offsets by region; 0 = none.
  std::vector<std::unique_ptr<Block>> blocks_;
  absl::flat_hash_set<uint64_t> protected_;
  uint64_t loaded_ = 0;
  uint64_t next_gap_ = 0;  // No gap lies before it, as far as FindGap() has looked.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_OFFLINE_REFCOUNTS_H_
