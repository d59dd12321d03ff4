// Images whose counts or entries would have metadata written over: the request fails, what is there
// stays as it is, and the image says that it is corrupt.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/endian.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/snapshot_edit.h"
#include "storage/qcow2/snapshots.h"
#include "tests/support/memory_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kCluster = 4 << 10;
constexpr uint64_t kTableCovers = kCluster / 8 * kCluster;  // Guest bytes of one L2 table.
Image::Options Writable() { return {.commit_age = absl::InfiniteDuration()}; }

absl::Status AddBitmap(EventLoop& loop, File& file, std::string name) {
  absl::StatusOr<std::unique_ptr<BitmapStore>> store = loop.RunTask(BitmapStore::Open(loop, file));
  if (!store.ok()) return store.status();
  return loop.RunTask((*store)->Add(std::move(name), 16, true));
}

// With data, a snapshot of it, and a bitmap.
std::vector<uint8_t> SoundImage() {
  Qcow2Disk disk(CreateOptions{.size_bytes = 2 * kTableCovers, .cluster_bits = 12});
  VIREO_CHECK(disk.Open().ok());
  VIREO_CHECK(disk.Write(0, 2 * kCluster, 1).ok());
  VIREO_CHECK(disk.Close().ok());
  MemoryFile file(disk.loop(), disk.medium());
  VIREO_CHECK(disk.loop().RunTask(CreateSnapshot(disk.loop(), file, {.name = "s"})).ok());
  VIREO_CHECK(AddBitmap(disk.loop(), file, "b").ok());
  return disk.TakeBytes();
}

uint64_t L1Offset(const Qcow2Disk& disk) { return disk.Load64(40); }
uint64_t TableAt(const Qcow2Disk& disk, uint64_t l1_index) {
  return disk.Load64(L1Offset(disk) + l1_index * 8) & kEntryOffsetMask;
}
void SetCount(Qcow2Disk& disk, uint64_t host_offset, uint16_t count) {
  disk.Store16(disk.Load64(disk.Load64(48)) + host_offset / kCluster * 2, count);
}
uint64_t FirstFree(const Qcow2Disk& disk) {
  const uint64_t block = disk.Load64(disk.Load64(48));
  uint64_t cluster = 0;
  while (disk.Load64(block + cluster / 4 * 8) >> (48 - cluster % 4 * 16) & 0xffff) ++cluster;
  return cluster * kCluster;
}
bool IsCorrupt(Qcow2Disk& disk) {
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  return header.ok() && header->corrupt();
}
std::vector<uint8_t> ClusterAt(Qcow2Disk& disk, uint64_t host_offset) {
  const std::vector<uint8_t>& bytes = disk.medium().bytes;
  return {bytes.begin() + static_cast<ptrdiff_t>(host_offset),
          bytes.begin() + static_cast<ptrdiff_t>(host_offset + kCluster)};
}

// --- Metadata that is counted as free ---

struct Kind {
  const char* name;
  uint64_t (*find)(Qcow2Disk& disk);
  bool changes = false;  // By a sound write, too: a count, the flags of a bitmap.
};

std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

uint64_t SnapshotL1(Qcow2Disk& disk) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop()
      .RunTask(ReadSnapshotTable(file, *disk.ReadTheHeader()))
      ->snapshots[0]
      .l1_offset;
}
uint64_t BitmapTable(Qcow2Disk& disk) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(ReadBitmapDirectory(file, *disk.ReadTheHeader()))->at(0).table_offset;
}

class CountedAsFreeTest : public testing::TestWithParam<Kind> {
 protected:
  CountedAsFreeTest() : disk_(SoundImage()), place_(GetParam().find(disk_)) {
    SetCount(disk_, place_, 0);
    before_ = ClusterAt(disk_, place_);
  }

  Qcow2Disk disk_;
  const uint64_t place_;
  std::vector<uint8_t> before_;
};

TEST_P(CountedAsFreeTest, NothingIsWrittenThere) {
  ASSERT_TRUE(disk_.Open(Writable()).ok());
  const absl::Status written = disk_.Write(5 * kCluster, kCluster, 7);
  EXPECT_TRUE(absl::IsDataLoss(written)) << written;
  EXPECT_TRUE(absl::IsDataLoss(disk_.Write(0, 512, 7))) << "another write after it";
  EXPECT_TRUE(disk_.Holds(0, 2 * kCluster, 1));
  EXPECT_FALSE(disk_.Close().ok());
  EXPECT_TRUE(IsCorrupt(disk_));
  if (!GetParam().changes) {
    EXPECT_TRUE(ClusterAt(disk_, place_) == before_);
  }
  EXPECT_FALSE(disk_.Open(Writable()).ok());
}

TEST_P(CountedAsFreeTest, NorByWhatIsDoneOffline) {
  MemoryFile file(disk_.loop(), disk_.medium());
  const auto made = disk_.loop().RunTask(CreateSnapshot(disk_.loop(), file, {.name = "t"}));
  EXPECT_TRUE(absl::IsDataLoss(made.status())) << made.status();
  const absl::Status added = AddBitmap(disk_.loop(), file, "c");
  EXPECT_TRUE(absl::IsDataLoss(added)) << added;
  EXPECT_TRUE(ClusterAt(disk_, place_) == before_);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, CountedAsFreeTest,
    testing::Values(
        Kind{"L1", [](Qcow2Disk& disk) { return L1Offset(disk); }},
        Kind{"L2", [](Qcow2Disk& disk) { return TableAt(disk, 0); }},
        Kind{"RefcountTable", [](Qcow2Disk& disk) { return disk.Load64(48); }},
        Kind{"RefcountBlock", [](Qcow2Disk& disk) { return disk.Load64(disk.Load64(48)); }},
        Kind{"SnapshotTable", [](Qcow2Disk& disk) { return disk.Load64(64); }},
        Kind{"SnapshotL1", SnapshotL1},
        Kind{"BitmapDirectory",
             [](Qcow2Disk& disk) { return disk.ReadTheHeader()->bitmaps->directory_offset; }, true},
        Kind{"BitmapTable", BitmapTable}),
    [](const auto& info) { return info.param.name; });

// --- Metadata behind all that is counted ---

TEST(OverlapTest, ATableBehindTheLastCountedClusterOfADevice) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 2 * kTableCovers, .cluster_bits = 12});
  disk.medium().bytes.resize(8 << 20);
  disk.medium().traits.growable = false;
  constexpr uint64_t kTable = 40 * kCluster;
  disk.Store64(L1Offset(disk) + 8, kEntryCopied | kTable);
  ASSERT_TRUE(disk.Open(Writable()).ok());
  absl::Status written;
  for (uint64_t i = 0; i < 100 && written.ok(); ++i) {
    written = disk.Write(i * kCluster, kCluster, 7);
  }
  EXPECT_TRUE(absl::IsDataLoss(written)) << written;
  EXPECT_FALSE(disk.Close().ok());
  EXPECT_TRUE(IsCorrupt(disk));
  EXPECT_TRUE(ClusterAt(disk, kTable) == std::vector<uint8_t>(kCluster));
}

TEST(OverlapTest, ASnapshotTableThatGoesOnBehindTheEndOfTheFile) {
  Qcow2Disk disk(SoundImage());
  // Its only entry is said to have a name that long, and the file grows over it.
  const uint64_t table = disk.medium().bytes.size() - kCluster;
  std::vector<uint8_t>& bytes = disk.medium().bytes;
  std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(disk.Load64(64)), 40,
              bytes.begin() + static_cast<ptrdiff_t>(table));
  disk.Store64(64, table);
  disk.Store16(table + 14, 3 * kCluster);
  SetCount(disk, table, 1);
  if (!disk.Open(Writable()).ok()) return;  // As good an answer.
  EXPECT_TRUE(absl::IsDataLoss(disk.loop().RunTask(disk.disk().Resize(600 * kTableCovers))));
  EXPECT_FALSE(disk.Close().ok());
  EXPECT_TRUE(IsCorrupt(disk));
}

TEST(OverlapTest, ARefcountBlockBehindTheEndOfTheFileIsNotFoundInItsNewSpace) {
  // One block counts 256 clusters of 512 bytes. The second is said to be where data will be.
  Qcow2Disk disk(CreateOptions{.size_bytes = 1 << 20, .cluster_bits = 9});
  const uint64_t block = disk.medium().bytes.size() + 32 * 512;
  disk.Store64(disk.Load64(48) + 8, block);
  ASSERT_TRUE(disk.Open(Writable()).ok());
  uint64_t good = 0;
  absl::Status written;
  for (; good < 1000 && written.ok(); ++good) {
    written = disk.Write(good * 512, 512, static_cast<uint8_t>(good % 255 + 1));
  }
  EXPECT_TRUE(absl::IsDataLoss(written)) << written;
  for (uint64_t i = 0; i + 1 < good; ++i) {
    EXPECT_TRUE(disk.Holds(i * 512, 512, static_cast<uint8_t>(i % 255 + 1))) << i;
  }
}

// --- Entries that point where a table is, or comes to be ---

TEST(OverlapTest, DataIsNotWrittenToATableThatWasMadeWhereItsEntryPoints) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 2 * kTableCovers, .cluster_bits = 12});
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, kCluster, 1).ok());
  ASSERT_TRUE(disk.Close().ok());
  // Nobody counts it, and an entry points there.
  const uint64_t free = FirstFree(disk);
  disk.medium().bytes.resize(std::max(disk.medium().bytes.size(), free + kCluster));
  disk.Store64(TableAt(disk, 0) + 8, kEntryCopied | free);
  ASSERT_TRUE(disk.Open(Writable()).ok());
  ASSERT_TRUE(disk.Read(0, 2 * kCluster).ok());
  ASSERT_TRUE(disk.Write(kTableCovers, kCluster, 2).ok());
  ASSERT_TRUE(disk.Flush().ok());
  ASSERT_EQ(TableAt(disk, 1), free);
  const std::vector<uint8_t> before = ClusterAt(disk, free);
  EXPECT_TRUE(absl::IsDataLoss(disk.Write(kCluster, kCluster, 3)));
  EXPECT_TRUE(disk.Holds(kTableCovers, kCluster, 2));
  EXPECT_FALSE(disk.Close().ok());
  EXPECT_TRUE(IsCorrupt(disk));
  EXPECT_TRUE(ClusterAt(disk, free) == before);
}

TEST(OverlapTest, ATableOfTwoL1EntriesIsReadAndNeverWritten) {
  for (const uint64_t flag : {uint64_t{0}, kEntryCopied}) {
    Qcow2Disk disk(CreateOptions{.size_bytes = 2 * kTableCovers, .cluster_bits = 12});
    ASSERT_TRUE(disk.Open().ok());
    ASSERT_TRUE(disk.Write(0, kCluster, 1).ok());
    ASSERT_TRUE(disk.Close().ok());
    const uint64_t table = TableAt(disk, 0);
    disk.Store64(L1Offset(disk), table | flag);
    disk.Store64(L1Offset(disk) + 8, table);
    ASSERT_TRUE(disk.Open(Writable()).ok());
    EXPECT_TRUE(disk.Holds(0, kCluster, 1));
    EXPECT_TRUE(disk.Holds(kTableCovers, kCluster, 1));
    EXPECT_TRUE(absl::IsDataLoss(disk.Write(kTableCovers + kCluster, kCluster, 2)));
    EXPECT_FALSE(disk.Close().ok());
    EXPECT_TRUE(IsCorrupt(disk));
  }
}

TEST(OverlapTest, ABlockOfTwoRegionsCountsForOneOnly) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 1 << 20, .cluster_bits = 9});
  disk.Store64(disk.Load64(48) + 8, disk.Load64(disk.Load64(48)));
  ASSERT_TRUE(disk.Open(Writable()).ok());
  absl::Status written;
  for (uint64_t i = 0; i < 1000 && written.ok(); ++i) written = disk.Write(i * 512, 512, 1);
  EXPECT_TRUE(absl::IsDataLoss(written)) << written;
}

TEST(OverlapTest, BitsAreNotStoredInATable) {
  Qcow2Disk disk(SoundImage());
  disk.Store64(BitmapTable(disk), TableAt(disk, 0));
  const std::vector<uint8_t> before = ClusterAt(disk, TableAt(disk, 0));
  const uint64_t table = TableAt(disk, 0);
  MemoryFile file(disk.loop(), disk.medium());
  auto store = disk.loop().RunTask(BitmapStore::Open(disk.loop(), file));
  ASSERT_TRUE(store.ok()) << store.status();
  DirtyBitmap bits(2 * kTableCovers, 16);
  bits.MarkDirty(0, 512);
  std::vector<BitmapStore::Stored> stored = {{"b", &bits}};
  EXPECT_TRUE(absl::IsDataLoss(disk.loop().RunTask((*store)->Store(std::move(stored)))));
  EXPECT_TRUE(ClusterAt(disk, table) == before);
}

}  // namespace
}  // namespace vireo::qcow2
