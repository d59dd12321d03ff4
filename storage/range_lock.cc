#include "storage/range_lock.h"

#include "base/check.h"

namespace vireo {

RangeLock::~RangeLock() { VIREO_CHECK(entries_.empty(), "a RangeLock outlives its guards"); }

Task<RangeLock::Guard> RangeLock::Lock(uint64_t first, uint64_t last) {
  entries_.emplace_back();
  const std::list<Entry>::iterator entry = std::prev(entries_.end());
  entry->first = first;
  entry->last = last;
  if (IsFree(entry)) {
    entry->held = true;
  } else {
    co_await entry->granted.Wait();
  }
  co_return Guard(this, entry);
}

bool RangeLock::IsFree(std::list<Entry>::const_iterator entry) const {
  for (auto earlier = entries_.begin(); earlier != entry; ++earlier) {
    if (earlier->first <= entry->last && entry->first <= earlier->last) return false;
  }
  return true;
}

void RangeLock::GrantWhatIsFree() {
  // Set() may run the waiter, which may change the list: start again after each.
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->held || !IsFree(entry)) {
      ++entry;
      continue;
    }
    entry->held = true;
    entry->granted.Set();
    entry = entries_.begin();
  }
}

void RangeLock::Guard::Release() {
  RangeLock* const lock = std::exchange(lock_, nullptr);
  if (lock == nullptr) return;
  lock->entries_.erase(entry_);
  lock->GrantWhatIsFree();
}

}  // namespace vireo
