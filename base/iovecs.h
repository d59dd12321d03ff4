// Scatter lists: views, slices and copies. An IoVecs neither owns the vectors nor the bytes they
// name.

#ifndef VIREO_BASE_IOVECS_H_
#define VIREO_BASE_IOVECS_H_

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "absl/container/inlined_vector.h"

namespace vireo {

using IoVecs = std::span<const iovec>;
// Vectors owned in place while there are few. Converts to IoVecs.
using IoVecList = absl::InlinedVector<iovec, 8>;

// The sum of all lengths; CHECKs that it fits.
uint64_t TotalSize(IoVecs iovecs);

// The vectors of bytes [offset, offset + length), cut where needed; empty ones are left out. CHECKs
// that the range lies within.
IoVecList Slice(IoVecs iovecs, uint64_t offset, uint64_t length);

// Copies min(total, dst.size()) bytes, starting `offset` bytes into `src`; returns how many.
size_t CopyFromIoVecs(IoVecs src, std::span<uint8_t> dst, uint64_t offset = 0);
// Copies min(total, src.size()) bytes, starting `offset` bytes into `dst`; returns how many.
size_t CopyToIoVecs(std::span<const uint8_t> src, IoVecs dst, uint64_t offset = 0);
// Sets every byte.
void FillIoVecs(IoVecs dst, uint8_t byte);
// True when every byte is zero.
bool IsAllZero(IoVecs src);

// One vector over `bytes`. The const form is for sources: nothing writes through it.
inline iovec ToIoVec(std::span<uint8_t> bytes) { return {bytes.data(), bytes.size()}; }
inline iovec ToIoVec(std::span<const uint8_t> bytes) {
  return {const_cast<uint8_t*>(bytes.data()), bytes.size()};
}

}  // namespace vireo

#endif  // VIREO_BASE_IOVECS_H_
