// A QCOW2 image as a disk.
//
// Reads and writes in place go straight from the mapping to the file; they wait for nobody. A write
// to clusters that have no host cluster of their own takes the clusters' range, allocates, fills
// the new clusters (guest data and what is copied around it in one write), and links them in
// memory.
//
// Metadata reaches the disk in epochs. A commit takes everything changed so far and
//
//   1. flushes, if data was copied or recycled clusters were filled in this epoch,
//   2. writes the L2 slices and L1 entries as they were when it began,
//   3. flushes; only then do the clusters that the epoch freed come to rest (refcounts.h).
//
// Increments are durable before allocation, so a crash between any two of these leaves the old or
// the new mapping of each cluster, all of it counted. A guest's flush is a commit; flushes that
// come while one runs share the next. Without flushes a commit runs when its first change is a few
// seconds old, or when much is dirty.
//
// Owned by one loop. The image's file and its backing chain belong to it.

#ifndef VIREO_STORAGE_QCOW2_IMAGE_H_
#define VIREO_STORAGE_QCOW2_IMAGE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/async/async_event.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "storage/block_backend.h"
#include "storage/buffer_pool.h"
#include "storage/debug_events.h"
#include "storage/file.h"
#include "storage/in_flight.h"
#include "storage/qcow2/barrier.h"
#include "storage/qcow2/bitmap_tracker.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/chain_map.h"
#include "storage/qcow2/cluster_map.h"
#include "storage/qcow2/compressed.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/metadata_cache.h"
#include "storage/qcow2/metadata_set.h"
#include "storage/qcow2/packed_space.h"
#include "storage/qcow2/refcounts.h"
#include "storage/range_lock.h"

namespace vireo::qcow2 {

class Image final : public BlockBackend {
 public:
  struct Options {
    bool read_only = false;
    // For metadata, at most; it grows with use. The layers of a disk share one.
    std::shared_ptr<CacheBudget> cache_budget;
    uint64_t cache_bytes = kDefaultCacheBytes;  // Of a budget of its own, where that is null.
    absl::Duration commit_age = absl::Seconds(2);
  };

  struct Parts {
    std::unique_ptr<File> file;
    // Where guest data lives: an external data file, or a decorator of `file`, which outlives it
    // and which its Close() leaves open. Null: in `file` itself.
    std::unique_ptr<File> data;
    std::unique_ptr<BlockBackend> backing;  // May be null.
  };

  // `header` is the file's, read for the access that `options` asks for. A writable image that was
  // not closed cleanly is repaired first. DATA_LOSS if the image contradicts itself.
  static Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> Open(EventLoop& loop, Header header,
                                                                  Parts parts, Options options);

  const Geometry& geometry() const override { return geometry_; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> WriteCompressed(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  Task<absl::Status> Close() override;

  const Header& header() const { return header_; }
  // Of a writable image; those in memory follow every change.
  BitmapTracker& bitmaps() { return bitmaps_; }

  // Bytes of this layer's metadata in memory.
  uint64_t cache_memory_bytes() const { return cache_.memory_bytes(); }
  const CacheBudget& cache_budget() const { return *budget_; }

 private:
  // One commit and those who wait for it.
  struct Round;
  // One cluster on its way.
  struct CompressedWrite;
  static constexpr uint64_t kCompressedAtOnce = 16;  // Of one request.
  enum class Change { kDiscard, kZero, kZeroAndUnmap };
  // Host clusters that one write fills.
  struct Target {
    HostRun run;
    bool owned = false;  // They belong to their guest clusters already.
  };
  // A write that fills fresh clusters and will link them; the rest of them is zeros and stays so.
  // Others write there side by side with it, and end when it has linked them.
  struct PendingFill {
    uint64_t begin = 0;  // Guest bytes, whole clusters.
    uint64_t end = 0;
    uint64_t host_offset = 0;
    uint32_t joined = 0;  // Writes of others under way.
    bool linked = false;  // Once it has ended.
    AsyncEvent ended;
    AsyncEvent left;  // None of the others is under way.
  };
  struct FillRange {  // Guest bytes.
    uint64_t begin;
    uint64_t end;
  };

  Image(EventLoop& loop, Header header, Parts parts, const Options& options);
  Task<absl::Status> Load();
  Task<absl::Status> LoadSnapshots();

  // Bounds are checked, the operation is in flight.
  Task<absl::Status> ReadBytes(uint64_t offset, IoVecs dst);
  Task<absl::Status> ReadRun(MappedRun run, uint64_t offset, IoVecs dst);
  Task<void> ReadPiece(MappedRun run, uint64_t offset, IoVecList dst, absl::Status* status);
  Task<absl::Status> ReadBacking(uint64_t offset, IoVecs dst);
  uint64_t BackingEnd() const;  // Where the backing file ends as this image's guest sees it.
  // This layer, which holds nothing of the range, or the lowest one beneath it of which it is
  // known, without reading, that all from here down to it hold nothing of it.
  Image* LowestEmptyLayer(uint64_t offset, uint64_t length);
  // How many layers beneath this one hold nothing of a cluster that lies inside the backing file.
  ChainMap::Answer LayersWithout(uint64_t cluster);
  // Whether the file lacks much of what it should hold, so that a look for its holes is worth
  // while.
  bool HasUnwrittenClusters();
  // Says where the host bytes are, if there are any and they are what the guest reads: encrypted
  // ones are not.
  void SetPlace(RangeStatus* answer, std::optional<uint64_t> host_offset) const;
  // Completes the answer about host bytes that are stored: where the file has a hole they are
  // zeros.
  Task<absl::Status> LookForHole(RangeStatus* answer);
  Task<absl::Status> WriteBytes(uint64_t offset, IoVecs src);
  Task<absl::Status> WriteZeroBytes(uint64_t offset, uint64_t length);

  // Writes the first part of `src` to clusters or subclusters of their own; answers its length, 0
  // if the first one has got one meanwhile.
  Task<absl::StatusOr<uint64_t>> AllocateAndWrite(uint64_t guest_offset, IoVecs src);
  Target FindTarget(const MetadataCache::Slice& slice, uint64_t guest_offset, uint64_t end) const;
  FillRange RangeToFill(const Target& target, const ClusterEntry& first, const ClusterEntry& last,
                        uint64_t begin, uint64_t end) const;
  // Writes `src`, and what is around it in `fill`, to `run`. `slice` has the clusters' entries.
  // True if it does no harm to link them before their content is durable.
  // Others may join `pending` from when the write begins, if that is so.
  Task<absl::StatusOr<bool>> FillClusters(HostRun run, const MetadataCache::Slice& slice,
                                          FillRange fill, uint64_t guest_offset, IoVecs src,
                                          std::shared_ptr<PendingFill> pending);
  // The write to join for `guest_offset`, or null.
  std::shared_ptr<PendingFill> FindPending(uint64_t guest_offset) const;
  // Writes `src` to its clusters. False if they were not linked in the end: nothing was written.
  Task<absl::StatusOr<bool>> JoinFill(std::shared_ptr<PendingFill> pending, uint64_t guest_offset,
                                      IoVecs src);
  // Ends when nobody writes to its clusters any more, if they are not linked.
  Task<void> EndFill(std::shared_ptr<PendingFill> pending, bool linked);
  // Whether [guest_offset, + length), all of which is what `mapping` says, reads as zeros.
  Task<absl::StatusOr<bool>> ReadsAsZeros(ClusterMapping mapping, uint64_t guest_offset,
                                          uint64_t length);
  // The same for [begin, end), whose entries are in `slice`.
  Task<absl::StatusOr<bool>> EntriesReadAsZeros(const MetadataCache::Slice& slice, uint64_t begin,
                                                uint64_t end);
  // Reads what the entries in `slice` say.
  Task<absl::Status> ReadOld(const MetadataCache::Slice& slice, uint64_t guest_offset,
                             std::span<uint8_t> dst);
  void FreeOld(const ClusterEntry& old);
  // The data file's bytes are the disk's: what is zeros there needs no entry to say so.
  Task<absl::Status> ZeroRawData(uint64_t offset, uint64_t length, ZeroFlags flags);
  // Makes the entries of [begin, end) point to the data file, as its users expect of a raw one.
  Task<absl::Status> MapRawData(uint64_t begin, uint64_t end);

  Task<absl::Status> CompressAndPlace(uint64_t offset, IoVecs src);
  Task<void> CompressCluster(CompressedWrite* write);
  Task<absl::Status> PlaceCompressed(uint64_t guest_offset, std::span<const uint8_t> stream);

  // Whole subclusters; a discard changes whole clusters only.
  Task<absl::Status> ChangeClusters(uint64_t begin, uint64_t end, Change change);
  // Stops where a part of a compressed cluster would have to change, which no entry can say;
  // answers that place.
  Task<absl::StatusOr<uint64_t>> ChangeInSlice(uint64_t begin, uint64_t end, Change change);
  // `touched` has the bits of the subclusters that change.
  ClusterEntry Changed(const ClusterEntry& old, Change change, uint32_t touched) const;
  Task<absl::Status> ZeroRange(uint64_t offset, uint64_t length, ZeroFlags flags);
  // Inside one subcluster.
  Task<absl::Status> ZeroPart(uint64_t offset, uint64_t length, ZeroFlags flags);
  // Sets the subcluster's zero flag if the rest of it reads as zeros already and nothing is stored.
  Task<absl::StatusOr<bool>> ZeroSubclusterAround(uint64_t offset, uint64_t length,
                                                  ZeroFlags flags);
  Task<absl::Status> ZeroByWriting(uint64_t offset, uint64_t length);
  Task<absl::Status> GrowL1(uint64_t entries);

  // Whether guest data would be written over metadata: an entry may have been right when its slice
  // was read, and wrong since a table was made where it points.
  bool OverlapsMetadata(uint64_t host_offset, uint64_t length) const {
    return !layout_.external_data && metadata_.Overlaps(host_offset, length);
  }
  absl::Status WriteError() const;
  // Before the first change.
  Task<absl::Status> PrepareToWrite();
  // Writes `bytes` of the header, durably.
  Task<absl::Status> WriteHeader(uint64_t offset, std::vector<uint8_t> bytes);
  Task<absl::Status> WriteFeatures();
  // The image contradicts itself: refuses writes from now on, on disk too.
  Task<void> MarkCorrupt(absl::Status damage);
  Task<absl::Status> OnInvalid(uint64_t guest_offset, Invalid invalid);

  // Something is dirty: sees to a commit in time.
  void NoteDirty();
  // Much more is dirty than brings a commit forward: who made it so commits himself. Metadata that
  // is not written must not fill the cache.
  bool IsTooDirty() const;
  Task<void> CommitLater();
  Task<void> CommitNow();
  Task<absl::Status> Commit();
  Task<absl::Status> RunCommit();

  EventLoop& loop_;
  const std::unique_ptr<File> file_;  // Metadata and compressed clusters.
  const std::unique_ptr<File> owned_data_;
  File& data_;                // Guest data: *owned_data_, or *file_ too.
  DebugEvents* const debug_;  // Null unless a test injects faults (debug_events.h).
  const std::unique_ptr<BlockBackend> backing_;
  Image* const backing_image_;  // The same, if it is a QCOW2 image that nobody writes.
  Header header_;
  const Layout layout_;
  const Options options_;
  Geometry geometry_;

  InFlight in_flight_;
  Barrier barrier_;
  MetadataSet metadata_;
  const std::shared_ptr<CacheBudget> budget_;
  MetadataCache cache_;
  Refcounts refcounts_;
  ClusterMap map_;
  CompressedClusters compressed_;
  PackedSpace packed_;
  BitmapTracker bitmaps_;
  BufferPool buffers_;
  // Shared with those who have joined. As many as requests that allocate, at most.
  std::vector<std::shared_ptr<PendingFill>> pending_fills_;
  RangeLock clusters_;  // Guest clusters that get or lose host clusters.

  std::optional<ChainMap> chain_map_;  // Where there is more than one layer to pass by.
  std::vector<Image*> beneath_;        // The layers it speaks of, from the first one down.
  std::optional<bool> has_unwritten_clusters_;

  bool prepared_ = false;
  AsyncMutex preparing_;
  absl::Status damage_;  // Not OK once marked corrupt.

  const uint64_t dirty_limit_;  // L2 slices.
  AsyncMutex committing_;
  std::shared_ptr<Round> next_round_;  // Shared by all who wait for its result.
  bool commit_planned_ = false;
  bool commit_hurried_ = false;
  TaskScope background_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_IMAGE_H_
