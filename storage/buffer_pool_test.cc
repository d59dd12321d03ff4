#include "storage/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace vireo {
namespace {

TEST(BufferPoolTest, BuffersAreAlignedAndOfTheSizeAsked) {
  BufferPool pool;
  for (const size_t size : {size_t{1}, size_t{4096}, size_t{4097}, size_t{3} << 20}) {
    BufferPool::Buffer buffer = pool.Get(size);
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.bytes().data()) % kBufferAlignment, 0u);
    buffer.bytes().back() = 1;
  }
}

TEST(BufferPoolTest, AFreedBufferIsUsedAgain) {
  BufferPool pool;
  const uint8_t* first;
  {
    BufferPool::Buffer buffer = pool.Get(5000);
    first = buffer.bytes().data();
  }
  BufferPool::Buffer again = pool.Get(8192);
  EXPECT_EQ(again.bytes().data(), first);
  BufferPool::Buffer moved = std::move(again);
  EXPECT_EQ(moved.bytes().data(), first);
}

TEST(BufferPoolTest, ZerosAddUp) {
  std::vector<iovec> parts;
  AppendZeros(200000, parts);
  size_t total = 0;
  for (const iovec& part : parts) {
    total += part.iov_len;
    EXPECT_EQ(static_cast<const uint8_t*>(part.iov_base)[part.iov_len - 1], 0);
  }
  EXPECT_EQ(total, 200000u);
}

}  // namespace
}  // namespace vireo
