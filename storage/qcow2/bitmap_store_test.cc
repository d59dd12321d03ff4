// Bitmaps in an image: through the store, and through an open image that tracks them.

#include "storage/qcow2/bitmap_store.h"

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
#include "tests/support/faulty_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

using testing::IsEmpty;

constexpr uint64_t kDisk = 4 << 20;

enum class Verb { kAdd, kAddDisabled, kRemove, kEnable, kDisable, kMarkFirst64K, kClear };

Task<absl::Status> Perform(EventLoop& loop, File& file, Verb verb, std::string name) {
  absl::StatusOr<std::unique_ptr<BitmapStore>> opened = co_await BitmapStore::Open(loop, file);
  CO_RETURN_IF_ERROR(opened.status());
  BitmapStore& store = **opened;
  absl::Status status;
  if (verb == Verb::kAdd || verb == Verb::kAddDisabled) {
    status = co_await store.Add(name, 12, verb == Verb::kAdd);
    co_return status;
  }
  if (verb == Verb::kRemove) {
    status = co_await store.Remove(name);
    co_return status;
  }
  if (verb == Verb::kEnable || verb == Verb::kDisable) {
    status = co_await store.SetEnabled(name, verb == Verb::kEnable);
    co_return status;
  }
  CO_ASSIGN_OR_RETURN(DirtyBitmap bits, co_await store.Load(name));
  if (verb == Verb::kMarkFirst64K) bits.MarkDirty(0, 64 << 10);
  if (verb == Verb::kClear) bits.MarkAllClean();
  std::vector<BitmapStore::Stored> stored;
  stored.push_back({.name = name, .bits = &bits});
  status = co_await store.Store(std::move(stored));
  co_return status;
}

absl::Status Do(Qcow2Disk& disk, Verb verb, const std::string& name) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(Perform(disk.loop(), file, verb, name));
}

std::vector<BitmapRecord> Records(Qcow2Disk& disk) {
  MemoryFile file(disk.loop(), disk.medium());
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  VIREO_CHECK(header.ok(), header.status().ToString());
  const auto records = disk.loop().RunTask(ReadBitmapDirectory(file, *header));
  VIREO_CHECK(records.ok(), records.status().ToString());
  return *records;
}

absl::StatusOr<DirtyBitmap> Bits(Qcow2Disk& disk, const std::string& name) {
  MemoryFile file(disk.loop(), disk.medium());
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  for (const BitmapRecord& record : Records(disk)) {
    if (record.name != name) continue;
    if (!record.usable()) return absl::FailedPreconditionError("in use");
    return disk.loop().RunTask(LoadBitmap(file, header->layout, record, header->size_bytes));
  }
  return absl::NotFoundError("");
}

bool IsClean(Qcow2Disk& disk) {
  const absl::StatusOr<CheckResult> result = disk.Check();
  return result.ok() && result->clean();
}

TEST(BitmapStoreTest, AddsChangesAndRemoves) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "one").ok());
  ASSERT_TRUE(Do(disk, Verb::kAddDisabled, "two").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Do(disk, Verb::kAdd, "one")));
  EXPECT_TRUE(IsClean(disk));
  ASSERT_EQ(Records(disk).size(), 2u);
  EXPECT_TRUE(Records(disk)[0].enabled());
  EXPECT_FALSE(Records(disk)[1].enabled());

  ASSERT_TRUE(Do(disk, Verb::kMarkFirst64K, "two").ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Bits(disk, "two")->DirtyBytes(), 64u << 10);
  ASSERT_TRUE(Do(disk, Verb::kClear, "two").ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Bits(disk, "two")->DirtyBytes(), 0u);
  ASSERT_TRUE(Do(disk, Verb::kDisable, "one").ok());
  ASSERT_TRUE(Do(disk, Verb::kEnable, "two").ok());
  EXPECT_FALSE(Records(disk)[0].enabled());
  EXPECT_TRUE(Records(disk)[1].enabled());

  ASSERT_TRUE(Do(disk, Verb::kRemove, "one").ok());
  EXPECT_TRUE(IsClean(disk));
  ASSERT_TRUE(Do(disk, Verb::kRemove, "two").ok());
  EXPECT_TRUE(absl::IsNotFound(Do(disk, Verb::kRemove, "two")));
  EXPECT_TRUE(IsClean(disk));
  EXPECT_FALSE(disk.ReadTheHeader()->bitmaps.has_value());
  EXPECT_EQ(disk.ReadTheHeader()->autoclear, 0u);
}

TEST(BitmapStoreTest, ABackingFileNameSurvives) {
  Qcow2Disk disk(
      CreateOptions{.size_bytes = kDisk, .backing_file = "base", .backing_format = "raw"});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "one").ok());
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(*header->backing_file, "base");
  EXPECT_EQ(header->backing_format, "raw");
  EXPECT_FALSE(header->has_feature_names);  // They gave way: header_rewrite.h.
}

TEST(BitmapStoreTest, WhatCannotBeIsRefused) {
  Qcow2Disk old(CreateOptions{.size_bytes = kDisk, .version = 2});
  EXPECT_TRUE(absl::IsUnimplemented(Do(old, Verb::kAdd, "one")));
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  EXPECT_TRUE(absl::IsInvalidArgument(Do(disk, Verb::kAdd, "")));
  EXPECT_TRUE(absl::IsOutOfRange(Do(disk, Verb::kAdd, std::string(1024, 'n'))));
  EXPECT_TRUE(Do(disk, Verb::kAdd, std::string(1023, 'n')).ok());
  EXPECT_TRUE(absl::IsNotFound(Do(disk, Verb::kEnable, "one")));
}

TEST(BitmapTrackerTest, EveryChangeOfTheDiskIsMarked) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "on").ok());
  ASSERT_TRUE(Do(disk, Verb::kAddDisabled, "off").ok());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(8192, 512, 1).ok());
  ASSERT_TRUE(disk.Zero(1 << 20, 8192, true).ok());
  ASSERT_TRUE(disk.Discard(2 << 20, 4096).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(IsClean(disk));
  const absl::StatusOr<DirtyBitmap> bits = Bits(disk, "on");
  ASSERT_TRUE(bits.ok()) << bits.status();
  EXPECT_EQ(bits->DirtyBytes(), 4096u + 8192u + 4096u);
  EXPECT_TRUE(bits->IsDirty(8192) && bits->IsDirty(1 << 20) && bits->IsDirty(2 << 20));
  EXPECT_EQ(Bits(disk, "off")->DirtyBytes(), 0u);
  // The next one goes on where this one stopped.
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(3 << 20, 512, 1).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(Bits(disk, "on")->DirtyBytes(), 5 * 4096u);
  EXPECT_TRUE(IsClean(disk));
}

TEST(BitmapTrackerTest, SoIsWhatIsZeroedInARawDataFile) {
  Qcow2Disk disk(CreateOptions{
      .size_bytes = kDisk, .cluster_bits = 12, .data_file = "data", .data_file_raw = true});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "on").ok());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Zero(1 << 20, 8192, true).ok());
  ASSERT_TRUE(disk.Discard(2 << 20, 4096).ok());
  ASSERT_TRUE(disk.Close().ok());
  const absl::StatusOr<DirtyBitmap> bits = Bits(disk, "on");
  ASSERT_TRUE(bits.ok()) << bits.status();
  EXPECT_EQ(bits->DirtyBytes(), 8192u + 4096u);
  EXPECT_TRUE(bits->IsDirty(1 << 20) && bits->IsDirty(2 << 20));
}

TEST(BitmapTrackerTest, AReaderAndAWriterThatWritesNothingChangeNothing) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "on").ok());
  const std::vector<uint8_t> before = disk.TakeBytes();
  ASSERT_TRUE(disk.Open({.read_only = true}).ok());
  ASSERT_TRUE(disk.Close().ok());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Read(0, 512).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.TakeBytes() == before);
}

TEST(BitmapTrackerTest, ACrashLeavesAnInconsistentBitmapThatCanOnlyBeRemoved) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "on").ok());
  ASSERT_TRUE(Do(disk, Verb::kAddDisabled, "off").ok());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 512, 1).ok());
  Qcow2Disk crashed(disk.TakeBytes());
  ASSERT_TRUE(Records(crashed)[0].in_use());
  EXPECT_FALSE(Records(crashed)[1].in_use());
  EXPECT_TRUE(absl::IsFailedPrecondition(Do(crashed, Verb::kClear, "on")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Do(crashed, Verb::kDisable, "on")));
  ASSERT_TRUE(crashed.Open().ok());
  ASSERT_TRUE(crashed.Write(0, 512, 2).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(crashed.loop().RunTask(crashed.disk().Resize(2 * kDisk))));
  ASSERT_TRUE(crashed.Close().ok());
  EXPECT_TRUE(Records(crashed)[0].in_use());
  ASSERT_TRUE(Do(crashed, Verb::kRemove, "on").ok());
  EXPECT_EQ(Records(crashed).size(), 1u);
}

TEST(BitmapTrackerTest, SurvivesGrowing) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "on").ok());
  ASSERT_TRUE(Do(disk, Verb::kAddDisabled, "off").ok());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(4096, 512, 1).ok());
  ASSERT_TRUE(disk.loop().RunTask(disk.disk().Resize(1000 * kDisk)).ok());
  ASSERT_TRUE(disk.Write(900 * kDisk, 512, 1).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(IsClean(disk));
  const absl::StatusOr<DirtyBitmap> bits = Bits(disk, "on");
  ASSERT_TRUE(bits.ok()) << bits.status();
  EXPECT_EQ(bits->DirtyBytes(), 8192u);
  EXPECT_TRUE(bits->IsDirty(900 * kDisk));
  ASSERT_TRUE(Bits(disk, "off").ok());
}

TEST(BitmapTrackerTest, WithoutTheAutoclearBitThereAreNone) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  ASSERT_TRUE(Do(disk, Verb::kAdd, "on").ok());
  disk.Store64(88, 0);
  EXPECT_THAT(Records(disk), IsEmpty());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Write(0, 512, 1).ok());
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_EQ(disk.Load64(88), 0u);
  // Its clusters are leaked, and nobody counts on them.
  EXPECT_GT(disk.Check()->leaks, 0u);
  EXPECT_EQ(disk.Check()->corruptions, 0u);
  ASSERT_TRUE(Do(disk, Verb::kAdd, "new").ok());
  ASSERT_EQ(Records(disk).size(), 1u);
}

// --- Failures and power cuts at every step ---

std::vector<std::string> Errors(Qcow2Disk& disk) {
  std::vector<std::string> errors;
  CheckReport report = [&errors](const std::string& line) {
    if (absl::StartsWith(line, "ERROR")) errors.push_back(line);
  };
  const absl::StatusOr<CheckResult> result = disk.Check(Repair::kNone, &report);
  if (!result.ok()) errors.push_back(result.status().ToString());
  return errors;
}

struct Step {
  const char* name;
  Verb verb;
  const char* bitmap;
};

class BitmapFaultTest : public testing::TestWithParam<Step> {
 protected:
  static std::vector<uint8_t> Image() {
    Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12});
    VIREO_CHECK(Do(disk, Verb::kAdd, "one").ok());
    VIREO_CHECK(Do(disk, Verb::kAdd, "two").ok());
    VIREO_CHECK(Do(disk, Verb::kMarkFirst64K, "two").ok());
    return disk.TakeBytes();
  }
  // The other bitmap is as it was, and this one is whole or says that it is not.
  static void ExpectSound(const std::vector<uint8_t>& state) {
    Qcow2Disk disk(state);
    ASSERT_THAT(Errors(disk), IsEmpty());
    if (std::string(GetParam().bitmap) != "two") {
      const absl::StatusOr<DirtyBitmap> two = Bits(disk, "two");
      ASSERT_TRUE(two.ok()) << two.status();
      EXPECT_EQ(two->DirtyBytes(), 64u << 10);
    }
    const absl::StatusOr<DirtyBitmap> bits = Bits(disk, GetParam().bitmap);
    if (bits.ok()) {
      EXPECT_TRUE(bits->DirtyBytes() == 0 || bits->DirtyBytes() == 64u << 10);
    } else {
      EXPECT_FALSE(absl::IsDataLoss(bits.status())) << bits.status();
    }
  }
};

TEST_P(BitmapFaultTest, EveryOperationMayFail) {
  const std::vector<uint8_t> image = Image();
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  std::mt19937 random(1);
  for (uint64_t k = 0;; ++k) {
    FaultyMedium medium(image, static_cast<uint32_t>(k));
    medium.FailAfter(k, k % 2 == 0 ? EIO : ENOSPC);
    FaultyFile file(*loop, medium);
    const absl::Status status =
        loop->RunTask(Perform(*loop, file, GetParam().verb, GetParam().bitmap));
    if (!medium.failed()) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_GT(k, 5u);
      break;
    }
    SCOPED_TRACE(absl::StrCat("operation ", k));
    ExpectSound(medium.bytes());
    ExpectSound(medium.AfterPowerCut(medium.now(), FaultyMedium::Loss::kRandom, random));
    if (HasFailure()) return;
  }
}

TEST_P(BitmapFaultTest, ThePowerMayFailAtEveryMoment) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FaultyMedium medium(Image(), 1);
  FaultyFile file(*loop, medium);
  const absl::Status status =
      loop->RunTask(Perform(*loop, file, GetParam().verb, GetParam().bitmap));
  ASSERT_TRUE(status.ok()) << status;
  std::mt19937 random(2);
  for (uint64_t moment = 0; moment <= medium.now(); ++moment) {
    SCOPED_TRACE(absl::StrCat("moment ", moment));
    for (const auto loss : {FaultyMedium::Loss::kAll, FaultyMedium::Loss::kNone,
                            FaultyMedium::Loss::kRandom, FaultyMedium::Loss::kTorn}) {
      ExpectSound(medium.AfterPowerCut(moment, loss, random));
      if (HasFailure()) return;
    }
  }
  Qcow2Disk done(medium.bytes());
  EXPECT_TRUE(IsClean(done));
}

INSTANTIATE_TEST_SUITE_P(Steps, BitmapFaultTest,
                         testing::Values(Step{"Add", Verb::kAdd, "three"},
                                         Step{"Remove", Verb::kRemove, "one"},
                                         Step{"Mark", Verb::kMarkFirst64K, "one"},
                                         Step{"Clear", Verb::kClear, "two"},
                                         Step{"RemoveMarked", Verb::kRemove, "two"}),
                         [](const testing::TestParamInfo<Step>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::qcow2
