// Hands out aligned parts of one range of numbers: guest-physical windows for BARs, I/O ports,
// GSIs, memslots.
#ifndef VIREO_VMM_RANGE_ALLOCATOR_H_
#define VIREO_VMM_RANGE_ALLOCATOR_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vireo {

// Owned by one thread. The lowest free place that fits is taken, so the same requests give the same
// addresses.
class RangeAllocator {
 public:
  // [base, base + size); `name` appears in errors.
  RangeAllocator(std::string name, uint64_t base, uint64_t size);

  // RESOURCE_EXHAUSTED when nothing fits. `size` is at least 1, `alignment` a power of two.
  absl::StatusOr<uint64_t> Allocate(uint64_t size, uint64_t alignment);
  // `base` as Allocate() returned it.
  void Free(uint64_t base);

 private:
  std::string name_;
  uint64_t base_;
  uint64_t size_;
  std::map<uint64_t, uint64_t> used_;  // Base to size.
};

}  // namespace vireo

#endif  // VIREO_VMM_RANGE_ALLOCATOR_H_
