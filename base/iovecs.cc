#include "base/iovecs.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace vireo {
namespace {

// Calls visit(bytes of one vector) for up to `limit` bytes from `offset` on; returns how many were
// visited.
template <typename Visit>
size_t Walk(IoVecs iovecs, uint64_t offset, size_t limit, Visit visit) {
  size_t done = 0;
  for (const iovec& vector : iovecs) {
    if (done == limit) break;
    if (offset >= vector.iov_len) {
      offset -= vector.iov_len;
      continue;
    }
    const size_t length = std::min<uint64_t>(vector.iov_len - offset, limit - done);
    visit(static_cast<uint8_t*>(vector.iov_base) + offset, done, length);
    done += length;
    offset = 0;
  }
  return done;
}

}  // namespace

uint64_t TotalSize(IoVecs iovecs) {
  uint64_t total = 0;
  for (const iovec& vector : iovecs) {
    VIREO_CHECK(!__builtin_add_overflow(total, vector.iov_len, &total), "iovecs fit 64 bits");
  }
  return total;
}

IoVecList Slice(IoVecs iovecs, uint64_t offset, uint64_t length) {
  IoVecList slice;
  const size_t found =
      Walk(iovecs, offset, length, [&slice](uint8_t* bytes, size_t /*at*/, size_t size) {
        slice.push_back({bytes, size});
      });
  VIREO_CHECK(found == length, "a slice lies within its iovecs");
  return slice;
}

size_t CopyFromIoVecs(IoVecs src, std::span<uint8_t> dst, uint64_t offset) {
  return Walk(src, offset, dst.size(), [dst](uint8_t* bytes, size_t at, size_t size) {
    std::memcpy(dst.data() + at, bytes, size);
  });
}

size_t CopyToIoVecs(std::span<const uint8_t> src, IoVecs dst, uint64_t offset) {
  return Walk(dst, offset, src.size(), [src](uint8_t* bytes, size_t at, size_t size) {
    std::memcpy(bytes, src.data() + at, size);
  });
}

void FillIoVecs(IoVecs dst, uint8_t byte) {
  for (const iovec& vector : dst) {
    if (vector.iov_len != 0) std::memset(vector.iov_base, byte, vector.iov_len);
  }
}

bool IsAllZero(IoVecs src) {
  for (const iovec& vector : src) {
    const uint8_t* const bytes = static_cast<const uint8_t*>(vector.iov_base);
    const size_t size = vector.iov_len;
    if (size == 0) continue;
    // The first bytes by hand, the rest against itself shifted: memcmp does it at full width.
    const size_t head = std::min<size_t>(size, 16);
    for (size_t i = 0; i < head; ++i) {
      if (bytes[i] != 0) return false;
    }
    if (std::memcmp(bytes, bytes + head, size - head) != 0) return false;
  }
  return true;
}

}  // namespace vireo
