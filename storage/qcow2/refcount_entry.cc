#include "storage/qcow2/refcount_entry.h"

#include <cstring>

#include "base/check.h"
#include "base/endian.h"

namespace vireo::qcow2 {
namespace {

template <typename Wire>
uint64_t Load(std::span<const uint8_t> block, uint64_t index) {
  Wire wire;
  std::memcpy(&wire, block.data() + index * sizeof(wire), sizeof(wire));
  return wire.value();
}

template <typename Wire, typename Host>
void Store(std::span<uint8_t> block, uint64_t index, uint64_t value) {
  const Wire wire(static_cast<Host>(value));
  std::memcpy(block.data() + index * sizeof(wire), &wire, sizeof(wire));
}

}  // namespace

uint64_t ReadRefcount(std::span<const uint8_t> block, uint32_t order, uint64_t index) {
  VIREO_DCHECK(index < block.size() * 8 >> order);
  switch (order) {
    case 4:
      return Load<Be16>(block, index);
    case 5:
      return Load<Be32>(block, index);
    case 6:
      return Load<Be64>(block, index);
    default: {
      const uint64_t bit = index << order;
      return block[bit / 8] >> (bit % 8) & ((1u << (1u << order)) - 1);
    }
  }
}

void WriteRefcount(std::span<uint8_t> block, uint32_t order, uint64_t index, uint64_t value) {
  VIREO_DCHECK(index < block.size() * 8 >> order);
  switch (order) {
    case 4:
      return Store<Be16, uint16_t>(block, index, value);
    case 5:
      return Store<Be32, uint32_t>(block, index, value);
    case 6:
      return Store<Be64, uint64_t>(block, index, value);
    default: {
      const uint64_t bit = index << order;
      const uint32_t mask = ((1u << (1u << order)) - 1) << (bit % 8);
      block[bit / 8] = static_cast<uint8_t>((block[bit / 8] & ~mask) |
                                            (static_cast<uint32_t>(value) << (bit % 8) & mask));
    }
  }
}

}  // namespace vireo::qcow2
