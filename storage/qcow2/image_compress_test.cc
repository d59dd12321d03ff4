// Writing compressed clusters.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "storage/qcow2/image.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kDisk = 4 << 20;

// About a third of it is left by compression.
std::vector<uint8_t> Text(uint64_t length, uint32_t seed) {
  std::vector<uint8_t> bytes(length);
  std::mt19937 random(seed);
  for (size_t i = 0; i < length; ++i) {
    bytes[i] = i % 16 < 5 ? static_cast<uint8_t>(random()) : static_cast<uint8_t>('a' + i % 16);
  }
  return bytes;
}

absl::Status WriteCompressed(Qcow2Disk& disk, uint64_t offset, const std::vector<uint8_t>& bytes) {
  const iovec part = ToIoVec(std::span<const uint8_t>(bytes));
  return disk.loop().RunTask(disk.disk().WriteCompressed(offset, IoVecs(&part, 1)));
}

class CompressTest : public testing::TestWithParam<CreateOptions> {};

TEST_P(CompressTest, WhatIsWrittenIsReadAndCounted) {
  CreateOptions options = GetParam();
  options.size_bytes = kDisk + 1536;
  Qcow2Disk disk(options);
  const std::vector<uint8_t> bytes = Text(options.size_bytes, 1);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(WriteCompressed(disk, 0, bytes).ok());
  EXPECT_EQ(*disk.Read(0, bytes.size()), bytes);
  ASSERT_TRUE(disk.Close().ok());
  const auto result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->clean()) << result->leaks << " " << result->corruptions;
  EXPECT_EQ(result->compressed_clusters, result->total_clusters);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_EQ(*disk.Read(0, bytes.size()), bytes);
}

TEST_P(CompressTest, WhatIsOverwrittenIsGivenBack) {
  CreateOptions options = GetParam();
  options.size_bytes = kDisk;
  Qcow2Disk disk(options);
  ASSERT_TRUE(disk.Open().ok());
  std::vector<uint8_t> wanted = Text(kDisk, 1);
  ASSERT_TRUE(WriteCompressed(disk, 0, wanted).ok());
  const uint64_t cluster = uint64_t{1} << options.cluster_bits;
  std::mt19937 random(2);
  for (int i = 0; i < 60; ++i) {
    const uint64_t at = random() % (kDisk / cluster) * cluster;
    const std::vector<uint8_t> bytes = Text(std::min(2 * cluster, kDisk - at), 3 + i);
    if (i % 3 == 0) {
      ASSERT_TRUE(disk.Write(at, bytes.size(), 7).ok());
      std::fill_n(wanted.begin() + at, bytes.size(), 7);
    } else {
      ASSERT_TRUE(WriteCompressed(disk, at, bytes).ok());
      std::copy(bytes.begin(), bytes.end(), wanted.begin() + at);
    }
    if (i % 10 == 9) {
      ASSERT_TRUE(disk.Flush().ok());
    }
  }
  EXPECT_TRUE(*disk.Read(0, kDisk) == wanted);
  ASSERT_TRUE(disk.Close().ok());
  const auto result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->clean()) << result->leaks << " " << result->corruptions;
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(*disk.Read(0, kDisk) == wanted);
}

INSTANTIATE_TEST_SUITE_P(
    Images, CompressTest,
    testing::Values(CreateOptions{}, CreateOptions{.zstd = true}, CreateOptions{.version = 2},
                    CreateOptions{.cluster_bits = 12}, CreateOptions{.cluster_bits = 9},
                    CreateOptions{.cluster_bits = 12, .refcount_order = 0},
                    CreateOptions{.cluster_bits = 12, .refcount_order = 1},
                    CreateOptions{.cluster_bits = 21}, CreateOptions{.extended_l2 = true}),
    [](const testing::TestParamInfo<CreateOptions>& info) {
      return "Image" + std::to_string(info.index);
    });

TEST(CompressOnceTest, StreamsArePackedWithoutGaps) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 14});
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(WriteCompressed(disk, 0, std::vector<uint8_t>(kDisk, 'a')).ok());
  ASSERT_TRUE(disk.Close().ok());
  // 256 streams of some fifty bytes fit into one or two clusters; tables are set aside before them.
  EXPECT_EQ(disk.Check()->compressed_clusters, 256u);
  EXPECT_LE(disk.medium().bytes.size(), uint64_t{40} << 14);
}

TEST(CompressOnceTest, WhatDoesNotGetShorterIsStoredAsItIs) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  std::vector<uint8_t> noise(3 << 16);
  std::mt19937 random(1);
  for (uint8_t& byte : noise) byte = static_cast<uint8_t>(random());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(WriteCompressed(disk, 1 << 16, noise).ok());
  EXPECT_EQ(*disk.Read(1 << 16, noise.size()), noise);
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(disk.Check()->compressed_clusters, 0u);
  EXPECT_EQ(disk.Check()->allocated_clusters, 3u);
}

TEST(CompressOnceTest, OnlyWholeClustersOrTheEnd) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk + 512});
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(absl::IsInvalidArgument(WriteCompressed(disk, 512, Text(1 << 16, 1))));
  EXPECT_TRUE(absl::IsInvalidArgument(WriteCompressed(disk, 0, Text(512, 1))));
  EXPECT_TRUE(WriteCompressed(disk, kDisk, Text(512, 1)).ok());
  EXPECT_FALSE(WriteCompressed(disk, kDisk, Text(1024, 1)).ok());
}

TEST(CompressOnceTest, NotBesideADataFile) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .data_file = "data"});
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(absl::IsUnimplemented(WriteCompressed(disk, 0, Text(1 << 16, 1))));
}

TEST(CompressOnceTest, AFullDiskLeavesWhatWasThere) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12});
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 1 << 16, 3).ok());
  disk.medium().max_bytes = 200 << 10;
  EXPECT_TRUE(absl::IsResourceExhausted(WriteCompressed(disk, 0, Text(kDisk, 1))));
  const auto last = disk.Read(kDisk - 4096, 4096);
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(*last, std::vector<uint8_t>(4096));
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
}

}  // namespace
}  // namespace vireo::qcow2
