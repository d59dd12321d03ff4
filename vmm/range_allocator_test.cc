#include "vmm/range_allocator.h"

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(RangeAllocatorTest, TakesTheLowestAlignedPlace) {
  RangeAllocator ranges("mmio", 0x1100, 0x10000);
  EXPECT_EQ(*ranges.Allocate(0x1000, 0x1000), 0x2000u);
  EXPECT_EQ(*ranges.Allocate(0x1000, 0x1000), 0x3000u);
  EXPECT_EQ(*ranges.Allocate(0x100, 0x100), 0x1100u) << "the gap before the first is used";
}

TEST(RangeAllocatorTest, AFreedPlaceIsTakenAgain) {
  RangeAllocator ranges("gsi", 24, 3);
  EXPECT_EQ(*ranges.Allocate(1, 1), 24u);
  EXPECT_EQ(*ranges.Allocate(1, 1), 25u);
  ranges.Free(24);
  EXPECT_EQ(*ranges.Allocate(1, 1), 24u);
  EXPECT_EQ(*ranges.Allocate(1, 1), 26u);
}

TEST(RangeAllocatorTest, SaysWhatIsFull) {
  RangeAllocator ranges("gsi", 24, 1);
  ASSERT_TRUE(ranges.Allocate(1, 1).ok());
  const absl::Status status = ranges.Allocate(1, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message().substr(0, 4), "gsi:");
}

TEST(RangeAllocatorTest, TheTopOfTheNumberSpaceDoesNotWrap) {
  RangeAllocator ranges("top", ~uint64_t{0} - 0xfff, 0x1000);
  EXPECT_FALSE(ranges.Allocate(0x2000, 1).ok());
  EXPECT_FALSE(ranges.Allocate(0x1000, uint64_t{1} << 63).ok());
  EXPECT_EQ(*ranges.Allocate(0x1000, 0x1000), ~uint64_t{0} - 0xfff);
  EXPECT_FALSE(ranges.Allocate(1, 1).ok());
}

}  // namespace
}  // namespace vireo
