#include "storage/qcow2/metadata_set.h"

#include <gtest/gtest.h>

namespace vireo::qcow2 {
namespace {

constexpr Layout kLayout = {.cluster_bits = 12};

TEST(MetadataSetTest, KnowsTheHeaderFromTheStart) {
  const MetadataSet set(kLayout);
  EXPECT_TRUE(set.Contains(0));
  EXPECT_TRUE(set.Contains(4095));
  EXPECT_FALSE(set.Contains(4096));
}

TEST(MetadataSetTest, RefusesTwoKindsInOneCluster) {
  MetadataSet set(kLayout);
  EXPECT_TRUE(set.AddRange(MetadataKind::kL1Table, 8192, 5000));
  EXPECT_FALSE(set.Add(MetadataKind::kL2Table, 12288));
  EXPECT_TRUE(set.Add(MetadataKind::kL2Table, 16384));
  EXPECT_FALSE(set.Add(MetadataKind::kRefcountBlock, 16384));
  EXPECT_FALSE(set.AddRange(MetadataKind::kRefcountTable, 4096, 12289));
}

TEST(MetadataSetTest, FindsOverlapsWithPartsOfClusters) {
  MetadataSet set(kLayout);
  ASSERT_TRUE(set.Add(MetadataKind::kL2Table, 8192));
  EXPECT_FALSE(set.Overlaps(4096, 4096));
  EXPECT_TRUE(set.Overlaps(4096, 4097));
  EXPECT_TRUE(set.Overlaps(12287, 1));
  EXPECT_FALSE(set.Overlaps(12288, 0));
}

TEST(MetadataSetTest, FindsOverlapsOfLongRanges) {
  MetadataSet set(kLayout);
  for (const uint64_t cluster : {63, 64, 200}) {
    ASSERT_TRUE(set.Add(MetadataKind::kL2Table, cluster * 4096));
  }
  EXPECT_FALSE(set.Overlaps(1 * 4096, 62 * 4096));
  EXPECT_TRUE(set.Overlaps(1 * 4096, 63 * 4096));
  EXPECT_TRUE(set.Overlaps(64 * 4096, 4096));
  EXPECT_FALSE(set.Overlaps(65 * 4096, 135 * 4096));
  EXPECT_TRUE(set.Overlaps(65 * 4096, 136 * 4096));
  EXPECT_FALSE(set.Overlaps(201 * 4096, uint64_t{1} << 30));
  set.Remove(64 * 4096);
  EXPECT_FALSE(set.Overlaps(64 * 4096, 136 * 4096));
  EXPECT_TRUE(set.Overlaps(2 * 4096, 62 * 4096));
}

TEST(MetadataSetTest, ForgetsWhatIsRemoved) {
  MetadataSet set(kLayout);
  ASSERT_TRUE(set.Add(MetadataKind::kL2Table, 8192));
  ASSERT_TRUE(set.AddRange(MetadataKind::kL1Table, 40960, 8192));
  EXPECT_TRUE(set.Is(MetadataKind::kL1Table, 45056));
  set.Remove(8192);
  set.RemoveRange(40960);
  EXPECT_FALSE(set.Contains(8192));
  EXPECT_FALSE(set.Contains(45056));
}

}  // namespace
}  // namespace vireo::qcow2
