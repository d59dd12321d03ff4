#include "storage/qcow2/cache_budget.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"

namespace vireo::qcow2 {

CacheBudget::~CacheBudget() { VIREO_CHECK(members_ == 0, "a budget outlives its caches"); }

SliceSlabs& CacheBudget::Slabs(size_t slice_bytes) {
  const size_t index = static_cast<size_t>(std::countr_zero(slice_bytes)) - kMinSliceBits;
  VIREO_CHECK(std::has_single_bit(slice_bytes) && index < kSliceSizes, "no size of a slice");
  std::unique_ptr<SliceSlabs>& slabs = slabs_[index];
  if (slabs == nullptr) slabs = std::make_unique<SliceSlabs>(slice_bytes);
  return *slabs;
}

uint64_t CacheBudget::slice_bytes() const {
  uint64_t bytes = members_ * kOverhead;
  for (const std::unique_ptr<SliceSlabs>& slabs : slabs_) {
    if (slabs != nullptr) bytes += slabs->used_bytes();
  }
  return bytes;
}

void CacheBudget::MakeRoom(size_t slice_bytes) {
  const uint64_t wanted = slice_bytes == 0 ? 0 : slice_bytes + kOverhead;
  // Two rounds at most: the first clears the marks of use.
  size_t steps = 2 * clock_.size();
  while (steps > 0 && this->slice_bytes() + wanted > limit_bytes_) {
    --steps;
    Member* const member = clock_[hand_];
    hand_ = (hand_ + 1) % clock_.size();
    if (member == nullptr || member->held()) continue;
    if (std::exchange(member->used, false)) continue;
    member->owner->Evict(member);
  }
}

// The place of who went last is the one that the hand comes to last.
void CacheBudget::Enter(Member* member) {
  ++members_;
  if (free_.empty()) {
    member->clock_index = static_cast<uint32_t>(clock_.size());
    clock_.push_back(member);
    return;
  }
  member->clock_index = free_.back();
  free_.pop_back();
  clock_[member->clock_index] = member;
}

void CacheBudget::Leave(Member* member) {
  LeaveRestorable(member);
  --members_;
  clock_[member->clock_index] = nullptr;
  free_.push_back(member->clock_index);
}

// A slice that costs 4 KiB as bytes and 24 as a run is worth its bytes while it is in use: 4 MiB of
// them, or half of a small budget.
size_t CacheBudget::RestorableLimit() const {
  constexpr size_t kLargestSlice = size_t{1} << (kMinSliceBits + kSliceSizes - 1);
  return std::clamp<size_t>(SliceLimit(kLargestSlice) / 2, 1, kRestorable);
}

void CacheBudget::EnterRestorable(Member* member) {
  if (ring_next_ == ring_.size()) ring_.push_back(nullptr);
  Member* const oldest = ring_[ring_next_];
  if (oldest != nullptr && oldest->held()) {
    LeaveRestorable(oldest);  // It stays as the others do.
  } else if (oldest != nullptr) {
    oldest->owner->Evict(oldest);
  }
  ring_[ring_next_] = member;
  member->restorable = true;
  member->ring_index = static_cast<uint32_t>(ring_next_);
  ring_next_ = (ring_next_ + 1) % RestorableLimit();
}

void CacheBudget::LeaveRestorable(Member* member) {
  if (!member->restorable) return;
  member->restorable = false;
  ring_[member->ring_index] = nullptr;
}

}  // namespace vireo::qcow2
