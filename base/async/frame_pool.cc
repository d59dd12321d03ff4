#include "base/async/frame_pool.h"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

namespace vireo {
namespace {

// Under a sanitizer every frame comes from the heap, so that a use after free is seen.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kPooled = false;
#else
constexpr bool kPooled = true;
#endif

constexpr size_t kStep = 64;          // Sizes are rounded up to a multiple of this,
constexpr size_t kClasses = 64;       // up to 4 KiB; larger frames come from the heap.
constexpr size_t kMaxPerClass = 256;  // One busy queue of requests.
constexpr size_t kMaxBytesPerClass = 64 << 10;

struct FreeFrameNode {
  FreeFrameNode* next;
};

struct Pool {
  std::array<FreeFrameNode*, kClasses> free;
  std::array<size_t, kClasses> count;
  bool closed;  // The thread is ending: nothing is kept any more.
};

// Trivial, so that frames may still be freed by destructors that run after PoolCloser's.
constinit thread_local Pool pool = {};

struct PoolCloser {
  ~PoolCloser() {
    pool.closed = true;
    for (size_t i = 0; i < kClasses; ++i) {
      while (pool.free[i] != nullptr) {
        ::operator delete(std::exchange(pool.free[i], pool.free[i]->next));
      }
      pool.count[i] = 0;
    }
  }
  bool armed = false;
};
thread_local PoolCloser closer;

size_t ClassOf(size_t bytes) { return (bytes - 1) / kStep; }

}  // namespace

void* AllocateFrame(size_t bytes) {
  const size_t size_class = ClassOf(bytes);
  if (!kPooled || size_class >= kClasses) return ::operator new(bytes);
  FreeFrameNode* const frame = pool.free[size_class];
  if (frame == nullptr) return ::operator new((size_class + 1) * kStep);
  pool.free[size_class] = frame->next;
  --pool.count[size_class];
  return frame;
}

void FreeFrame(void* frame, size_t bytes) noexcept {
  const size_t size_class = ClassOf(bytes);
  if (!kPooled || size_class >= kClasses || pool.closed) {
    ::operator delete(frame);
    return;
  }
  const size_t limit = std::min(kMaxPerClass, kMaxBytesPerClass / ((size_class + 1) * kStep));
  if (pool.count[size_class] >= limit) {
    ::operator delete(frame);
    return;
  }
  closer.armed = true;  // Constructs it, so that the thread's end empties the lists.
  FreeFrameNode* const node = static_cast<FreeFrameNode*>(frame);
  node->next = pool.free[size_class];
  pool.free[size_class] = node;
  ++pool.count[size_class];
}

size_t CachedFrames() {
  size_t total = 0;
  for (const size_t count : pool.count) total += count;
  return total;
}

}  // namespace vireo
