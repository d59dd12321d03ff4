// Which pages of guest memory the VMM, or the kernel on its behalf, has written. KVM's own dirty
// log knows what vCPUs wrote and does not see this. Off until Start(); then Mark() is one atomic OR
// per page, otherwise one load.

#ifndef VIREO_BASE_MEMORY_DIRTY_LOG_H_
#define VIREO_BASE_MEMORY_DIRTY_LOG_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/mapped_region.h"
#include "base/memory/guest_address.h"

namespace vireo {

class DirtyLog {
 public:
  static constexpr uint64_t kPageSize = 4096;
  struct Range {
    GuestAddress base;
    uint64_t size;  // Bytes
  };

  // Ranges in rising order, page-aligned, as GuestMemory has its regions.
  explicit DirtyLog(std::vector<Range> ranges);

  // One thread at a time calls Start, Stop and FetchAndClear; Mark is for any, at any time.

  // Begins with every page clean. RESOURCE_EXHAUSTED without memory for the bitmaps.
  absl::Status Start();
  void Stop() { enabled_.store(false); }
  bool enabled() const { return enabled_.load(std::memory_order_acquire); }

  // The pages that hold [address, address + length). What lies outside the ranges is left out.
  void Mark(GuestAddress address, uint64_t length) {
    if (enabled() && length != 0) MarkPages(address, length);
  }

  // The bitmap of a range since Start() or the last call, bit 0 of word 0 its first page. A write
  // whose Mark() came before this call is in it. Empty when never started.
  std::vector<uint64_t> FetchAndClear(size_t range_index);

 private:
  using Word = std::atomic<uint64_t>;
  static_assert(sizeof(Word) == sizeof(uint64_t) && Word::is_always_lock_free);

  struct Bitmap {
    MappedRegion memory;  // Zero pages until something is marked.
    std::span<Word> words;
  };

  void MarkPages(GuestAddress address, uint64_t length);

  const std::vector<Range> ranges_;
  std::vector<Bitmap>
      bitmaps_;  // Made by the first Start(), then kept: a late Mark() may still use them.
  std::atomic<bool> enabled_{false};
};

}  // namespace vireo

#endif  // VIREO_BASE_MEMORY_DIRTY_LOG_H_
