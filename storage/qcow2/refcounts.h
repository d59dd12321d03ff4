// Which host clusters are in use: refcount table and blocks, allocation, freeing.
//
// The rule of the house: a crash may leak clusters, it may never share one.
//
// Clusters are counted before they are given out: a refill takes a run, writes its counts and makes
// them and the file's new size durable, once for many allocations ("pre-counted allocation"). So an
// allocation is always safe to link, and what a crash leaves counted but unused is a leak of
// bounded size, given back by Close().
//
// A freed cluster rests: FreeLater() remembers it, the commit that makes the removal of its last
// pointer durable hands the list to Rest(), and it returns to the free ones when every operation
// that may still see it has ended. Decrements therefore never need an order of their own.
//
// A growing image is extended in large steps; its new space is known to be zeros until first used.

#ifndef VIREO_STORAGE_QCOW2_REFCOUNTS_H_
#define VIREO_STORAGE_QCOW2_REFCOUNTS_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/task.h"
#include "storage/debug_events.h"
#include "storage/file.h"
#include "storage/in_flight.h"
#include "storage/qcow2/barrier.h"
#include "storage/qcow2/layout.h"
#include "storage/qcow2/metadata_cache.h"
#include "storage/qcow2/metadata_set.h"

namespace vireo::qcow2 {

// Neighbouring host clusters.
struct HostRun {
  uint64_t host_offset = 0;
  uint64_t clusters = 0;
  bool fresh = false;  // Never used: the file reads zeros there, also after a crash.
};

class Refcounts {
 public:
  // All of them outlive the object.
  struct Parts {
    File& file;
    Barrier& barrier;
    MetadataCache& cache;
    MetadataSet& metadata;
    InFlight& in_flight;
  };
  Refcounts(const Layout& layout, Parts parts);

  // Reads the table. DATA_LOSS if it or a block overlaps other metadata. All that allocates answers
  // DATA_LOSS rather than clusters that hold metadata, whatever the counts say of them.
  Task<absl::Status> Load(uint64_t table_offset, uint32_t table_clusters);

  // --- Allocation. RESOURCE_EXHAUSTED when file or table cannot grow; nothing has changed then.
  // ---

  // 1 to `clusters` neighbouring clusters, counted once.
  Task<absl::StatusOr<HostRun>> AllocateData(uint64_t clusters);
  // One cluster for an L2 table. It holds zeros, durably.
  Task<absl::StatusOr<uint64_t>> AllocateTable();
  // `clusters` neighbouring clusters at the end of the file, counted once, durably.
  Task<absl::StatusOr<uint64_t>> AllocateContiguous(uint64_t clusters);
  // One more reference to a cluster that is counted already. False if its counter is full. The
  // count is in memory: the caller sees to a barrier before anything that refers to it is written.
  Task<absl::StatusOr<bool>> AddReference(uint64_t host_offset);
  // `run` was allocated and never linked; what it holds is undefined.
  void GiveBack(HostRun run);

  // --- Freeing ---

  // One reference to each of `clusters` clusters is gone from the mapping in memory.
  void FreeLater(uint64_t host_offset, uint64_t clusters);
  // What FreeLater() has heard of since it was last asked.
  std::vector<HostRun> TakeFreed();
  // The removals of `freed` are durable.
  void Rest(std::vector<HostRun> freed);
  // They are not: the commit failed.
  void PutBackFreed(std::vector<HostRun> freed);

  // --- Writing ---

  // Counts that clusters have come to rest and writes all dirty refcount blocks. May be called at
  // any time: increments are durable before use, decrements apply only after their pointers are
  // gone.
  Task<absl::Status> WriteBack();
  // Anything for WriteBack() to do now.
  bool NeedsWriteBack() const;
  // Counts and writes everything, gives reservations back and cuts the file behind the last cluster
  // in use. Nothing else is in flight. Ends with a flush.
  Task<absl::Status> Close();

  Task<absl::StatusOr<uint64_t>> Get(uint64_t cluster);

 private:
  struct Resting {
    std::vector<HostRun> runs;
    uint64_t moment;
  };

  uint64_t region_of(uint64_t cluster) const { return cluster / layout_.refcounts_per_block(); }
  uint64_t DataRefillClusters() const;
  uint64_t TableRefillClusters() const;
  absl::StatusOr<uint64_t> BlockOffset(uint64_t region) const;
  // DATA_LOSS if [cluster, cluster + count), which nobody counts, holds metadata.
  absl::Status CheckFree(uint64_t cluster, uint64_t count) const;
  // The slice that holds the counter of `cluster`, whose region has a block.
  Task<absl::StatusOr<MetadataCache::Slice>> SliceOf(uint64_t cluster);
  uint64_t IndexInSlice(uint64_t cluster) const { return cluster % layout_.refcounts_per_slice(); }

  // The rest needs mutex_.
  Task<absl::Status> Refill(uint64_t data_wanted, uint64_t tables_wanted);
  Task<absl::Status> Count(const std::vector<HostRun>& runs, uint64_t value);
  Task<absl::Status> WriteBlocks();
  Task<absl::Status> CollectFreed(uint64_t wanted, uint64_t slice_budget,
                                  std::vector<HostRun>* runs);
  Task<absl::Status> CollectAtEnd(uint64_t wanted, std::vector<HostRun>* runs);
  Task<absl::Status> FindEnd();
  Task<absl::Status> GrowFile(uint64_t wanted);
  Task<absl::Status> AddBlock(uint64_t region);
  Task<absl::Status> GrowTable();
  Task<absl::Status> ApplyRested();
  Task<absl::Status> Decrement(HostRun run, std::vector<HostRun>* free);
  bool HasRested() const;

  const Layout layout_;
  File& file_;
  DebugEvents* const debug_;  // Null unless a test injects faults (debug_events.h).
  Barrier& barrier_;
  MetadataCache& cache_;
  MetadataSet& metadata_;
  InFlight& in_flight_;

  std::vector<uint64_t> table_;           // Block offsets by region; 0 = none.
  absl::flat_hash_set<uint64_t> shared_;  // Regions whose block is another region's: of no use.
  uint64_t table_offset_ = 0;
  uint64_t end_ = 0;  // First cluster that nothing was ever allocated behind.
  bool end_known_ = false;
  uint64_t scan_ = 0;  // No free cluster lies before it.
  uint64_t refills_ = 0;

  AsyncMutex mutex_;
  std::deque<HostRun> data_;  // Counted, not given out.
  std::deque<HostRun> tables_;
  std::vector<HostRun> freed_;
  std::deque<Resting> resting_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_REFCOUNTS_H_
