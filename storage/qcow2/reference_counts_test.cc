#include "storage/qcow2/reference_counts.h"

#include <gtest/gtest.h>

namespace vireo::qcow2 {
namespace {

TEST(ReferenceCountsTest, CountsUpAndDown) {
  ReferenceCounts counts;
  EXPECT_EQ(counts.Get(5), 0u);
  counts.AddOne(5);
  EXPECT_FALSE(counts.any_shared());
  counts.AddOne(5);
  EXPECT_TRUE(counts.any_shared());
  counts.Add(5, -1);
  EXPECT_EQ(counts.Get(5), 1u);
  counts.AddOne(uint64_t{1} << 50);
  EXPECT_EQ(counts.Get(uint64_t{1} << 50), 1u);
  EXPECT_EQ(counts.Get(5), 1u);
}

TEST(ReferenceCountsTest, CountsBeyondAByte) {
  ReferenceCounts counts;
  for (uint64_t n = 1; n <= 600; ++n) {
    counts.AddOne(4096);
    ASSERT_EQ(counts.Get(4096), n);
  }
  counts.Add(4096, -400);
  EXPECT_EQ(counts.Get(4096), 200u);
  counts.Add(4096, 55);
  EXPECT_EQ(counts.Get(4096), 255u);
  counts.Add(4096, -1);
  EXPECT_EQ(counts.Get(4096), 254u);
}

TEST(ReferenceCountsTest, FindsTheNextOne) {
  ReferenceCounts counts;
  counts.AddOne(100);
  counts.AddOne(9000);
  EXPECT_EQ(counts.Next(0, 10000), 100u);
  EXPECT_EQ(counts.Next(101, 10000), 9000u);
  EXPECT_EQ(counts.Next(101, 8000), 8000u);
  EXPECT_EQ(counts.Next(9001, 10000), 10000u);
}

}  // namespace
}  // namespace vireo::qcow2
