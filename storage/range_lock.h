// Exclusive ranges of integers (clusters, blocks), first come first served. One loop.
//
// Two writers of one unallocated cluster are the reason: the first takes the cluster's range, the
// second waits and looks again.

#ifndef VIREO_STORAGE_RANGE_LOCK_H_
#define VIREO_STORAGE_RANGE_LOCK_H_

#include <cstdint>
#include <list>
#include <utility>

#include "base/async/async_event.h"
#include "base/async/task.h"

namespace vireo {

class RangeLock {
 private:
  struct Entry {
    uint64_t first;
    uint64_t last;
    bool held = false;
    AsyncEvent granted;
  };

 public:
  // Releases in its destructor, or earlier. Outlived by the lock.
  class Guard {
   public:
    Guard() = default;
    Guard(Guard&& other) noexcept
        : lock_(std::exchange(other.lock_, nullptr)), entry_(other.entry_) {}
    Guard& operator=(Guard&& other) noexcept {
      if (this != &other) {
        Release();
        lock_ = std::exchange(other.lock_, nullptr);
        entry_ = other.entry_;
      }
      return *this;
    }
    ~Guard() { Release(); }

    void Release();

   private:
    friend class RangeLock;
    Guard(RangeLock* lock, std::list<Entry>::iterator entry) : lock_(lock), entry_(entry) {}

    RangeLock* lock_ = nullptr;
    std::list<Entry>::iterator entry_;
  };

  RangeLock() = default;
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

  // Waits until no earlier range, held or waiting, overlaps [first, last]. A caller that holds one
  // range asks for no other.
  Task<Guard> Lock(uint64_t first, uint64_t last);

 private:
  bool IsFree(std::list<Entry>::const_iterator entry) const;
  void GrantWhatIsFree();

  std::list<Entry> entries_;  // In the order of asking.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_RANGE_LOCK_H_
