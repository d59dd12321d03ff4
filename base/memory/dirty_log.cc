#include "base/memory/dirty_log.h"

#include <algorithm>
#include <utility>

#include "base/align.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo {

DirtyLog::DirtyLog(std::vector<Range> ranges) : ranges_(std::move(ranges)) {}

absl::Status DirtyLog::Start() {
  if (bitmaps_.empty()) {
    std::vector<Bitmap> bitmaps;
    for (const Range& range : ranges_) {
      const uint64_t words = DivideRoundUp<uint64_t>(range.size / kPageSize, 64);
      Bitmap bitmap;
      ASSIGN_OR_RETURN(bitmap.memory, MappedRegion::Anonymous(words * sizeof(Word)));
      // Zeroed memory is a valid array of lock-free atomics.
      bitmap.words = {reinterpret_cast<Word*>(bitmap.memory.bytes().data()), words};
      bitmaps.push_back(std::move(bitmap));
    }
    bitmaps_ = std::move(bitmaps);
  }
  for (Bitmap& bitmap : bitmaps_) {
    for (Word& word : bitmap.words) {
      if (word.load(std::memory_order_relaxed) != 0) word.store(0, std::memory_order_relaxed);
    }
  }
  enabled_.store(true);
  return absl::OkStatus();
}

void DirtyLog::MarkPages(GuestAddress address, uint64_t length) {
  const uint64_t first = address.value();
  const uint64_t last = first + std::min(length - 1, UINT64_MAX - first);
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const uint64_t base = ranges_[i].base.value();
    const uint64_t end = base + (ranges_[i].size - 1);
    if (last < base || first > end) continue;
    const uint64_t first_page = (std::max(first, base) - base) / kPageSize;
    const uint64_t last_page = (std::min(last, end) - base) / kPageSize;
    for (uint64_t page = first_page; page <= last_page; ++page) {
      Word& word = bitmaps_[i].words[page / 64];
      const uint64_t bit = uint64_t{1} << (page % 64);
      // Most pages of a ring are dirty already: look before taking the cache line.
      if ((word.load(std::memory_order_relaxed) & bit) == 0) word.fetch_or(bit);
    }
  }
}

std::vector<uint64_t> DirtyLog::FetchAndClear(size_t range_index) {
  VIREO_CHECK(range_index < ranges_.size());
  std::vector<uint64_t> result;
  if (bitmaps_.empty()) return result;
  const std::span<Word> words = bitmaps_[range_index].words;
  result.reserve(words.size());
  for (Word& word : words) {
    result.push_back(word.load(std::memory_order_relaxed) == 0 ? 0 : word.exchange(0));
  }
  return result;
}

}  // namespace vireo
