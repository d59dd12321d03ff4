// The memory that the metadata caches of one disk have together, one cache for each layer of its
// chain.
//
// All their slices lie on one clock. When a slice is wanted and the budget is spent, the hand drops
// the first one it meets that was not used since it last came by, of whichever layer: a layer that
// is busy gets what another does not use, and one that is read through once does not displace what
// is used again and again. What its cache holds on to, because it is in use, dirty
// or being written, stays, and may take the budget above its limit for a while; caches keep what is
// dirty to a part of it.
//
// Nothing is taken before it is used. Owned by one loop, as the caches.

#ifndef VIREO_STORAGE_QCOW2_CACHE_BUDGET_H_
#define VIREO_STORAGE_QCOW2_CACHE_BUDGET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "storage/qcow2/slice_runs.h"
#include "storage/qcow2/slice_slabs.h"

namespace vireo::qcow2 {

inline constexpr uint64_t kDefaultCacheBytes = uint64_t{32} << 20;
inline constexpr uint64_t kMinCacheBytes = uint64_t{1} << 20;
inline constexpr uint64_t kMaxCacheBytes = uint64_t{4} << 30;

class CacheBudget {
 public:
  class Owner;

  // A slice as the budget sees it.
  struct Member {
    Owner* owner = nullptr;
    uint32_t pins = 0;
    bool dirty = false;
    bool writing = false;
    bool used = false;  // Since the hand passed: again, after what brought it here.
    bool held() const { return pins > 0 || dirty || writing; }
    // The budget's own.
    bool restorable = false;
    uint32_t clock_index = 0;
    uint32_t ring_index = 0;
  };

  // A cache.
  class Owner {
   public:
    // Drops a member that nothing holds, and so calls Leave().
    virtual void Evict(Member* member) = 0;

   protected:
    ~Owner() = default;
  };

  // What a slice costs beside its bytes: its entry, its place in tables, what the heap adds.
  static constexpr uint64_t kOverhead = 192;

  explicit CacheBudget(uint64_t limit_bytes)
      : limit_bytes_(limit_bytes - limit_bytes / kRunsShare), runs_(limit_bytes / kRunsShare) {}
  // CHECKs that nobody is left.
  ~CacheBudget();
  CacheBudget(const CacheBudget&) = delete;
  CacheBudget& operator=(const CacheBudget&) = delete;

  // How many slices of this size the limit allows.
  uint64_t SliceLimit(size_t slice_bytes) const { return limit_bytes_ / (slice_bytes + kOverhead); }
  // Of slices and runs; at most the limit but for what is held.
  uint64_t memory_bytes() const { return slice_bytes() + runs_.memory_bytes(); }

  // Drops others until one slice more fits, or all that is left is held; of 0 bytes: until what is
  // there fits.
  void MakeRoom(size_t slice_bytes);
  // 512 to 4096, a power of two.
  SliceSlabs& Slabs(size_t slice_bytes);
  RunsLimit& runs() { return runs_; }

  void Enter(Member* member);
  void Leave(Member* member);

  // `member` can be made again from its cache's runs. Only so many stay for their bytes: the oldest
  // goes, unless something holds it.
  void EnterRestorable(Member* member);
  // It cannot, or it goes.
  void LeaveRestorable(Member* member);

 private:
  static constexpr uint64_t kRunsShare = 8;  // One part in so many is for runs.
  static constexpr size_t kRestorable = 1024;
  static constexpr size_t kMinSliceBits = 9;
  static constexpr size_t kSliceSizes = 4;

  uint64_t slice_bytes() const;
  size_t RestorableLimit() const;

  const uint64_t limit_bytes_;  // Of slices.
  RunsLimit runs_;
  std::array<std::unique_ptr<SliceSlabs>, kSliceSizes> slabs_;
  size_t members_ = 0;
  std::vector<Member*> clock_;  // Null where nobody is: free_.
  std::vector<uint32_t> free_;
  size_t hand_ = 0;
  std::vector<Member*> ring_;  // Null where nobody is.
  size_t ring_next_ = 0;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CACHE_BUDGET_H_
