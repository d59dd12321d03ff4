#include "vmm/range_allocator.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace vireo {

RangeAllocator::RangeAllocator(std::string name, uint64_t base, uint64_t size)
    : name_(std::move(name)), base_(base), size_(size) {}

absl::StatusOr<uint64_t> RangeAllocator::Allocate(uint64_t size, uint64_t alignment) {
  // Offsets from base_, so that a range up to 2^64 does not wrap; alignment is of the address
  // itself.
  const auto aligned = [&](uint64_t offset, uint64_t* out) {
    const uint64_t slack = (alignment - ((base_ + offset) & (alignment - 1))) & (alignment - 1);
    if (offset > size_ || slack > size_ - offset) return false;
    *out = offset + slack;
    return size <= size_ - *out;
  };
  uint64_t offset = 0;
  bool fits = size != 0 && aligned(0, &offset);
  for (auto next = used_.begin(); fits && next != used_.end(); ++next) {
    const uint64_t next_offset = next->first - base_;
    if (offset + size <= next_offset) break;
    fits = aligned(next_offset + next->second, &offset);
  }
  if (!fits) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: no room for %#x, aligned to %#x, within [%#x, +%#x)", name_, size,
                        alignment, base_, size_));
  }
  used_[base_ + offset] = size;
  return base_ + offset;
}

void RangeAllocator::Free(uint64_t base) { used_.erase(base); }

}  // namespace vireo
