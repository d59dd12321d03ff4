#include "base/async/frame_pool.h"

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kPooled = false;
#else
constexpr bool kPooled = true;
#endif

TEST(FramePoolTest, FramesAreAlignedAndTheirOwn) {
  std::vector<void*> frames;
  for (size_t bytes = 1; bytes < 6000; bytes += 37) {
    void* const frame = AllocateFrame(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(frame) % 16, 0u);
    std::memset(frame, 0xab, bytes);
    frames.push_back(frame);
  }
  size_t bytes = 1;
  for (void* const frame : frames) {
    EXPECT_EQ(static_cast<uint8_t*>(frame)[bytes - 1], 0xab);
    FreeFrame(frame, bytes);
    bytes += 37;
  }
}

TEST(FramePoolTest, AFreedFrameIsUsedAgain) {
  if (!kPooled) GTEST_SKIP() << "under a sanitizer frames come from the heap";
  void* const first = AllocateFrame(200);
  FreeFrame(first, 200);
  void* const second = AllocateFrame(230);  // The same size class.
  EXPECT_EQ(second, first);
  FreeFrame(second, 230);
}

TEST(FramePoolTest, ABurstGoesBackToTheHeap) {
  std::vector<void*> frames(5000);
  for (void*& frame : frames) frame = AllocateFrame(100);
  for (void* const frame : frames) FreeFrame(frame, 100);
  EXPECT_LE(CachedFrames(), 1000u);
}

TEST(FramePoolTest, FramesMayBeFreedOnAnotherThread) {
  void* const frame = AllocateFrame(300);
  size_t cached = 0;
  std::thread other([frame, &cached] {
    FreeFrame(frame, 300);
    cached = CachedFrames();
  });
  other.join();
  EXPECT_EQ(cached, kPooled ? 1u : 0u);
}

}  // namespace
}  // namespace vireo
