// Aligned buffers, for O_DIRECT and for what a copy-on-write reads. One loop.

#ifndef VIREO_STORAGE_BUFFER_POOL_H_
#define VIREO_STORAGE_BUFFER_POOL_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace vireo {

struct FreeDeleter {
  void operator()(uint8_t* bytes) const { std::free(bytes); }
};
using AlignedBytes = std::unique_ptr<uint8_t[], FreeDeleter>;

inline constexpr size_t kBufferAlignment = 4096;

// `size` bytes at a multiple of kBufferAlignment; what they hold is undefined.
AlignedBytes AllocateAligned(size_t size);

// Vectors over `length` bytes of zeros, to write from; they share one buffer that nothing writes
// to.
void AppendZeros(uint64_t length, std::vector<iovec>& parts);

// Keeps a few buffers for the next user; grows with use only.
class BufferPool {
 public:
  // Gives its bytes back to the pool, which outlives it.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)),
          bytes_(std::move(other.bytes_)),
          size_(std::exchange(other.size_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(bytes_, other.bytes_);
      std::swap(size_, other.size_);
      return *this;
    }
    ~Buffer();

    std::span<uint8_t> bytes() { return {bytes_.get(), size_}; }
    size_t size() const { return size_; }

   private:
    friend class BufferPool;
    Buffer(BufferPool* pool, AlignedBytes bytes, size_t size)
        : pool_(pool), bytes_(std::move(bytes)), size_(size) {}

    BufferPool* pool_ = nullptr;
    AlignedBytes bytes_;
    size_t size_ = 0;
  };

  Buffer Get(size_t size);

 private:
  static constexpr size_t kClasses = 8;            // 4 KiB to 512 KiB; larger ones are not kept.
  static constexpr size_t kKeptBytes = 512 << 10;  // Per pool.

  static size_t ClassOf(size_t size);

  std::array<std::vector<AlignedBytes>, kClasses> free_;
  size_t kept_bytes_ = 0;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_BUFFER_POOL_H_
