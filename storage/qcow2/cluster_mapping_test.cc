#include "storage/qcow2/cluster_mapping.h"

#include <gtest/gtest.h>

#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

constexpr Layout kLayout = {.version = 3, .cluster_bits = 16};

bool IsInvalid(const ClusterMapping& mapping) { return std::holds_alternative<Invalid>(mapping); }

TEST(ClusterMappingTest, DecodesEachRowOfTheFormatsTable) {
  EXPECT_EQ(DecodeMapping(kLayout, 0), ClusterMapping(Unallocated{}));
  EXPECT_EQ(DecodeMapping(kLayout, 1), ClusterMapping(Zero{}));
  EXPECT_EQ(DecodeMapping(kLayout, 0x8000000000050000),
            ClusterMapping(Allocated{.host_offset = 0x50000, .copied = true}));
  EXPECT_EQ(DecodeMapping(kLayout, 0x50000), ClusterMapping(Allocated{.host_offset = 0x50000}));
  EXPECT_EQ(DecodeMapping(kLayout, 0x8000000000050001),
            ClusterMapping(Zero{.host_offset = 0x50000, .copied = true}));
}

TEST(ClusterMappingTest, DecodesTheAppendixesCompressedCluster) {
  EXPECT_EQ(DecodeMapping(kLayout, 0x40400000003501e0),
            ClusterMapping(Compressed{.host_offset = 0x3501e0, .bytes = 2 * 512 - 0x1e0}));
}

TEST(ClusterMappingTest, MasksReservedBits) {
  EXPECT_EQ(DecodeMapping(kLayout, 0x3f000000000501fe),
            ClusterMapping(Allocated{.host_offset = 0x50000}));
}

TEST(ClusterMappingTest, RefusesWhatCannotBe) {
  EXPECT_TRUE(IsInvalid(DecodeMapping(kLayout, 0x50200)));
  EXPECT_TRUE(IsInvalid(DecodeMapping(kLayout, 0x50201)));
  EXPECT_TRUE(IsInvalid(DecodeMapping(kLayout, 0xc040000000350000)));
  EXPECT_TRUE(IsInvalid(DecodeMapping(kLayout, 0x4000000000000100)));  // Inside the header.
  const Layout version2 = {.version = 2, .cluster_bits = 16};
  EXPECT_TRUE(IsInvalid(DecodeMapping(version2, 1)));
}

TEST(ClusterMappingTest, EveryMappingSurvivesTheWayToBitsAndBack) {
  for (uint32_t cluster_bits = kMinClusterBits; cluster_bits <= kMaxClusterBits; ++cluster_bits) {
    const Layout layout = {.version = 3, .cluster_bits = cluster_bits};
    const uint64_t cluster = layout.cluster_bytes();
    const ClusterMapping mappings[] = {
        Unallocated{},
        Zero{},
        Zero{.host_offset = 7 * cluster, .copied = true},
        Zero{.host_offset = 7 * cluster},
        Allocated{.host_offset = (uint64_t{1} << 55), .copied = true},
        Allocated{.host_offset = cluster},
        Compressed{.host_offset = cluster + 13, .bytes = 512 - 13},
        Compressed{.host_offset = cluster + 512, .bytes = static_cast<uint32_t>(cluster)}};
    for (const ClusterMapping& mapping : mappings) {
      EXPECT_EQ(DecodeMapping(layout, EncodeMapping(layout, mapping)), mapping) << cluster_bits;
    }
  }
}

}  // namespace
}  // namespace vireo::qcow2
