#include "storage/buffer_pool.h"

#include <algorithm>
#include <bit>

#include "base/align.h"
#include "base/check.h"

namespace vireo {
namespace {

// In .bss: costs memory only where it is read.
constexpr uint64_t kZeroBytes = 64 << 10;
alignas(kBufferAlignment) uint8_t g_zeros[kZeroBytes];

}  // namespace

void AppendZeros(uint64_t length, std::vector<iovec>& parts) {
  while (length > 0) {
    const uint64_t piece = std::min(length, kZeroBytes);
    parts.push_back({g_zeros, piece});
    length -= piece;
  }
}

AlignedBytes AllocateAligned(size_t size) {
  void* bytes = std::aligned_alloc(kBufferAlignment,
                                   AlignUp<size_t>(std::max<size_t>(size, 1), kBufferAlignment));
  VIREO_CHECK(bytes != nullptr, "out of memory");
  return AlignedBytes(static_cast<uint8_t*>(bytes));
}

size_t BufferPool::ClassOf(size_t size) {
  return std::bit_width((std::max<size_t>(size, 1) - 1) / kBufferAlignment);
}

BufferPool::Buffer BufferPool::Get(size_t size) {
  const size_t index = ClassOf(size);
  if (index >= kClasses) return Buffer(this, AllocateAligned(size), size);
  std::vector<AlignedBytes>& free = free_[index];
  if (free.empty()) return Buffer(this, AllocateAligned(kBufferAlignment << index), size);
  AlignedBytes bytes = std::move(free.back());
  free.pop_back();
  kept_bytes_ -= kBufferAlignment << index;
  return Buffer(this, std::move(bytes), size);
}

BufferPool::Buffer::~Buffer() {
  if (pool_ == nullptr || bytes_ == nullptr) return;
  const size_t index = ClassOf(size_);
  const size_t bytes = kBufferAlignment << index;
  if (index >= kClasses || pool_->kept_bytes_ + bytes > kKeptBytes) return;
  pool_->free_[index].push_back(std::move(bytes_));
  pool_->kept_bytes_ += bytes;
}

}  // namespace vireo
