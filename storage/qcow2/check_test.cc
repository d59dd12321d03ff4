#include "storage/qcow2/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "storage/qcow2/format.h"
#include "tests/support/qcow2_disk.h"
#include "tests/support/qcow2_snapshot.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kTable = kCluster;
constexpr uint64_t kBlock = 2 * kCluster;
constexpr uint64_t kL1 = 3 * kCluster;
constexpr uint64_t kTableFieldOffset = kRefcountTableFieldsOffset;
constexpr CreateOptions kSmall = {.size_bytes = 4 << 20, .cluster_bits = 12};

class CheckTest : public testing::Test {
 protected:
  CheckTest() : disk_(kSmall) {
    EXPECT_TRUE(disk_.Open().ok());
    EXPECT_TRUE(disk_.Write(0, 4 * kCluster, 0x11).ok());
    EXPECT_TRUE(disk_.Write(100 * kCluster, kCluster, 0x22).ok());
    EXPECT_TRUE(disk_.Close().ok());
    l2_ = disk_.Load64(kL1) & kEntryOffsetMask;
    data_ = disk_.Load64(l2_) & kEntryOffsetMask;
  }
  CheckResult Check(Repair repair = Repair::kNone) {
    lines_.clear();
    CheckReport report = [this](const std::string& line) { lines_.push_back(line); };
    const auto result = disk_.Check(repair, &report);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : CheckResult{.check_errors = 1};
  }
  void ExpectContent() {
    ASSERT_TRUE(disk_.Open().ok());
    EXPECT_TRUE(disk_.Holds(0, 4 * kCluster, 0x11));
    EXPECT_TRUE(disk_.Holds(100 * kCluster, kCluster, 0x22));
    EXPECT_TRUE(disk_.Close().ok());
  }
  uint64_t CounterOf(uint64_t host_offset) { return kBlock + host_offset / kCluster * 2; }

  Qcow2Disk disk_;
  uint64_t l2_;
  uint64_t data_;
  std::vector<std::string> lines_;
};

TEST_F(CheckTest, ASoundImageIsClean) {
  const CheckResult result = Check();
  EXPECT_TRUE(result.clean());
  EXPECT_EQ(result.total_clusters, 1024u);
  EXPECT_EQ(result.allocated_clusters, 5u);
  EXPECT_EQ(result.image_end_offset, disk_.medium().bytes.size());
}

TEST_F(CheckTest, LeaksAreFoundAndMended) {
  disk_.Store16(CounterOf(data_), 3);
  CheckResult result = Check();
  EXPECT_EQ(result.leaks, 1u);
  EXPECT_THAT(lines_[0], testing::HasSubstr("refcount=3 reference=1"));
  result = Check(Repair::kLeaks);
  EXPECT_EQ(result.leaks_fixed, 1u);
  // The flag that was wrong beside it is another matter.
  EXPECT_TRUE(Check().clean());
  ExpectContent();
}

// As a crash leaves them that lost the file's new size: they would leak when it grows again.
TEST_F(CheckTest, CountsBehindTheEndAreNoLeaksAndGo) {
  const uint64_t behind = CounterOf(disk_.medium().bytes.size() + 3 * kCluster);
  const uint64_t last = kBlock + kCluster - 2;
  disk_.Store16(behind, 1);
  disk_.Store16(last, 2);
  EXPECT_TRUE(Check().clean());
  EXPECT_EQ(disk_.Load16(behind), 1u);
  const CheckResult result = Check(Repair::kLeaks);
  EXPECT_TRUE(result.clean());
  EXPECT_EQ(result.leaks_fixed, 0u);
  EXPECT_EQ(disk_.Load16(behind), 0u);
  EXPECT_EQ(disk_.Load16(last), 0u);
  ExpectContent();
}

TEST_F(CheckTest, WhatPointsBehindTheEndKeepsItsCount) {
  const uint64_t target = disk_.medium().bytes.size() + 3 * kCluster;
  disk_.Store64(l2_ + 8, target | kEntryCopied);
  disk_.Store16(CounterOf(target), 1);
  EXPECT_GT(Check(Repair::kLeaks).corruptions, 0u);
  EXPECT_EQ(disk_.Load16(CounterOf(target)), 1u);
}

TEST_F(CheckTest, RepairOfLeaksRaisesNoCount) {
  disk_.Store16(CounterOf(data_), 0);
  CheckResult result = Check(Repair::kLeaks);
  EXPECT_EQ(result.corruptions_fixed, 0u);
  EXPECT_GT(result.corruptions, 0u);
  EXPECT_FALSE(result.stopped.ok());
  EXPECT_THAT(lines_, testing::Contains("ERROR need to rebuild refcount structures"));
  result = Check(Repair::kAll);
  EXPECT_EQ(result.corruptions, 0u);
  EXPECT_EQ(result.corruptions_fixed, 1u);
  EXPECT_THAT(lines_, testing::Contains("Rebuilding refcount structure"));
  EXPECT_TRUE(Check().clean());
  ExpectContent();
}

TEST_F(CheckTest, CopiedFlagsAreMended) {
  disk_.Store64(l2_, data_);
  disk_.Store64(kL1, l2_);
  EXPECT_EQ(Check().corruptions, 2u);
  EXPECT_EQ(Check(Repair::kAll).corruptions_fixed, 2u);
  EXPECT_TRUE(Check().clean());
  ExpectContent();
}

TEST_F(CheckTest, RepairOfLeaksMendsFlagsWhereAllCountsAreRight) {
  disk_.Store64(l2_, data_);
  EXPECT_EQ(Check(Repair::kLeaks).corruptions_fixed, 1u);
  EXPECT_TRUE(Check().clean());
  // A count that is too low stays, and so does the flag.
  disk_.Store64(l2_, data_);
  disk_.Store64(l2_ + 16, disk_.Load64(l2_ + 8));
  EXPECT_EQ(Check(Repair::kLeaks).corruptions_fixed, 0u);
  EXPECT_EQ(disk_.Load64(l2_), data_);
}

TEST_F(CheckTest, ALowCountIsRaisedWithItsFlags) {
  disk_.Store64(l2_ + 8, disk_.Load64(l2_));
  const CheckResult result = Check(Repair::kAll);
  EXPECT_EQ(result.leaks_fixed, 1u);        // What the second entry had.
  EXPECT_EQ(result.corruptions_fixed, 3u);  // The count and two flags.
  EXPECT_TRUE(Check().clean());
}

TEST_F(CheckTest, AnUnalignedZeroClusterLosesItsCluster) {
  disk_.Store64(l2_, (data_ + 512) | kEntryCopied | kEntryZero);
  EXPECT_EQ(Check().corruptions, 2u);
  EXPECT_EQ(Check(Repair::kAll).corruptions_fixed, 1u);
  EXPECT_EQ(disk_.Load64(l2_), kEntryZero);
  EXPECT_TRUE(Check().clean());
}

TEST_F(CheckTest, NewRefcountStructuresGoWhereNothingIs) {
  // The file has room, set aside ahead of writes.
  const uint64_t bytes = disk_.medium().bytes.size();
  for (int i = 0; i < 3; ++i) {
    const uint64_t table = disk_.Load64(kTableFieldOffset);
    disk_.Store16(disk_.Load64(table) + data_ / kCluster * 2, 0);
    Check(Repair::kAll);
    EXPECT_NE(disk_.Load64(kTableFieldOffset), table);
    EXPECT_TRUE(Check().clean());
  }
  EXPECT_EQ(disk_.medium().bytes.size(), bytes);
  ExpectContent();
}

TEST_F(CheckTest, ADeviceIsRebuiltInItsFreeClusters) {
  disk_.Store16(CounterOf(data_), 0);
  disk_.medium().traits.growable = false;
  const CheckResult result = Check(Repair::kAll);
  EXPECT_TRUE(result.stopped.ok()) << result.stopped;
  EXPECT_TRUE(Check().clean());
  ExpectContent();
}

TEST_F(CheckTest, NothingIsTakenForALeakWhereSnapshotsCannotBeRead) {
  std::vector<uint8_t> image = disk_.TakeBytes();
  AddInternalSnapshot(image);
  Qcow2Disk disk(image);
  const uint64_t table = disk.Load64(64);
  disk.Store64(table + 32, 0xffffffff);  // VM state size, and length of the extra data.
  const auto result = disk.Check(Repair::kLeaks);
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->stopped.ok());
  EXPECT_EQ(result->leaks_fixed, 0u);
}

TEST_F(CheckTest, ReservedBitsAreFoundAndCleared) {
  disk_.Store64(l2_, disk_.Load64(l2_) | 0x100);
  EXPECT_EQ(Check().corruptions, 1u);
  Check(Repair::kAll);
  EXPECT_TRUE(Check().clean());
  ExpectContent();
}

TEST_F(CheckTest, ALostRefcountBlockIsRebuilt) {
  disk_.Store64(kTable, 0);
  EXPECT_GT(Check().corruptions, 0u);
  Check(Repair::kAll);
  EXPECT_TRUE(Check().clean());
  ExpectContent();
  EXPECT_TRUE(Check().clean());
}

TEST_F(CheckTest, ARefcountBlockThatCannotBeIsRebuilt) {
  for (const uint64_t wrong : {kBlock + 512, uint64_t{1} << 40, uint64_t{0}, l2_}) {
    const uint64_t table = disk_.Load64(kTableFieldOffset);
    const uint64_t block = wrong != 0 ? wrong : table;
    disk_.Store64(table, block);
    EXPECT_GT(Check().corruptions, 0u) << block;
    Check(Repair::kAll);
    EXPECT_TRUE(Check().clean()) << block;
  }
  ExpectContent();
}

TEST_F(CheckTest, ALostRefcountTableIsRebuilt) {
  const Be32 none(0);
  std::memcpy(disk_.medium().bytes.data() + 56, &none, sizeof(none));
  EXPECT_GT(Check().corruptions, 0u);
  Check(Repair::kAll);
  EXPECT_TRUE(Check().clean());
  ExpectContent();
}

TEST_F(CheckTest, RepairClearsDirtyAndCorrupt) {
  disk_.Store64(72, kIncompatibleDirty | kIncompatibleCorrupt);
  EXPECT_TRUE(Check(Repair::kLeaks).clean());
  EXPECT_EQ(disk_.Load64(72), 0u);
  // Not while anything is wrong.
  disk_.Store64(72, kIncompatibleDirty);
  disk_.Store64(l2_ + 8, disk_.Load64(l2_));
  EXPECT_FALSE(Check(Repair::kLeaks).clean());
  EXPECT_NE(disk_.Load64(72), 0u);
}

TEST_F(CheckTest, TwoEntriesOfOneClusterAreFound) {
  disk_.Store64(l2_ + 8, disk_.Load64(l2_));
  EXPECT_GE(Check().corruptions, 1u);
}

TEST_F(CheckTest, EntriesThatCannotBeRightAreNotGuessedAt) {
  const uint64_t entries[] = {data_ | 0x200, uint64_t{1} << 50,
                              kEntryCompressed | kEntryCopied | data_,
                              kEntryCompressed | uint64_t{1} << 50};
  for (const uint64_t entry : entries) {
    disk_.Store64(l2_, entry);
    EXPECT_GT(Check().corruptions, 0u) << std::hex << entry;
  }
  for (const uint64_t entry : {l2_ | 0x200, uint64_t{1} << 50}) {
    disk_.Store64(kL1, entry);
    EXPECT_GT(Check().corruptions, 0u) << std::hex << entry;
  }
}

TEST_F(CheckTest, ASnapshotsReferencesCount) {
  std::vector<uint8_t> image = disk_.TakeBytes();
  AddInternalSnapshot(image);
  Qcow2Disk disk(image);
  EXPECT_TRUE(disk.Check()->clean());
  disk.Store16(CounterOf(data_), 1);
  EXPECT_GT(disk.Check()->corruptions, 0u);
}

TEST_F(CheckTest, AnUncheckableImageIsAnError) {
  disk_.Store64(0, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(disk_.Check().status()));
}

}  // namespace
}  // namespace vireo::qcow2
