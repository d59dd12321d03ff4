#include "base/align.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace vireo {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

TEST(AlignTest, RoundsToThePowerOfTwo) {
  EXPECT_EQ(AlignDown<uint64_t>(4097, 4096), 4096u);
  EXPECT_EQ(AlignUp<uint64_t>(4097, 4096), 8192u);
  EXPECT_EQ(AlignUp<uint64_t>(4096, 4096), 4096u);
  EXPECT_EQ(AlignUp<uint32_t>(0, 512), 0u);
  EXPECT_TRUE(IsAligned<uint64_t>(8192, 4096));
  EXPECT_FALSE(IsAligned<uint64_t>(8193, 4096));
}

TEST(AlignTest, CheckedArithmeticSaysWhenItDoesNotFit) {
  EXPECT_EQ(CheckedAdd<uint64_t>(kMax - 1, 1), kMax);
  EXPECT_EQ(CheckedAdd<uint64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(CheckedMul<uint32_t>(0x10000, 0xffff), 0xffff0000u);
  EXPECT_EQ(CheckedMul<uint32_t>(0x10000, 0x10000), std::nullopt);
  EXPECT_EQ(CheckedAlignUp<uint64_t>(kMax - 4095, 4096), kMax - 4095);
  EXPECT_EQ(CheckedAlignUp<uint64_t>(kMax - 4094, 4096), std::nullopt);
}

TEST(AlignTest, DivisionRoundsUpWithoutWrapping) {
  EXPECT_EQ(DivideRoundUp<uint64_t>(kMax, 2), kMax / 2 + 1);
  EXPECT_EQ(DivideRoundUp<uint64_t>(8, 4), 2u);
  EXPECT_EQ(DivideRoundUp<uint64_t>(0, 4), 0u);
}

}  // namespace
}  // namespace vireo
