#include "storage/qcow2/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "base/async/async_event.h"
#include "base/async/task_scope.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/format.h"
#include "tests/support/memory_backend.h"
#include "tests/support/qcow2_disk.h"
#include "tests/support/qcow2_snapshot.h"

namespace vireo::qcow2 {
namespace {

using testing::HasSubstr;

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kDisk = 4 << 20;
// Where an empty image of 4 KiB clusters and four megabytes has its L1 table.
constexpr uint64_t kL1 = 3 * kCluster;
constexpr CreateOptions kSmall = {.size_bytes = kDisk, .cluster_bits = 12};

// An image with one written cluster; answers where its L2 entry is.
uint64_t WriteFirstCluster(Qcow2Disk& disk) {
  EXPECT_TRUE(disk.Open().ok());
  EXPECT_TRUE(disk.Write(0, kCluster, 0x11).ok());
  EXPECT_TRUE(disk.Close().ok());
  return disk.Load64(kL1) & kEntryOffsetMask;
}

std::unique_ptr<BlockBackend> BackingOf(uint64_t bytes, uint8_t byte) {
  auto backing = std::make_unique<MemoryBackend>(MemoryBackend::Options{.size_bytes = bytes});
  std::fill(backing->bytes().begin(), backing->bytes().end(), byte);
  return backing;
}

TEST(ImageTest, ACleanCloseLeavesNoLeak) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  for (uint64_t offset = 0; offset < kDisk; offset += 5 * kCluster) {
    ASSERT_TRUE(disk.Write(offset, 512, 1).ok());
  }
  ASSERT_TRUE(disk.Discard(0, kDisk / 2).ok());
  ASSERT_TRUE(disk.Close().ok());
  const auto result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result->clean()) << result->leaks << " " << result->corruptions;
  EXPECT_EQ(result->image_end_offset, disk.medium().bytes.size());
}

TEST(ImageTest, FreedClustersAreUsedAgain) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  uint64_t size = 0;
  for (int round = 0; round < 10; ++round) {
    ASSERT_TRUE(disk.Write(0, kDisk, 1).ok());
    ASSERT_TRUE(disk.Flush().ok());
    ASSERT_TRUE(disk.Discard(0, kDisk).ok());
    ASSERT_TRUE(disk.Flush().ok());
    if (round == 1) size = disk.medium().bytes.size();
  }
  EXPECT_LE(disk.medium().bytes.size(), size + kDisk / 2);
}

TEST(ImageTest, WritesInPlaceTouchNoMetadata) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 4 * kCluster, 1).ok());
  ASSERT_TRUE(disk.Flush().ok());
  const uint64_t writes = disk.medium().writes;
  const uint64_t syncs = disk.medium().syncs;
  ASSERT_TRUE(disk.Write(512, 3 * kCluster, 2).ok());
  EXPECT_EQ(disk.medium().writes, writes + 1);
  ASSERT_TRUE(disk.Flush().ok());
  EXPECT_EQ(disk.medium().writes, writes + 1);
  EXPECT_EQ(disk.medium().syncs, syncs + 1);
}

TEST(ImageTest, AllocationIsPaidForByTheRunNotByTheCluster) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 64 << 20});
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 65536, 1).ok());
  const uint64_t syncs = disk.medium().syncs;
  for (uint64_t i = 1; i < 14; ++i) ASSERT_TRUE(disk.Write(i * 65536, 65536, 1).ok());
  EXPECT_EQ(disk.medium().syncs, syncs);
  // Fresh clusters over zeros: one flush commits them all.
  ASSERT_TRUE(disk.Flush().ok());
  EXPECT_EQ(disk.medium().syncs, syncs + 1);
}

class ConcurrentImageTest : public testing::Test {
 protected:
  Task<void> Flush(Qcow2Disk* disk, int* failed) {
    const absl::Status flushed = co_await disk->disk().Flush();
    if (!flushed.ok()) ++*failed;
  }
  Task<void> Write(Qcow2Disk* disk, uint64_t offset, std::vector<uint8_t>* bytes, bool* ended) {
    const iovec part = ToIoVec(std::span<uint8_t>(*bytes));
    const absl::Status written =
        co_await disk->disk().Write(offset, IoVecs(&part, 1), WriteFlags{});
    *ended = written.ok();
  }
  Task<void> Read(Qcow2Disk* disk, uint64_t offset, std::vector<uint8_t>* bytes, bool* ended) {
    const iovec part = ToIoVec(std::span<uint8_t>(*bytes));
    const absl::Status read = co_await disk->disk().Read(offset, IoVecs(&part, 1));
    *ended = read.ok();
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }
};

TEST_F(ConcurrentImageTest, FlushesThatCameTogetherShareACommit) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, kCluster, 1).ok());
  const uint64_t syncs = disk.medium().syncs;
  int failed = 0;
  EventLoop::CurrentScope current(disk.loop());
  TaskScope scope(disk.loop());
  for (int i = 0; i < 50; ++i) scope.Spawn(Flush(&disk, &failed));
  disk.loop().RunTask(Join(&scope));
  EXPECT_EQ(failed, 0);
  EXPECT_LE(disk.medium().syncs, syncs + 2);
}

TEST_F(ConcurrentImageTest, WritesToOneNewClusterGoSideBySide) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 512, 1).ok());  // The table is there, and clusters to be given out.
  const uint64_t writes = disk.medium().writes;
  EventLoop::CurrentScope current(disk.loop());
  TaskScope scope(disk.loop());
  std::vector<std::vector<uint8_t>> bytes;
  bool ended[8] = {};
  for (uint8_t i = 0; i < 8; ++i) bytes.push_back(std::vector<uint8_t>(512, i + 1));
  for (uint64_t i = 0; i < 8; ++i) {
    scope.Spawn(Write(&disk, kCluster + i * 512, &bytes[i], &ended[i]));
  }
  // All are under way before the first has ended: none waits for the cluster.
  EXPECT_FALSE(ended[0]);
  disk.loop().RunTask(Join(&scope));
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(ended[i]);
    EXPECT_TRUE(disk.Holds(kCluster + i * 512, 512, static_cast<uint8_t>(i + 1)));
  }
  EXPECT_EQ(disk.medium().writes - writes, 8u);
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
  EXPECT_EQ(disk.Check()->allocated_clusters, 2u);
}

TEST_F(ConcurrentImageTest, ReadsDoNotWaitForAWriterThatHangs) {
  // The writer needs old data from a backing file that does not answer.
  Qcow2Disk disk(CreateOptions{
      .size_bytes = kDisk, .cluster_bits = 12, .backing_file = "backing", .backing_format = "raw"});
  std::unique_ptr<BlockBackend> owned = BackingOf(kDisk, 7);
  MemoryBackend& backing = static_cast<MemoryBackend&>(*owned);
  ASSERT_TRUE(disk.Open({}, std::move(owned)).ok());
  ASSERT_TRUE(disk.Write(8 * kCluster, kCluster, 9).ok());

  backing.Hold();
  std::vector<uint8_t> bytes(512, 1);
  std::vector<uint8_t> whole(kCluster, 2);
  std::vector<uint8_t> seen(kCluster);
  bool partial_ended = false;
  bool whole_ended = false;
  bool read_ended = false;
  EventLoop::CurrentScope current(disk.loop());
  TaskScope scope(disk.loop());
  scope.Spawn(Write(&disk, 512, &bytes, &partial_ended));
  scope.Spawn(Write(&disk, 4 * kCluster, &whole, &whole_ended));
  scope.Spawn(Read(&disk, 8 * kCluster, &seen, &read_ended));
  disk.loop().RunUntilIdle();
  EXPECT_FALSE(partial_ended);
  EXPECT_TRUE(read_ended);
  EXPECT_EQ(seen, std::vector<uint8_t>(kCluster, 9));
  backing.Release();
  disk.loop().RunTask(Join(&scope));
  EXPECT_TRUE(partial_ended);
  EXPECT_TRUE(whole_ended);
  EXPECT_TRUE(disk.Holds(0, 512, 7));
  EXPECT_TRUE(disk.Holds(512, 512, 1));
}

TEST(ImageTest, CopiesOnlyWhatTheGuestDidNotWrite) {
  Qcow2Disk disk(CreateOptions{
      .size_bytes = kDisk, .cluster_bits = 12, .backing_file = "backing", .backing_format = "raw"});
  ASSERT_TRUE(disk.Open({}, BackingOf(kDisk - 8 * kCluster - 1024, 7)).ok());
  ASSERT_TRUE(disk.Write(1024, 512, 1).ok());
  EXPECT_TRUE(disk.Holds(0, 1024, 7));
  EXPECT_TRUE(disk.Holds(1024, 512, 1));
  EXPECT_TRUE(disk.Holds(1536, 4 * kCluster, 7));
  // Around the end of the shorter backing file.
  const uint64_t end = kDisk - 8 * kCluster - 1024;
  ASSERT_TRUE(disk.Write(end - 1024, 512, 2).ok());
  EXPECT_TRUE(disk.Holds(end - 512, 512, 7));
  EXPECT_TRUE(disk.Holds(end, 8 * kCluster, 0));
}

TEST(ImageTest, GrowingOverALongerBackingFileShowsZeros) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 3 * kCluster + 512,
                               .cluster_bits = 12,
                               .backing_file = "backing",
                               .backing_format = "raw"});
  ASSERT_TRUE(disk.Open({}, BackingOf(kDisk, 7)).ok());
  ASSERT_TRUE(disk.loop().RunTask(disk.disk().Resize(kDisk)).ok());
  EXPECT_TRUE(disk.Holds(0, 3 * kCluster + 512, 7));
  EXPECT_TRUE(disk.Holds(3 * kCluster + 512, kDisk - 3 * kCluster - 512, 0));
}

TEST(ImageTest, ADiscardedClusterNeverShowsTheBackingFileAgain) {
  Qcow2Disk disk(CreateOptions{
      .size_bytes = kDisk, .cluster_bits = 12, .backing_file = "backing", .backing_format = "raw"});
  ASSERT_TRUE(disk.Open({}, BackingOf(kDisk, 7)).ok());
  ASSERT_TRUE(disk.Write(0, 4 * kCluster, 1).ok());
  ASSERT_TRUE(disk.Discard(0, 2 * kCluster).ok());
  EXPECT_TRUE(disk.Holds(0, 2 * kCluster, 0));
  EXPECT_TRUE(disk.Holds(2 * kCluster, 2 * kCluster, 1));
}

TEST(ImageTest, SharedClustersAreCopiedAndTheSnapshotKeepsItsOwn) {
  Qcow2Disk made(kSmall);
  ASSERT_TRUE(made.Open().ok());
  ASSERT_TRUE(made.Write(0, 16 * kCluster, 3).ok());
  ASSERT_TRUE(made.Close().ok());
  std::vector<uint8_t> image = made.TakeBytes();
  AddInternalSnapshot(image);

  Qcow2Disk disk(image);
  ASSERT_TRUE(disk.Check()->clean());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(512, 512, 4).ok());
  ASSERT_TRUE(disk.Write(8 * kCluster, 4 * kCluster, 5).ok());
  EXPECT_TRUE(disk.Holds(0, 512, 3));
  EXPECT_TRUE(disk.Holds(512, 512, 4));
  EXPECT_TRUE(disk.Holds(1024, 7 * kCluster - 1024, 3));
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
  // The snapshot, made the active tree, still holds what it held: its L1 table follows the image.
  const auto header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok());
  disk.Store64(40, disk.Load64(header->snapshots_offset));
  disk.Store64(56, disk.Load64(56) >> 32 << 32);  // No snapshots: 4 bytes behind the table's size.
  ASSERT_TRUE(disk.Open({.read_only = true}).ok());
  EXPECT_TRUE(disk.Holds(0, 16 * kCluster, 3));
}

// As a power cut leaves it that came while a snapshot was made or deleted.
TEST(ImageTest, ATableThatIsCountedTooOftenIsCopiedWithItsFlags) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 16 * kCluster, 3).ok());
  ASSERT_TRUE(disk.Close().ok());
  const uint64_t l2 = disk.Load64(kL1) & kEntryOffsetMask;
  const uint64_t data = disk.Load64(l2);
  disk.Store64(kL1, l2);
  disk.Store16(2 * kCluster + l2 / kCluster * 2, 2);
  ASSERT_EQ(disk.Check()->corruptions, 0u);

  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(20 * kCluster, 512, 4).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(disk.Check()->corruptions, 0u);
  const uint64_t copy = disk.Load64(kL1) & kEntryOffsetMask;
  EXPECT_NE(copy, l2);
  EXPECT_EQ(disk.Load64(copy), data);
}

TEST(ImageTest, AutoclearBitsGoBeforeTheFirstWriteNotAtOpening) {
  Qcow2Disk disk(kSmall);
  disk.Store64(88, uint64_t{1} << 40 | kAutoclearBitmaps);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Read(0, 512).ok());
  EXPECT_NE(disk.Load64(88), 0u);
  ASSERT_TRUE(disk.Write(0, 512, 1).ok());
  EXPECT_EQ(disk.Load64(88), 0u);
}

TEST(ImageTest, CompatibleBitsAreKept) {
  Qcow2Disk disk(kSmall);
  disk.Store64(80, uint64_t{1} << 40);
  WriteFirstCluster(disk);
  EXPECT_EQ(disk.Load64(80), uint64_t{1} << 40);
}

TEST(ImageTest, ADirtyImageIsRepairedBeforeItIsWritten) {
  Qcow2Disk disk(kSmall);
  const uint64_t l2 = WriteFirstCluster(disk);
  const uint64_t data = disk.Load64(l2) & kEntryOffsetMask;
  disk.Store16(2 * kCluster + data / kCluster * 2, 0);  // Not counted.
  disk.Store64(72, kIncompatibleDirty);
  // Reading needs no repair.
  ASSERT_TRUE(disk.Open({.read_only = true}).ok());
  EXPECT_TRUE(disk.Holds(0, kCluster, 0x11));
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(disk.Load64(72), kIncompatibleDirty);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_EQ(disk.Load64(72), 0u);
  EXPECT_TRUE(disk.Holds(0, kCluster, 0x11));
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
}

TEST(ImageTest, ACorruptImageOpensForReadingOnly) {
  Qcow2Disk disk(kSmall);
  WriteFirstCluster(disk);
  disk.Store64(72, kIncompatibleCorrupt);
  EXPECT_TRUE(absl::IsDataLoss(disk.Open()));
  ASSERT_TRUE(disk.Open({.read_only = true}).ok());
  EXPECT_TRUE(disk.Holds(0, kCluster, 0x11));
}

TEST(ImageTest, ACommitComesWithoutAFlush) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open({.commit_age = absl::Milliseconds(1)}).ok());
  ASSERT_TRUE(disk.Write(0, kCluster, 1).ok());
  // The L1 entry tells. Waiting is bounded by the test's own time limit.
  while (disk.Load64(kL1) == 0) {
    ASSERT_TRUE(disk.loop().RunTask(disk.loop().SleepFor(absl::Milliseconds(1))).ok());
  }
  EXPECT_NE(disk.Load64(kL1), 0u);
}

TEST(ImageTest, TheCacheStaysWithinItsLimit) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 16 << 20, .cluster_bits = 9});
  ASSERT_TRUE(disk.Open({.cache_bytes = 64 << 10}).ok());
  for (uint64_t offset = 0; offset < (16 << 20); offset += 64 << 10) {
    ASSERT_TRUE(disk.Write(offset, 512, 1).ok());
  }
  ASSERT_TRUE(disk.Flush().ok());
  for (uint64_t offset = 0; offset < (16 << 20); offset += 64 << 10) {
    ASSERT_TRUE(disk.Holds(offset, 512, 1));
  }
  EXPECT_LE(static_cast<Image&>(disk.disk()).cache_memory_bytes(), 64u << 10);
}

TEST(ImageTest, AFullHostFailsTheWriteAndHarmsNothing) {
  Qcow2Disk disk(kSmall);
  ASSERT_TRUE(disk.Open().ok());
  disk.medium().max_bytes = disk.medium().bytes.size() + (1 << 20);
  absl::Status status;
  uint64_t written = 0;
  for (; status.ok() && written < kDisk; written += kCluster) {
    status = disk.Write(written, kCluster, 1);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(written, (1 << 20) / 2);
  EXPECT_TRUE(disk.Holds(0, written - kCluster, 1));
  // With room again it goes on.
  disk.medium().max_bytes = uint64_t{1} << 32;
  ASSERT_TRUE(disk.Write(0, kDisk, 2).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
}

TEST(ImageTest, ABlockDeviceHoldsAnImageUpToItsEnd) {
  MemoryMedium device;
  device.bytes.assign(2 << 20, 0xee);  // Its fresh space is not zeros.
  device.traits = {.growable = false, .zero_filled = false};
  Qcow2Disk disk(device.bytes);
  disk.medium().traits = device.traits;
  {
    MemoryFile file(disk.loop(), disk.medium());
    ASSERT_TRUE(disk.loop().RunTask(CreateImage(file, kSmall)).ok());
  }
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(512, 512, 1).ok());
  EXPECT_TRUE(disk.Holds(0, 512, 0));
  EXPECT_TRUE(disk.Holds(1024, kCluster - 1024, 0));
  EXPECT_TRUE(absl::IsResourceExhausted(disk.Write(0, kDisk, 2)));
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
}

// --- Images that contradict themselves ---

struct Damage {
  const char* name;
  std::function<void(Qcow2Disk&, uint64_t l2)> damage;
  bool reads = false;  // Whether the first cluster can still be read.
};

std::ostream& operator<<(std::ostream& out, const Damage& damage) { return out << damage.name; }

class DamagedImageTest : public testing::TestWithParam<Damage> {};

TEST_P(DamagedImageTest, ReadsFailWithoutChangingAnything) {
  Qcow2Disk disk(kSmall);
  GetParam().damage(disk, WriteFirstCluster(disk));
  const std::vector<uint8_t> before = disk.TakeBytes();
  ASSERT_TRUE(disk.Open({.read_only = true}).ok());
  const auto read = disk.Read(0, kCluster);
  EXPECT_EQ(read.ok(), GetParam().reads) << read.status();
  EXPECT_TRUE(read.ok() || absl::IsDataLoss(read.status())) << read.status();
  EXPECT_TRUE(disk.Holds(kDisk - kCluster, kCluster, 0) || !GetParam().reads);
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(disk.TakeBytes(), before);
}

TEST_P(DamagedImageTest, AWriteMarksTheImageCorrupt) {
  if (GetParam().reads) return;
  Qcow2Disk disk(kSmall);
  GetParam().damage(disk, WriteFirstCluster(disk));
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(absl::IsDataLoss(disk.Write(512, 512, 1)));
  EXPECT_EQ(disk.Load64(72), kIncompatibleCorrupt);
  EXPECT_TRUE(absl::IsDataLoss(disk.Write(kDisk / 2, 512, 1)));
  EXPECT_FALSE(disk.Close().ok());
  EXPECT_TRUE(absl::IsDataLoss(disk.Open()));
}

INSTANTIATE_TEST_SUITE_P(
    Entries, DamagedImageTest,
    testing::Values(
        Damage{"L1Unaligned",
               [](Qcow2Disk& d, uint64_t l2) { d.Store64(kL1, l2 | 0x200 | kEntryCopied); }},
        Damage{"L1PastTheEnd",
               [](Qcow2Disk& d, uint64_t) { d.Store64(kL1, uint64_t{1} << 40 | kEntryCopied); }},
        Damage{"L1AtItself", [](Qcow2Disk& d, uint64_t) { d.Store64(kL1, kL1 | kEntryCopied); }},
        Damage{"L1AtARefcountBlock",
               [](Qcow2Disk& d, uint64_t) { d.Store64(kL1, 2 * kCluster | kEntryCopied); }},
        Damage{"L2Unaligned",
               [](Qcow2Disk& d, uint64_t l2) { d.Store64(l2, d.Load64(l2) | 0x400); }},
        Damage{"L2PastTheEnd",
               [](Qcow2Disk& d, uint64_t l2) { d.Store64(l2, uint64_t{1} << 40 | kEntryCopied); }},
        Damage{"L2AtTheRefcountTable",
               [](Qcow2Disk& d, uint64_t l2) { d.Store64(l2, kCluster | kEntryCopied); }},
        Damage{"L2AtItself", [](Qcow2Disk& d, uint64_t l2) { d.Store64(l2, l2 | kEntryCopied); }},
        Damage{"CompressedAndCopied",
               [](Qcow2Disk& d, uint64_t l2) {
                 d.Store64(l2, kEntryCompressed | kEntryCopied | 5 * kCluster);
               }},
        Damage{"CompressedOnMetadata",
               [](Qcow2Disk& d, uint64_t l2) { d.Store64(l2, kEntryCompressed | kL1); }},
        Damage{"ReservedBits",
               [](Qcow2Disk& d, uint64_t l2) { d.Store64(l2, d.Load64(l2) | 0x3f000000000001fe); },
               true}),
    [](const testing::TestParamInfo<Damage>& info) { return info.param.name; });

TEST(DamagedImageTest, AGarbageStreamFailsItsReadsOnly) {
  Qcow2Disk disk(kSmall);
  const uint64_t l2 = WriteFirstCluster(disk);
  const uint64_t data = disk.Load64(l2) & kEntryOffsetMask;
  disk.Store64(l2, kEntryCompressed | data);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_TRUE(absl::IsDataLoss(disk.Read(0, 512).status()));
  EXPECT_TRUE(disk.Holds(kCluster, 512, 0));
  EXPECT_TRUE(disk.Write(kCluster, 512, 1).ok());
  EXPECT_EQ(disk.Load64(72), 0u);
}

TEST(DamagedImageTest, MetadataCountedAsFreeIsNeverGivenOut) {
  Qcow2Disk disk(kSmall);
  const uint64_t l2 = WriteFirstCluster(disk);
  disk.Store16(2 * kCluster + l2 / kCluster * 2, 0);
  ASSERT_TRUE(disk.Open().ok());
  // Sooner or later an allocation comes across the cluster.
  absl::Status status;
  for (uint64_t at = kCluster; status.ok() && at < kDisk; at += kCluster) {
    status = disk.Write(at, kCluster, 2);
  }
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(disk.Holds(0, kCluster, 0x11));
}

TEST(DamagedImageTest, TablesThatOverlapAreRefused) {
  Qcow2Disk disk(kSmall);
  WriteFirstCluster(disk);
  disk.Store64(kCluster, kL1);  // The refcount block lies on the L1 table.
  EXPECT_TRUE(absl::IsDataLoss(disk.Open()));
}

TEST(DamagedImageTest, ADamagedSnapshotTableKeepsWritersOut) {
  Qcow2Disk made(kSmall);
  WriteFirstCluster(made);
  std::vector<uint8_t> image = made.TakeBytes();
  AddInternalSnapshot(image);
  Qcow2Disk disk(image);
  const auto header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok());
  disk.Store64(header->snapshots_offset, 12345);  // Its L1 table is not at a cluster's start.
  EXPECT_TRUE(absl::IsDataLoss(disk.Open()));
  ASSERT_TRUE(disk.Open({.read_only = true}).ok());
  EXPECT_TRUE(disk.Holds(0, kCluster, 0x11));
}

}  // namespace
}  // namespace vireo::qcow2
