// One counter of a refcount block (qcow2 spec, "Refcount block entry"): 1 to 64 bits wide, the
// smaller ones packed from the least significant bit of a byte.

#ifndef VIREO_STORAGE_QCOW2_REFCOUNT_ENTRY_H_
#define VIREO_STORAGE_QCOW2_REFCOUNT_ENTRY_H_

#include <cstdint>
#include <span>

namespace vireo::qcow2 {

// `order`: the width is 1 << order bits. `index` counts from the start of `block`.
uint64_t ReadRefcount(std::span<const uint8_t> block, uint32_t order, uint64_t index);

// `value` fits the width.
void WriteRefcount(std::span<uint8_t> block, uint32_t order, uint64_t index, uint64_t value);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_REFCOUNT_ENTRY_H_
