// Images whose guest data is in a file of its own, and what is preallocated.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "storage/qcow2/format.h"
#include "storage/qcow2/image.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kDisk = 4 << 20;
constexpr uint64_t kL1 = 3 * kCluster;
constexpr CreateOptions kSmall = {.size_bytes = kDisk, .cluster_bits = 12};

CreateOptions WithDataFile(bool raw) {
  CreateOptions options = kSmall;
  options.data_file = "data";
  options.data_file_raw = raw;
  return options;
}

bool IsFilledWith(const std::vector<uint8_t>& bytes, uint64_t offset, uint64_t length,
                  uint8_t byte) {
  return std::all_of(bytes.begin() + offset, bytes.begin() + offset + length,
                     [byte](uint8_t b) { return b == byte; });
}

TEST(DataFileTest, GuestDataIsAtItsGuestOffset) {
  Qcow2Disk disk(WithDataFile(false));
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, kCluster, 1).ok());
  ASSERT_TRUE(disk.Write(100 * kCluster + 512, 512, 2).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(IsFilledWith(disk.data_medium().bytes, 0, kCluster, 1));
  EXPECT_TRUE(IsFilledWith(disk.data_medium().bytes, 100 * kCluster + 512, 512, 2));
  const uint64_t l2 = disk.Load64(kL1) & kEntryOffsetMask;
  EXPECT_EQ(disk.Load64(l2), kEntryCopied);
  EXPECT_EQ(disk.Load64(l2 + 100 * sizeof(Be64)), kEntryCopied | 100 * kCluster);
  const auto result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->clean());
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(disk.Holds(0, kCluster, 1));
  EXPECT_TRUE(disk.Holds(100 * kCluster, 512, 0));
  EXPECT_TRUE(disk.Holds(100 * kCluster + 512, 512, 2));
}

TEST(DataFileTest, WhatTheDataFileHeldBeforeIsNotTheDisks) {
  Qcow2Disk disk(WithDataFile(false));
  disk.data_medium().bytes.assign(kDisk, 0xee);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(disk.Holds(0, kDisk, 0));
  ASSERT_TRUE(disk.Write(kCluster + 512, 512, 3).ok());
  EXPECT_TRUE(disk.Holds(kCluster, 512, 0));
  EXPECT_TRUE(disk.Holds(kCluster + 1024, kCluster - 1024, 0));
}

TEST(DataFileTest, AnOffsetThatIsNotTheGuestsIsRefused) {
  Qcow2Disk disk(WithDataFile(false));
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(5 * kCluster, kCluster, 1).ok());
  ASSERT_TRUE(disk.Close().ok());
  const uint64_t l2 = disk.Load64(kL1) & kEntryOffsetMask;
  disk.Store64(l2 + 5 * sizeof(Be64), kEntryCopied | 6 * kCluster);
  const auto result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->corruptions, 1u);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(absl::IsDataLoss(disk.Read(5 * kCluster, 512).status()));
  EXPECT_TRUE(absl::IsDataLoss(disk.Write(5 * kCluster, 512, 1)));
  EXPECT_FALSE(disk.Close().ok());
}

TEST(DataFileTest, ARawOneReadsAsTheDiskAllTheTime) {
  Qcow2Disk disk(WithDataFile(true));
  std::fill(disk.data_medium().bytes.begin(), disk.data_medium().bytes.end(), 0x77);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(disk.Holds(0, kDisk, 0x77));
  ASSERT_TRUE(disk.Write(3 * kCluster, kCluster, 1).ok());
  ASSERT_TRUE(disk.Zero(10 * kCluster + 512, 5 * kCluster, false).ok());
  ASSERT_TRUE(disk.Zero(20 * kCluster, 512, true).ok());
  ASSERT_TRUE(disk.Discard(30 * kCluster, 2 * kCluster).ok());
  const auto all = disk.Read(0, kDisk);
  ASSERT_TRUE(all.ok());
  EXPECT_TRUE(*all == disk.data_medium().bytes);
  EXPECT_TRUE(disk.Holds(10 * kCluster + 512, 5 * kCluster, 0));
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
  EXPECT_EQ(disk.Check()->allocated_clusters, kDisk / kCluster);
  EXPECT_TRUE(disk.ReadTheHeader()->raw_external_data());
}

TEST(DataFileTest, ARawOneGrowsWithTheDisk) {
  Qcow2Disk disk(WithDataFile(true));
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.loop().RunTask(disk.disk().Resize(2 * kDisk)).ok());
  EXPECT_EQ(disk.data_medium().bytes.size(), 2 * kDisk);
  disk.data_medium().bytes[2 * kDisk - 1] = 9;
  const auto last = disk.Read(2 * kDisk - 512, 512);
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(last->back(), 9);
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(disk.Check()->allocated_clusters, 2 * kDisk / kCluster);
}

TEST(DataFileTest, WithoutItTheImageIsNotOpened) {
  Qcow2Disk disk(WithDataFile(false));
  auto file = std::make_unique<MemoryFile>(disk.loop(), disk.medium());
  absl::StatusOr<Header> header = disk.ReadTheHeader(Access::kReadOnly);
  ASSERT_TRUE(header.ok());
  const auto opened = disk.loop().RunTask(
      Image::Open(disk.loop(), *std::move(header), {.file = std::move(file)}, {.read_only = true}));
  EXPECT_TRUE(absl::IsInvalidArgument(opened.status())) << opened.status();
}

TEST(PreallocationTest, EveryClusterHasItsPlaceInOrder) {
  for (const uint32_t cluster_bits : {9, 12, 16, 21}) {
    for (const uint32_t refcount_order : {0, 4, 6}) {
      SCOPED_TRACE(testing::Message() << cluster_bits << " " << refcount_order);
      CreateOptions options = {.size_bytes = kDisk + 512,
                               .cluster_bits = cluster_bits,
                               .refcount_order = refcount_order,
                               .preallocation = Preallocation::kMetadata};
      Qcow2Disk disk(options);
      const auto result = disk.Check();
      ASSERT_TRUE(result.ok());
      EXPECT_TRUE(result->clean());
      EXPECT_EQ(result->allocated_clusters, result->total_clusters);
      EXPECT_EQ(result->fragmented_clusters, 0u);
      EXPECT_EQ(result->image_end_offset, disk.medium().bytes.size());
      ASSERT_TRUE(disk.Open().ok());
      EXPECT_TRUE(disk.Holds(0, kDisk + 512, 0));
      const uint64_t before = disk.medium().bytes.size();
      ASSERT_TRUE(disk.Write(0, kDisk + 512, 5).ok());
      EXPECT_EQ(disk.medium().bytes.size(), before);
      EXPECT_TRUE(disk.Holds(0, kDisk + 512, 5));
      ASSERT_TRUE(disk.Close().ok());
      EXPECT_TRUE(disk.Check()->clean());
    }
  }
}

TEST(PreallocationTest, SubclustersOfAnOverlayStayUnallocated) {
  Qcow2Disk disk(CreateOptions{
      .size_bytes = kDisk, .extended_l2 = true, .preallocation = Preallocation::kMetadata});
  const uint64_t l2 = disk.Load64(disk.ReadTheHeader()->l1_offset) & kEntryOffsetMask;
  EXPECT_NE(disk.Load64(l2) & kEntryCopied, 0u);
  EXPECT_EQ(disk.Load64(l2 + 8), 0u);
  EXPECT_TRUE(disk.Check()->clean());
}

// A guest's flush of fresh clusters costs one flush of the file, with and without lazy refcounts:
// counts are durable before clusters are given out, many at a time.
TEST(LazyRefcountsTest, AFlushOfAllocatingWritesIsOneFlush) {
  for (const bool lazy : {false, true}) {
    Qcow2Disk disk(CreateOptions{.size_bytes = 64 << 20, .lazy_refcounts = lazy});
    ASSERT_TRUE(disk.Open({.commit_age = absl::InfiniteDuration()}).ok());
    ASSERT_TRUE(disk.Write(0, 512, 1).ok());
    ASSERT_TRUE(disk.Flush().ok());
    const uint64_t before = disk.medium().syncs;
    for (uint64_t i = 1; i <= 10; ++i) {
      ASSERT_TRUE(disk.Write(i << 16, 512, 1).ok());
      ASSERT_TRUE(disk.Flush().ok());
    }
    EXPECT_EQ(disk.medium().syncs - before, 10u);
    // As if the process had died now: nothing needs to be repaired.
    Qcow2Disk left(disk.TakeBytes());
    EXPECT_FALSE(left.ReadTheHeader()->dirty());
    EXPECT_EQ(left.Check()->corruptions, 0u);
  }
}

}  // namespace
}  // namespace vireo::qcow2
