// Shrinking, preallocating, emptying and amending: what an image holds, and that it is sound.

#include "storage/qcow2/offline_resize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/qcow2/amend.h"
#include "storage/qcow2/image_empty.h"
#include "storage/qcow2/snapshot_edit.h"
#include "tests/support/faulty_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

using testing::IsEmpty;

constexpr uint64_t kDisk = 4 << 20;

bool IsClean(Qcow2Disk& disk) {
  const absl::StatusOr<CheckResult> result = disk.Check();
  return result.ok() && result->clean();
}

std::vector<uint8_t> Content(Qcow2Disk& disk) {
  VIREO_CHECK(disk.Open({.read_only = true}).ok());
  absl::StatusOr<std::vector<uint8_t>> bytes = disk.Read(0, disk.disk().geometry().size_bytes);
  VIREO_CHECK(bytes.ok() && disk.Close().ok());
  return *std::move(bytes);
}

void WriteAt(Qcow2Disk& disk, uint64_t offset, uint64_t length, uint8_t byte) {
  VIREO_CHECK(disk.Open().ok());
  VIREO_CHECK(disk.Write(offset, length, byte).ok());
  VIREO_CHECK(disk.Close().ok());
}

absl::Status Shrink(Qcow2Disk& disk, uint64_t size) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(ShrinkImage(disk.loop(), file, nullptr, size));
}

absl::Status Preallocate(Qcow2Disk& disk, uint64_t begin, uint64_t end, Preallocation mode) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(PreallocateRange(disk.loop(), file, nullptr, begin, end, mode));
}

TEST(ShrinkImageTest, GivesBackWhatLiesBehindTheEnd) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, 0, kDisk, 1);
  const uint64_t full = disk.medium().bytes.size();
  // A table of 512 byte clusters covers 32 KiB.
  ASSERT_TRUE(Shrink(disk, 1 << 20).ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_LT(disk.medium().bytes.size(), full / 2);
  EXPECT_EQ(Content(disk), std::vector<uint8_t>(1 << 20, 1));
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.loop().RunTask(disk.disk().Resize(kDisk)).ok());
  EXPECT_TRUE(disk.Holds(1 << 20, kDisk - (1 << 20), 0));
  ASSERT_TRUE(disk.Close().ok());
}

TEST(ShrinkImageTest, LeavesSnapshotsAlone) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, 0, kDisk, 1);
  const std::vector<uint8_t> before = Content(disk);
  MemoryFile file(disk.loop(), disk.medium());
  ASSERT_TRUE(disk.loop().RunTask(CreateSnapshot(disk.loop(), file, NewSnapshot{})).ok());
  ASSERT_TRUE(Shrink(disk, 64 << 10).ok());
  EXPECT_TRUE(IsClean(disk));
  ASSERT_TRUE(disk.loop().RunTask(ApplySnapshot(disk.loop(), file, "1")).ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), before);
}

TEST(PreallocateTest, GivesEveryClusterAPlace) {
  for (const auto mode : {Preallocation::kMetadata, Preallocation::kFalloc, Preallocation::kFull}) {
    Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
    WriteAt(disk, 1 << 20, 4096, 1);
    const std::vector<uint8_t> before = Content(disk);
    ASSERT_TRUE(Preallocate(disk, 512, kDisk, mode).ok());
    const absl::StatusOr<CheckResult> result = disk.Check();
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(result->clean());
    EXPECT_EQ(result->allocated_clusters, kDisk / 512 - 1);
    EXPECT_EQ(Content(disk), before);
    const uint64_t size = disk.medium().bytes.size();
    WriteAt(disk, 512, kDisk - 512, 2);
    EXPECT_LE(disk.medium().bytes.size(), size);
  }
}

// Makes the image's file a device of `bytes`, with something else's bytes behind the image.
void PutOnDevice(Qcow2Disk& disk, uint64_t bytes) {
  disk.medium().bytes.resize(bytes, 0x5a);
  disk.medium().traits.growable = false;
  disk.medium().traits.zero_filled = false;
}

TEST(PreallocateTest, OnADeviceTheNewPlacesReadAsZeros) {
  for (const auto mode : {Preallocation::kMetadata, Preallocation::kFalloc, Preallocation::kFull}) {
    Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
    WriteAt(disk, 1 << 20, 4096, 1);
    const std::vector<uint8_t> before = Content(disk);
    PutOnDevice(disk, 2 * kDisk);
    const absl::Status made = Preallocate(disk, 512, kDisk, mode);
    ASSERT_TRUE(made.ok()) << made;
    const absl::StatusOr<CheckResult> result = disk.Check();
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(result->clean());
    EXPECT_EQ(result->allocated_clusters, kDisk / 512 - 1);
    EXPECT_EQ(Content(disk), before);
    EXPECT_EQ(disk.medium().bytes.size(), 2 * kDisk);
    WriteAt(disk, 512, kDisk - 512, 2);
    EXPECT_TRUE(IsClean(disk));
  }
}

TEST(PreallocateTest, ADeviceThatIsTooSmallIsFull) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, 1 << 20, 4096, 1);
  const std::vector<uint8_t> before = Content(disk);
  PutOnDevice(disk, kDisk / 2);
  EXPECT_TRUE(absl::IsResourceExhausted(Preallocate(disk, 512, kDisk, Preallocation::kMetadata)));
  EXPECT_EQ(Content(disk), before);
  const absl::StatusOr<CheckResult> result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->corruptions, 0u);
}

TEST(PreallocateTest, CopiesTablesThatASnapshotShares) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12});
  WriteAt(disk, 0, 8192, 1);
  const std::vector<uint8_t> before = Content(disk);
  MemoryFile file(disk.loop(), disk.medium());
  ASSERT_TRUE(disk.loop().RunTask(CreateSnapshot(disk.loop(), file, NewSnapshot{})).ok());
  ASSERT_TRUE(Preallocate(disk, 1 << 20, kDisk, Preallocation::kMetadata).ok());
  EXPECT_TRUE(IsClean(disk));
  WriteAt(disk, 0, kDisk, 2);
  EXPECT_TRUE(IsClean(disk));
  ASSERT_TRUE(disk.loop().RunTask(ApplySnapshot(disk.loop(), file, "1")).ok());
  EXPECT_EQ(Content(disk), before);
}

TEST(EmptyImageTest, NothingIsLeft) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  const uint64_t empty = disk.medium().bytes.size();
  WriteAt(disk, 0, kDisk, 1);
  MemoryFile file(disk.loop(), disk.medium());
  ASSERT_TRUE(disk.loop().RunTask(EmptyImage(disk.loop(), file)).ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_LE(disk.medium().bytes.size(), empty + 65536);
  EXPECT_EQ(Content(disk), std::vector<uint8_t>(kDisk));
}

TEST(AmendTest, RefcountsOfEveryWidth) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, 0, kDisk, 1);
  MemoryFile file(disk.loop(), disk.medium());
  for (const uint32_t order : {6u, 0u, 3u, 1u, 5u, 2u, 4u}) {
    const absl::Status changed = disk.loop().RunTask(ChangeRefcountOrder(disk.loop(), file, order));
    ASSERT_TRUE(changed.ok()) << changed;
    EXPECT_TRUE(IsClean(disk)) << order;
    EXPECT_EQ(disk.ReadTheHeader()->layout.refcount_order, order);
    EXPECT_EQ(Content(disk), std::vector<uint8_t>(kDisk, 1));
  }
  ASSERT_TRUE(disk.loop().RunTask(CreateSnapshot(disk.loop(), file, NewSnapshot{})).ok());
  const std::vector<uint8_t> before = disk.TakeBytes();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(disk.loop().RunTask(ChangeRefcountOrder(disk.loop(), file, 0))));
  EXPECT_TRUE(disk.TakeBytes() == before);
}

TEST(AmendTest, RefcountWidthOnADevice) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, 0, 1 << 20, 1);
  const std::vector<uint8_t> before = Content(disk);
  PutOnDevice(disk, kDisk);
  MemoryFile file(disk.loop(), disk.medium());
  for (const uint32_t order : {6u, 0u, 4u}) {
    const absl::Status changed = disk.loop().RunTask(ChangeRefcountOrder(disk.loop(), file, order));
    ASSERT_TRUE(changed.ok()) << changed;
    EXPECT_TRUE(IsClean(disk)) << order;
    EXPECT_EQ(disk.ReadTheHeader()->layout.refcount_order, order);
    EXPECT_EQ(disk.medium().bytes.size(), kDisk);
    EXPECT_EQ(Content(disk), before);
  }
}

TEST(AmendTest, ADeviceWithoutRoomKeepsItsWidth) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, 0, 1 << 20, 1);
  const uint64_t used = disk.Check()->image_end_offset;
  PutOnDevice(disk, used + 4096);
  const std::vector<uint8_t> before = disk.TakeBytes();
  MemoryFile file(disk.loop(), disk.medium());
  EXPECT_TRUE(
      absl::IsResourceExhausted(disk.loop().RunTask(ChangeRefcountOrder(disk.loop(), file, 6))));
  EXPECT_TRUE(disk.TakeBytes() == before);
}

TEST(AmendTest, DownToVersion2AndUpAgain) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12, .lazy_refcounts = true});
  WriteAt(disk, 0, 64 << 10, 1);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Zero(0, 8192, false).ok());
  ASSERT_TRUE(disk.Zero(16384, 8192, true).ok());
  ASSERT_TRUE(disk.Close().ok());
  const std::vector<uint8_t> before = Content(disk);
  MemoryFile file(disk.loop(), disk.medium());
  ASSERT_TRUE(disk.loop().RunTask(DowngradeToVersion2(disk.loop(), file)).ok());
  EXPECT_EQ(disk.ReadTheHeader()->layout.version, 2u);
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), before);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(disk.loop().RunTask(SetLazyRefcounts(disk.loop(), file, true))));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(disk.loop().RunTask(ChangeRefcountOrder(disk.loop(), file, 5))));
  ASSERT_TRUE(disk.loop().RunTask(UpgradeToVersion3(disk.loop(), file)).ok());
  EXPECT_EQ(disk.ReadTheHeader()->layout.version, 3u);
  EXPECT_EQ(disk.ReadTheHeader()->header_length, 112u);
  ASSERT_TRUE(disk.loop().RunTask(SetLazyRefcounts(disk.loop(), file, true)).ok());
  EXPECT_EQ(disk.ReadTheHeader()->compatible, 1u);
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), before);
}

// --- External data files ---

TEST(DataFileResizeTest, TheDataFileIsCutWithItsDisk) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12, .data_file = "data"});
  WriteAt(disk, 0, kDisk, 1);
  EXPECT_TRUE(absl::IsInvalidArgument(Shrink(disk, 1 << 20)));  // Without it.
  {
    MemoryFile file(disk.loop(), disk.medium());
    MemoryFile data(disk.loop(), disk.data_medium());
    const absl::Status shrunk = disk.loop().RunTask(ShrinkImage(disk.loop(), file, &data, 1 << 20));
    ASSERT_TRUE(shrunk.ok()) << shrunk;
  }
  EXPECT_EQ(disk.data_medium().bytes.size(), 1u << 20);
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), std::vector<uint8_t>(1 << 20, 1));
}

TEST(DataFileResizeTest, PreallocatedSpaceReadsAsZerosWhateverTheFileHeld) {
  for (const Preallocation mode :
       {Preallocation::kMetadata, Preallocation::kFalloc, Preallocation::kFull}) {
    Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12, .data_file = "data"});
    WriteAt(disk, 0, 4096, 1);
    disk.data_medium().bytes.resize(kDisk);
    std::fill(disk.data_medium().bytes.begin() + 8192, disk.data_medium().bytes.end(), 0xee);
    MemoryFile file(disk.loop(), disk.medium());
    MemoryFile data(disk.loop(), disk.data_medium());
    const absl::Status done =
        disk.loop().RunTask(PreallocateRange(disk.loop(), file, &data, 4096, kDisk, mode));
    ASSERT_TRUE(done.ok()) << done;
    EXPECT_EQ(disk.Check()->allocated_clusters, kDisk / 4096);
    EXPECT_TRUE(IsClean(disk));
    std::vector<uint8_t> expected(kDisk);
    std::fill(expected.begin(), expected.begin() + 4096, 1);
    EXPECT_EQ(Content(disk), expected);
  }
}

// --- Failures and power cuts at every step ---

enum class Verb { kShrink, kPreallocate, kEmpty, kWidth };

Task<absl::Status> Perform(EventLoop& loop, File& file, Verb verb) {
  absl::Status status;
  if (verb == Verb::kShrink) {
    status = co_await ShrinkImage(loop, file, nullptr, 32 << 10);
  } else if (verb == Verb::kPreallocate) {
    status = co_await PreallocateRange(loop, file, nullptr, 0, 96 << 10, Preallocation::kMetadata);
  } else if (verb == Verb::kEmpty) {
    status = co_await EmptyImage(loop, file);
  } else {
    status = co_await ChangeRefcountOrder(loop, file, 5);
  }
  co_return status;
}

class OfflineFaultTest : public testing::TestWithParam<Verb> {
 protected:
  static std::vector<uint8_t> Image() {
    Qcow2Disk disk(CreateOptions{.size_bytes = 96 << 10, .cluster_bits = 9});
    WriteAt(disk, 0, 8 << 10, 1);
    WriteAt(disk, 48 << 10, 24 << 10, 2);
    return disk.TakeBytes();
  }
  static void ExpectSound(const std::vector<uint8_t>& state, const std::vector<uint8_t>& content) {
    Qcow2Disk disk(state);
    std::vector<std::string> errors;
    CheckReport report = [&errors](const std::string& line) {
      if (absl::StartsWith(line, "ERROR")) errors.push_back(line);
    };
    ASSERT_TRUE(disk.Check(Repair::kNone, &report).ok());
    ASSERT_THAT(errors, IsEmpty());
    // What was there, or for those that take away, zeros instead.
    const std::vector<uint8_t> now = Content(disk);
    const uint64_t kept = GetParam() == Verb::kShrink  ? 32 << 10
                          : GetParam() == Verb::kEmpty ? 0
                                                       : 96 << 10;
    ASSERT_GE(now.size(), kept);
    for (uint64_t i = 0; i < now.size(); ++i) {
      ASSERT_TRUE(now[i] == content[i] || (i >= kept && now[i] == 0)) << i;
    }
  }
};

TEST_P(OfflineFaultTest, EveryOperationMayFail) {
  const std::vector<uint8_t> image = Image();
  Qcow2Disk whole(image);
  const std::vector<uint8_t> content = Content(whole);
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  std::mt19937 random(1);
  for (uint64_t k = 0;; ++k) {
    FaultyMedium medium(image, static_cast<uint32_t>(k));
    medium.FailAfter(k, k % 2 == 0 ? EIO : ENOSPC);
    FaultyFile file(*loop, medium);
    const absl::Status status = loop->RunTask(Perform(*loop, file, GetParam()));
    if (!medium.failed()) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_GT(k, 5u);
      break;
    }
    SCOPED_TRACE(absl::StrCat("operation ", k));
    ExpectSound(medium.bytes(), content);
    ExpectSound(medium.AfterPowerCut(medium.now(), FaultyMedium::Loss::kTorn, random), content);
    if (HasFailure()) return;
  }
}

TEST_P(OfflineFaultTest, ThePowerMayFailAtEveryMoment) {
  const std::vector<uint8_t> image = Image();
  Qcow2Disk whole(image);
  const std::vector<uint8_t> content = Content(whole);
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FaultyMedium medium(image, 1);
  FaultyFile file(*loop, medium);
  const absl::Status status = loop->RunTask(Perform(*loop, file, GetParam()));
  ASSERT_TRUE(status.ok()) << status;
  std::mt19937 random(2);
  for (uint64_t moment = 0; moment <= medium.now(); ++moment) {
    SCOPED_TRACE(absl::StrCat("moment ", moment));
    for (const auto loss : {FaultyMedium::Loss::kAll, FaultyMedium::Loss::kNone,
                            FaultyMedium::Loss::kRandom, FaultyMedium::Loss::kTorn}) {
      ExpectSound(medium.AfterPowerCut(moment, loss, random), content);
      if (HasFailure()) return;
    }
  }
  Qcow2Disk done(medium.bytes());
  EXPECT_TRUE(IsClean(done));
}

INSTANTIATE_TEST_SUITE_P(Verbs, OfflineFaultTest,
                         testing::Values(Verb::kShrink, Verb::kPreallocate, Verb::kEmpty,
                                         Verb::kWidth),
                         [](const testing::TestParamInfo<Verb>& info) {
                           return info.param == Verb::kShrink        ? "Shrink"
                                  : info.param == Verb::kPreallocate ? "Preallocate"
                                  : info.param == Verb::kEmpty       ? "Empty"
                                                                     : "Width";
                         });

}  // namespace
}  // namespace vireo::qcow2
