// Pieces ("slices") of L2 tables and refcount blocks, kept in memory.
//
// A hit never waits, also while misses are being read; two misses of one slice share one read, and
// one that goes on where another was reads the rest of the table at once. The cache grows with use
// as far as the budget goes that it shares with those of the disk's other layers (cache_budget.h);
// slices that are dirty or in use stay. Of L2 slices that can be made again from a few words
// (slice_runs.h) only the latest are kept as bytes.
//
// Which slice may reach the disk when is its users' business: they freeze a set of dirty slices and
// write that; a slice changed while its old bytes are being written gets new bytes first.

#ifndef VIREO_STORAGE_QCOW2_METADATA_CACHE_H_
#define VIREO_STORAGE_QCOW2_METADATA_CACHE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/debug_events.h"
#include "storage/file.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/layout.h"
#include "storage/qcow2/metadata_set.h"
#include "storage/qcow2/slice_runs.h"
#include "storage/qcow2/slice_slabs.h"

namespace vireo::qcow2 {

class MetadataCache final : private CacheBudget::Owner {
 private:
  struct Entry : CacheBudget::Member {  // Writing: in a frozen set.
    uint64_t host_offset;
    SliceSlabs::Place bytes;
    SliceSlabs::Place frozen;  // What is being written, when `bytes` has moved on since.
    MetadataKind kind;
    bool loaded = false;
    bool suspicious = false;  // See set_vet().
    bool orphan = false;      // Its read failed: gone from the cache, and when unpinned for good.
    AsyncEvent load_ended;
    absl::Status load_status;
  };
  static_assert(sizeof(Entry) + 48 <= CacheBudget::kOverhead);

 public:
  // Keeps a slice in memory. Outlived by the cache.
  class Slice {
   public:
    Slice() = default;
    Slice(Slice&& other) noexcept
        : cache_(std::exchange(other.cache_, nullptr)), entry_(other.entry_) {}
    Slice& operator=(Slice&& other) noexcept {
      std::swap(cache_, other.cache_);
      std::swap(entry_, other.entry_);
      return *this;
    }
    ~Slice() {
      if (cache_ != nullptr && --entry_->pins == 0 && entry_->orphan) delete entry_;
    }

    bool valid() const { return cache_ != nullptr; }
    uint64_t host_offset() const { return entry_->host_offset; }
    bool suspicious() const { return entry_->suspicious; }
    std::span<const uint8_t> bytes() const { return {entry_->bytes.get(), cache_->slice_bytes_}; }
    // Marks the slice dirty. The span is good until the next co_await.
    std::span<uint8_t> MutableBytes();

   private:
    friend class MetadataCache;
    Slice(MetadataCache* cache, Entry* entry) : cache_(cache), entry_(entry) { ++entry->pins; }

    MetadataCache* cache_ = nullptr;
    Entry* entry_ = nullptr;
  };

  // `loop` and `file` outlive the cache.
  MetadataCache(EventLoop& loop, File& file, const Layout& layout,
                std::shared_ptr<CacheBudget> budget);
  ~MetadataCache();
  MetadataCache(const MetadataCache&) = delete;
  MetadataCache& operator=(const MetadataCache&) = delete;

  // Called with each slice read from the file; true = not all of it is sane, look closely.
  void set_vet(absl::AnyInvocable<bool(MetadataKind, std::span<const uint8_t>) const> vet) {
    vet_ = std::move(vet);
  }

  // Called before each slice is written; false = its cluster does not hold metadata of its kind
  // (any more), and it is not written: Write() answers DATA_LOSS.
  void set_guard(absl::AnyInvocable<bool(MetadataKind, uint64_t host_offset) const> guard) {
    guard_ = std::move(guard);
  }

  // The slice at `host_offset`, a multiple of the slice size, if it is in memory.
  Slice Find(uint64_t host_offset);
  // Reads it if need be.
  Task<absl::StatusOr<Slice>> Get(MetadataKind kind, uint64_t host_offset);

  // Forgets the slices of one cluster, which are clean or no longer matter, and not in use.
  void Forget(uint64_t cluster_offset);

  size_t dirty_count(MetadataKind kind) const { return dirty_counts_[static_cast<size_t>(kind)]; }
  // As many as the budget has room for.
  uint64_t limit_slices() const { return budget_->SliceLimit(slice_bytes_); }
  const CacheBudget& budget() const { return *budget_; }
  // Of this cache alone.
  uint64_t memory_bytes() const {
    return entries_.size() * (slice_bytes_ + CacheBudget::kOverhead) + runs_.memory_bytes();
  }

  // A set of slices as they were at one moment. Ends in Write() or Abandon().
  class Frozen {
   public:
    bool empty() const { return entries_.empty(); }

   private:
    friend class MetadataCache;
    std::vector<Entry*> entries_;
  };
  // All dirty slices of `kind`, no longer dirty. None of them is in another frozen set.
  Frozen Freeze(MetadataKind kind);
  // Writes them. On failure they are dirty again.
  Task<absl::Status> Write(Frozen frozen);
  // They are dirty again.
  void Abandon(Frozen frozen);

 private:
  // Slices that one miss reads; the first is the one that was missed.
  using Missed = std::vector<Slice>;

  void MarkDirty(Entry* entry);
  // A new entry, in memory but not loaded.
  Entry* Add(MetadataKind kind, uint64_t host_offset);
  // The slice from runs_, if they have it.
  Entry* Restore(uint64_t host_offset);
  // How many slices from `host_offset` on to read when that one is missed.
  size_t ReadAhead(MetadataKind kind, uint64_t host_offset) const;
  Task<absl::Status> Load(Missed& missed);
  void EndLoad(Entry* entry, absl::Status status);
  // From the budget.
  void Evict(CacheBudget::Member* member) override;

  Task<void> WriteRun(std::span<Entry* const> run, absl::Status* status);
  void Thaw(const Frozen& frozen, bool written);
  void Erase(Entry* entry);

  EventLoop& loop_;
  File& file_;
  DebugEvents* const debug_;  // Null unless a test injects faults (debug_events.h).
  const Layout layout_;
  const uint64_t slice_bytes_;
  const std::shared_ptr<CacheBudget> budget_;
  SliceSlabs& slabs_;
  absl::AnyInvocable<bool(MetadataKind, std::span<const uint8_t>) const> vet_;
  absl::AnyInvocable<bool(MetadataKind, uint64_t host_offset) const> guard_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Entry>> entries_;  // By host offset.
  size_t dirty_counts_[8] = {};
  std::vector<Entry*> dirty_[8];  // By kind, in the order they became dirty.
  SliceRuns runs_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_METADATA_CACHE_H_
