#include "storage/qcow2/dirty_bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace vireo::qcow2 {
namespace {

constexpr uint32_t kBits = 9;
constexpr uint64_t kGranule = 1 << kBits;

TEST(DirtyBitmapTest, MarksEveryGranuleThatIsTouched) {
  DirtyBitmap bitmap(100 * kGranule - 200, kBits);
  EXPECT_EQ(bitmap.granules(), 100u);
  EXPECT_FALSE(bitmap.NextDirty(0).has_value());
  bitmap.MarkDirty(kGranule - 1, 2);
  EXPECT_TRUE(bitmap.IsDirty(0));
  EXPECT_TRUE(bitmap.IsDirty(2 * kGranule - 1));
  EXPECT_FALSE(bitmap.IsDirty(2 * kGranule));
  EXPECT_EQ(bitmap.NextClean(0), 2 * kGranule);
  bitmap.MarkDirty(99 * kGranule, 1 << 20);
  EXPECT_EQ(*bitmap.NextDirty(2 * kGranule), 99 * kGranule);
  EXPECT_EQ(bitmap.NextClean(99 * kGranule), bitmap.disk_bytes());
  EXPECT_EQ(bitmap.DirtyBytes(), 3 * kGranule - 200);
  bitmap.MarkDirty(1 << 30, 512);
  EXPECT_EQ(bitmap.DirtyBytes(), 3 * kGranule - 200);
}

TEST(DirtyBitmapTest, CleansOnlyWholeGranules) {
  DirtyBitmap bitmap(100 * kGranule - 200, kBits);
  bitmap.MarkDirty(0, bitmap.disk_bytes());
  bitmap.MarkClean(10 * kGranule + 1, 3 * kGranule);
  EXPECT_EQ(bitmap.NextClean(0), 11 * kGranule);
  EXPECT_EQ(*bitmap.NextDirty(11 * kGranule), 13 * kGranule);
  bitmap.MarkClean(98 * kGranule, bitmap.disk_bytes() - 98 * kGranule);
  EXPECT_EQ(bitmap.NextClean(13 * kGranule), 98 * kGranule);
  bitmap.MarkAllClean();
  EXPECT_EQ(bitmap.DirtyBytes(), 0u);
}

TEST(DirtyBitmapTest, MergesBitmapsOfAnotherGranularity) {
  DirtyBitmap fine(64 * kGranule, kBits);
  DirtyBitmap coarse(64 * kGranule, kBits + 3);
  fine.MarkDirty(20 * kGranule, 1);
  coarse.Merge(fine);
  EXPECT_EQ(*coarse.NextDirty(0), 16 * kGranule);
  EXPECT_EQ(coarse.DirtyBytes(), 8 * kGranule);
  fine.Merge(coarse);
  EXPECT_EQ(fine.DirtyBytes(), 8 * kGranule);
}

TEST(DirtyBitmapTest, NewSpaceIsClean) {
  DirtyBitmap bitmap(5 * kGranule, kBits);
  bitmap.MarkDirty(0, 5 * kGranule);
  bitmap.Resize(3 * kGranule);
  bitmap.Resize(100000 * kGranule);
  EXPECT_EQ(bitmap.DirtyBytes(), 3 * kGranule);
}

TEST(DirtyBitmapTest, StoresLeastSignificantBitFirst) {
  DirtyBitmap bitmap(21 * kGranule, kBits);
  bitmap.MarkDirty(0, 1);
  bitmap.MarkDirty(9 * kGranule, 1);
  bitmap.MarkDirty(20 * kGranule, 1);
  std::vector<uint8_t> bytes(8, 0xee);
  bitmap.Store(0, bytes);
  EXPECT_EQ(bytes, (std::vector<uint8_t>{1, 2, 16, 0, 0, 0, 0, 0}));
  DirtyBitmap other(21 * kGranule, kBits);
  std::fill(bytes.begin() + 2, bytes.end(), 0xff);
  other.Load(0, bytes);
  EXPECT_EQ(other.NextClean(16 * kGranule), other.disk_bytes());
  EXPECT_EQ(other.FillOf(2, 3), DirtyBitmap::Fill::kOnes);
  EXPECT_EQ(other.FillOf(1, 3), DirtyBitmap::Fill::kMixed);
  EXPECT_EQ(other.FillOf(3, 9), DirtyBitmap::Fill::kZeros);
  other.Resize(100 * kGranule);
  EXPECT_FALSE(other.IsDirty(21 * kGranule));
}

// Against a vector of flags, across the pieces that a large bitmap is made of.
TEST(DirtyBitmapTest, AgreesWithAPlainModel) {
  constexpr uint64_t kGranules = 100003;
  DirtyBitmap bitmap(kGranules * kGranule, kBits);
  std::vector<bool> model(kGranules);
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    const uint64_t begin = random() % kGranules;
    const uint64_t count = std::min(kGranules - begin, random() % (round % 7 == 0 ? 80000 : 300));
    const bool dirty = random() % 2 == 0;
    if (dirty) {
      bitmap.MarkDirty(begin * kGranule, count * kGranule);
    } else {
      bitmap.MarkClean(begin * kGranule, count * kGranule);
    }
    std::fill_n(model.begin() + begin, count, dirty);
    const uint64_t from = random() % kGranules;
    const auto next = std::find(model.begin() + from, model.end(), true);
    const auto found = bitmap.NextDirty(from * kGranule);
    ASSERT_EQ(found.has_value(), next != model.end()) << round;
    if (found.has_value()) {
      ASSERT_EQ(*found / kGranule, static_cast<uint64_t>(next - model.begin())) << round;
    }
  }
  std::vector<uint8_t> bytes(bitmap.stored_bytes());
  bitmap.Store(0, bytes);
  DirtyBitmap copy(kGranules * kGranule, kBits);
  for (uint64_t at = 0; at < bytes.size(); at += 1024) {
    const uint64_t length = std::min<uint64_t>(1024, bytes.size() - at);
    copy.Load(at, std::span<const uint8_t>(bytes).subspan(at, length));
  }
  EXPECT_EQ(copy.DirtyBytes(), std::count(model.begin(), model.end(), true) * kGranule);
  for (uint64_t i = 0; i < kGranules; ++i) ASSERT_EQ(copy.IsDirty(i * kGranule), model[i]) << i;
}

}  // namespace
}  // namespace vireo::qcow2
