// How often each host cluster is referred to, as a check counts it.
//
// A byte for each cluster, in pages that exist only where something was counted: a hostile image of
// a huge sparse file costs no more memory than its references. The few counters that are larger
// are kept apart.

#ifndef VIREO_STORAGE_QCOW2_REFERENCE_COUNTS_H_
#define VIREO_STORAGE_QCOW2_REFERENCE_COUNTS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/container/flat_hash_map.h"

namespace vireo::qcow2 {

class ReferenceCounts {
 public:
  uint64_t Get(uint64_t cluster) const {
    const Page* const page = FindPage(cluster / kPage);
    if (page == nullptr) return 0;
    const uint8_t count = (*page)[cluster % kPage];
    return count != kLarge ? count : large_.at(cluster);
  }
  void AddOne(uint64_t cluster) {
    uint8_t& count = PageOf(cluster / kPage)[cluster % kPage];
    if (count != 0) any_shared_ = true;
    if (count < kLarge - 1) {
      ++count;
    } else {
      Add(cluster, 1);
    }
  }
  void Add(uint64_t cluster, int64_t change) {
    uint8_t& count = PageOf(cluster / kPage)[cluster % kPage];
    const uint64_t wanted = (count != kLarge ? count : large_[cluster]) + change;
    if (wanted > 1) any_shared_ = true;
    if (wanted >= kLarge) {
      count = kLarge;
      large_[cluster] = wanted;
    } else {
      if (count == kLarge) large_.erase(cluster);
      count = static_cast<uint8_t>(wanted);
    }
  }
  // Whether any counter ever was above 1.
  bool any_shared() const { return any_shared_; }
  // The first counted cluster of [begin, end), or `end`.
  uint64_t Next(uint64_t begin, uint64_t end) const {
    for (auto page = pages_.lower_bound(begin / kPage); page != pages_.end(); ++page) {
      const uint64_t first = std::max(begin, page->first * kPage);
      for (uint64_t cluster = first; cluster < (page->first + 1) * kPage; ++cluster) {
        if (cluster >= end) return end;
        if ((*page->second)[cluster % kPage] != 0) return cluster;
      }
    }
    return end;
  }

 private:
  static constexpr uint64_t kPage = 4096;
  static constexpr uint8_t kLarge = 255;  // See large_.
  using Page = std::array<uint8_t, kPage>;

  Page* FindPage(uint64_t index) const {
    if (index == last_index_) return last_;
    const auto page = pages_.find(index);
    if (page == pages_.end()) return nullptr;
    last_index_ = index;
    last_ = page->second.get();
    return last_;
  }
  Page& PageOf(uint64_t index) {
    Page* const found = FindPage(index);
    if (found != nullptr) return *found;
    last_index_ = index;
    last_ = pages_.emplace(index, std::make_unique<Page>()).first->second.get();
    return *last_;
  }

  std::map<uint64_t, std::unique_ptr<Page>> pages_;
  absl::flat_hash_map<uint64_t, uint64_t> large_;
  bool any_shared_ = false;
  // The page that was asked for last.
  mutable uint64_t last_index_ = ~uint64_t{0};
  mutable Page* last_ = nullptr;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_REFERENCE_COUNTS_H_
