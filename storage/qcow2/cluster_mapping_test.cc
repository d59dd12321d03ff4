#include "storage/qcow2/cluster_mapping.h"

#include <gtest/gtest.h>

#include <vector>

#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

using Kind = ClusterEntry::Kind;

constexpr Layout kLayout = {.version = 3, .cluster_bits = 16};
constexpr Layout kExtended = {.version = 3, .cluster_bits = 16, .l2_entry_bytes = 16};
constexpr Layout kDataFile = {.version = 3, .cluster_bits = 16, .external_data = true};

ClusterMapping Mapping(uint64_t descriptor) {
  return MappingOf(DecodeEntry(kLayout, {.descriptor = descriptor}), 0);
}
bool IsInvalid(const Layout& layout, uint64_t descriptor, uint64_t bitmap = 0) {
  return DecodeEntry(layout, {descriptor, bitmap}).kind == Kind::kInvalid;
}

TEST(ClusterMappingTest, DecodesEachRowOfTheFormatsTable) {
  EXPECT_EQ(Mapping(0), ClusterMapping(Unallocated{}));
  EXPECT_EQ(Mapping(1), ClusterMapping(Zero{}));
  EXPECT_EQ(Mapping(0x8000000000050000),
            ClusterMapping(Allocated{.host_offset = 0x50000, .copied = true}));
  EXPECT_EQ(Mapping(0x50000), ClusterMapping(Allocated{.host_offset = 0x50000}));
  EXPECT_EQ(Mapping(0x8000000000050001), ClusterMapping(Zero{.host_offset = 0x50000}));
}

TEST(ClusterMappingTest, DecodesTheAppendixesCompressedCluster) {
  EXPECT_EQ(Mapping(0x40400000003501e0),
            ClusterMapping(Compressed{.host_offset = 0x3501e0, .bytes = 2 * 512 - 0x1e0}));
}

TEST(ClusterMappingTest, MasksReservedBits) {
  EXPECT_EQ(Mapping(0x3f000000000501fe), ClusterMapping(Allocated{.host_offset = 0x50000}));
}

TEST(ClusterMappingTest, DecodesEachSubclusterOnItsOwn) {
  const ClusterEntry entry = DecodeEntry(kExtended, {0x8000000000050000, 0x80000001'0000000c});
  EXPECT_TRUE(entry.owned());
  EXPECT_EQ(MappingOf(entry, 0), ClusterMapping(Zero{.host_offset = 0x50000}));
  EXPECT_EQ(MappingOf(entry, 1), ClusterMapping(Unallocated{.host_offset = 0x50000}));
  EXPECT_EQ(MappingOf(entry, 2), ClusterMapping(Allocated{.host_offset = 0x50000, .copied = true}));
  EXPECT_EQ(MappingOf(entry, 31), ClusterMapping(Zero{.host_offset = 0x50000}));
  const uint32_t lengths[] = {1, 1, 2, 1, 27};
  for (uint32_t at : {0, 1, 2, 3, 4}) {
    EXPECT_EQ(EqualSubclusters(kExtended, entry, at), lengths[at]) << at;
  }
}

TEST(ClusterMappingTest, AnEntryOfZerosOrOfNothingIsOneStretch) {
  EXPECT_EQ(EqualSubclusters(kExtended, ClusterEntry{}, 0), 32u);
  EXPECT_EQ(EqualSubclusters(kExtended, {.zero = ~uint32_t{0}}, 5), 27u);
  EXPECT_EQ(EqualSubclusters(kLayout, {.zero = 1}, 0), 1u);
  EXPECT_EQ(EqualSubclusters(kLayout, ClusterEntry{}, 0), 1u);
}

TEST(ClusterMappingTest, OffsetZeroOfADataFileIsTakenWhenItIsCopied) {
  EXPECT_EQ(MappingOf(DecodeEntry(kDataFile, {.descriptor = kEntryCopied}), 0),
            ClusterMapping(Allocated{.host_offset = 0, .copied = true}));
  EXPECT_EQ(MappingOf(DecodeEntry(kDataFile, {.descriptor = 0}), 0), ClusterMapping(Unallocated{}));
  EXPECT_EQ(Mapping(kEntryCopied), ClusterMapping(Unallocated{}));
  EXPECT_TRUE(IsInvalid(kDataFile, 0x40400000003501e0));
}

TEST(ClusterMappingTest, RefusesWhatCannotBe) {
  EXPECT_TRUE(IsInvalid(kLayout, 0x50200));
  EXPECT_TRUE(IsInvalid(kLayout, 0x50201));
  EXPECT_TRUE(IsInvalid(kLayout, 0xc040000000350000));
  EXPECT_TRUE(IsInvalid(kLayout, 0x4000000000000100));  // Inside the header.
  EXPECT_TRUE(IsInvalid({.version = 2, .cluster_bits = 16}, 1));
  EXPECT_TRUE(IsInvalid(kExtended, 0x50000, 0x00000001'00000001));
  EXPECT_TRUE(IsInvalid(kExtended, 0, 1));
  EXPECT_FALSE(IsInvalid(kExtended, 0, 0xffffffff'00000000));
}

TEST(ClusterMappingTest, EveryEntrySurvivesTheWayToBitsAndBack) {
  for (uint32_t cluster_bits = kMinClusterBits; cluster_bits <= kMaxClusterBits; ++cluster_bits) {
    for (const uint32_t entry_bytes : {8, 16}) {
      const Layout layout = {
          .version = 3, .cluster_bits = cluster_bits, .l2_entry_bytes = entry_bytes};
      const uint64_t cluster = layout.cluster_bytes();
      const ClusterEntry entries[] = {
          {},
          {.zero = 1},
          {.has_host = true, .copied = true, .host_offset = 7 * cluster, .zero = 1},
          {.has_host = true, .host_offset = 7 * cluster, .zero = 1},
          {.has_host = true, .copied = true, .host_offset = uint64_t{1} << 55, .allocated = 1},
          {.has_host = true, .host_offset = cluster, .allocated = 1},
          {.kind = Kind::kCompressed, .host_offset = cluster + 13, .compressed_bytes = 512 - 13},
          {.kind = Kind::kCompressed,
           .host_offset = cluster + 512,
           .compressed_bytes = static_cast<uint32_t>(cluster)}};
      for (const ClusterEntry& entry : entries) {
        EXPECT_EQ(DecodeEntry(layout, EncodeEntry(layout, entry)), entry) << cluster_bits;
      }
    }
  }
}

}  // namespace
}  // namespace vireo::qcow2
