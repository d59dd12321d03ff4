#include "storage/qcow2/refcount_entry.h"

#include <gtest/gtest.h>

#include <vector>

#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {
namespace {

TEST(RefcountEntryTest, EveryWidthKeepsItsNeighbours) {
  for (uint32_t order = 0; order <= 6; ++order) {
    const Layout layout = {.refcount_order = order};
    std::vector<uint8_t> block(512);
    const uint64_t entries = block.size() * 8 >> order;
    for (uint64_t i = 0; i < entries; i += 3) WriteRefcount(block, order, i, layout.max_refcount());
    for (uint64_t i = 0; i < entries; ++i) {
      EXPECT_EQ(ReadRefcount(block, order, i), i % 3 == 0 ? layout.max_refcount() : 0)
          << order << " " << i;
    }
    for (uint64_t i = 0; i < entries; i += 3) WriteRefcount(block, order, i, 0);
    EXPECT_EQ(block, std::vector<uint8_t>(512)) << order;
  }
}

TEST(RefcountEntryTest, SmallEntriesCountFromTheLeastSignificantBit) {
  std::vector<uint8_t> block(2);
  WriteRefcount(block, 0, 1, 1);
  EXPECT_EQ(block[0], 0x02);
  WriteRefcount(block, 2, 2, 0xa);  // Low nibble first.
  EXPECT_EQ(block[1], 0x0a);
}

TEST(RefcountEntryTest, LargeEntriesAreBigEndian) {
  std::vector<uint8_t> block(16);
  WriteRefcount(block, 4, 1, 0x1234);
  EXPECT_EQ(block[2], 0x12);
  WriteRefcount(block, 6, 1, 0x0102030405060708);
  EXPECT_EQ(block[8], 0x01);
  EXPECT_EQ(ReadRefcount(block, 5, 3), 0x05060708u);
}

}  // namespace
}  // namespace vireo::qcow2
