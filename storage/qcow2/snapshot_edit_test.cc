#include "storage/qcow2/snapshot_edit.h"

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
#include "storage/qcow2/format.h"
#include "storage/qcow2/snapshots.h"
#include "tests/support/faulty_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kDisk = 1 << 20;

// --- One image, blocking calls ---

absl::StatusOr<std::string> Make(Qcow2Disk& disk, const std::string& name) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(CreateSnapshot(disk.loop(), file, {.name = name, .date_seconds = 7}));
}

absl::Status Delete(Qcow2Disk& disk, const std::string& id) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(DeleteSnapshot(disk.loop(), file, id));
}

absl::Status Apply(Qcow2Disk& disk, const std::string& id) {
  MemoryFile file(disk.loop(), disk.medium());
  return disk.loop().RunTask(ApplySnapshot(disk.loop(), file, id));
}

std::vector<Snapshot> List(Qcow2Disk& disk) {
  MemoryFile file(disk.loop(), disk.medium());
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  VIREO_CHECK(header.ok(), header.status().ToString());
  const absl::StatusOr<SnapshotTable> table = disk.loop().RunTask(ReadSnapshotTable(file, *header));
  VIREO_CHECK(table.ok(), table.status().ToString());
  return table->snapshots;
}

std::vector<std::string> Ids(Qcow2Disk& disk) {
  std::vector<std::string> ids;
  for (const Snapshot& snapshot : List(disk)) ids.push_back(snapshot.id);
  return ids;
}

bool IsClean(Qcow2Disk& disk) {
  const absl::StatusOr<CheckResult> result = disk.Check();
  return result.ok() && result->clean();
}

// All of the disk, opened for reading.
std::vector<uint8_t> Content(Qcow2Disk& disk) {
  VIREO_CHECK(disk.Open({.read_only = true}).ok());
  const uint64_t size = disk.disk().geometry().size_bytes;
  absl::StatusOr<std::vector<uint8_t>> bytes = disk.Read(0, size);
  VIREO_CHECK(bytes.ok() && disk.Close().ok());
  return *std::move(bytes);
}

// Refcount blocks that the table names.
uint64_t BlocksOf(Qcow2Disk& disk) {
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  VIREO_CHECK(header.ok(), header.status().ToString());
  const uint64_t entries =
      (uint64_t{header->refcount_table_clusters} << header->layout.cluster_bits) / sizeof(Be64);
  uint64_t blocks = 0;
  for (uint64_t i = 0; i < entries; ++i) {
    if (disk.Load64(header->refcount_table_offset + i * sizeof(Be64)) != 0) ++blocks;
  }
  return blocks;
}

// What the disk would hold after going back to `id`.
std::vector<uint8_t> ContentOf(Qcow2Disk& disk, const std::string& id) {
  Qcow2Disk copy(disk.TakeBytes());
  const absl::Status applied = Apply(copy, id);
  VIREO_CHECK(applied.ok(), applied.ToString());
  return Content(copy);
}

void WriteAt(Qcow2Disk& disk, std::vector<std::pair<uint64_t, uint64_t>> ranges, uint8_t byte) {
  VIREO_CHECK(disk.Open().ok());
  for (const auto& [offset, length] : ranges) VIREO_CHECK(disk.Write(offset, length, byte).ok());
  VIREO_CHECK(disk.Close().ok());
}

// --- Every shape of image ---

struct Shape {
  const char* name;
  CreateOptions options;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

class SnapshotShapeTest : public testing::TestWithParam<Shape> {
 protected:
  SnapshotShapeTest() : disk_(Options()) {}
  static CreateOptions Options() {
    CreateOptions options = GetParam().options;
    options.size_bytes = kDisk;
    return options;
  }
  Qcow2Disk disk_;
};

TEST_P(SnapshotShapeTest, KeepsWhatWasThereAndGoesBack) {
  WriteAt(disk_, {{0, 300 << 10}, {700 << 10, 4096}}, 1);
  const std::vector<uint8_t> first = Content(disk_);
  ASSERT_EQ(*Make(disk_, "first"), "1");
  ASSERT_TRUE(IsClean(disk_));

  WriteAt(disk_, {{100 << 10, 512}, {500 << 10, 64 << 10}}, 2);
  const std::vector<uint8_t> second = Content(disk_);
  ASSERT_EQ(*Make(disk_, "second"), "2");
  ASSERT_TRUE(IsClean(disk_));
  WriteAt(disk_, {{0, kDisk}}, 3);
  ASSERT_TRUE(IsClean(disk_));

  EXPECT_EQ(ContentOf(disk_, "1"), first);
  ASSERT_TRUE(Apply(disk_, "2").ok());
  ASSERT_TRUE(IsClean(disk_));
  EXPECT_EQ(Content(disk_), second);
  WriteAt(disk_, {{0, 4096}}, 4);
  EXPECT_EQ(ContentOf(disk_, "2"), second);

  ASSERT_TRUE(Delete(disk_, "1").ok());
  ASSERT_TRUE(IsClean(disk_));
  EXPECT_THAT(Ids(disk_), ElementsAre("2"));
  EXPECT_EQ(ContentOf(disk_, "2"), second);
  ASSERT_TRUE(Apply(disk_, "2").ok());
  ASSERT_TRUE(Delete(disk_, "2").ok());
  ASSERT_TRUE(IsClean(disk_));
  EXPECT_THAT(Ids(disk_), IsEmpty());
  EXPECT_EQ(Content(disk_), second);
  // Nobody shares them any more: they are written where they are.
  const uint64_t size = disk_.medium().bytes.size();
  WriteAt(disk_, {{0, 300 << 10}}, 5);
  EXPECT_LE(disk_.medium().bytes.size(), size);
}

TEST_P(SnapshotShapeTest, MakingAndDeletingDoesNotGrowTheFileForEver) {
  WriteAt(disk_, {{0, kDisk / 2}}, 1);
  uint64_t size = 0;
  for (int i = 0; i < 12; ++i) {
    const absl::StatusOr<std::string> id = Make(disk_, "again");
    ASSERT_TRUE(id.ok()) << id.status();
    ASSERT_TRUE(Delete(disk_, *id).ok());
    if (i == 3) size = disk_.medium().bytes.size();
  }
  EXPECT_EQ(disk_.medium().bytes.size(), size);
  EXPECT_TRUE(IsClean(disk_));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SnapshotShapeTest,
    testing::Values(Shape{"Default", {}}, Shape{"Version2", {.version = 2}},
                    Shape{"Clusters512", {.cluster_bits = 9}},
                    Shape{"Clusters512Refcounts64", {.cluster_bits = 9, .refcount_order = 6}},
                    Shape{"Clusters4K", {.cluster_bits = 12}},
                    Shape{"Clusters4KRefcounts4", {.cluster_bits = 12, .refcount_order = 2}},
                    Shape{"Clusters4KRefcounts8", {.cluster_bits = 12, .refcount_order = 3}},
                    Shape{"ExtendedL2", {.extended_l2 = true}},
                    Shape{"Refcounts32", {.refcount_order = 5}},
                    Shape{"Clusters2M", {.cluster_bits = 21}}),
    [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

// --- Limits and damage ---

TEST(SnapshotEditTest, ACountThatWouldOverflowChangesNothing) {
  for (const uint32_t order : {0u, 1u}) {
    Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12, .refcount_order = order});
    WriteAt(disk, {{0, 64 << 10}}, 1);
    for (uint32_t i = 1; i < (1u << (1u << order)) - 1; ++i) ASSERT_TRUE(Make(disk, "fits").ok());
    const std::vector<uint8_t> before = disk.TakeBytes();
    EXPECT_TRUE(absl::IsResourceExhausted(Make(disk, "one too many").status()));
    EXPECT_TRUE(disk.TakeBytes() == before);
  }
}

TEST(SnapshotEditTest, OneBitCountsAreEnoughWhereNothingIsShared) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12, .refcount_order = 0});
  ASSERT_TRUE(Make(disk, "empty").ok());
  WriteAt(disk, {{0, 64 << 10}}, 1);
  EXPECT_TRUE(IsClean(disk));
  ASSERT_TRUE(Apply(disk, "1").ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), std::vector<uint8_t>(kDisk));
}

TEST(SnapshotEditTest, ZeroClustersWithAHostClusterAreShared) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  WriteAt(disk, {{0, 256 << 10}}, 1);
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.Zero(64 << 10, 128 << 10, false).ok());
  ASSERT_TRUE(disk.Close().ok());
  const std::vector<uint8_t> before = Content(disk);
  ASSERT_TRUE(Make(disk, "zeros").ok());
  EXPECT_TRUE(IsClean(disk));
  WriteAt(disk, {{64 << 10, 4096}}, 2);
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(ContentOf(disk, "1"), before);
}

TEST(SnapshotEditTest, GoesBackToAnotherSize) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, {{0, 64 << 10}}, 1);
  const std::vector<uint8_t> small = Content(disk);
  ASSERT_TRUE(Make(disk, "small").ok());
  ASSERT_TRUE(disk.Open().ok());
  ASSERT_TRUE(disk.loop().RunTask(disk.disk().Resize(8 * kDisk)).ok());
  ASSERT_TRUE(disk.Write(7 * kDisk, 4096, 2).ok());
  ASSERT_TRUE(disk.Close().ok());
  const std::vector<uint8_t> large = Content(disk);
  ASSERT_TRUE(Make(disk, "large").ok());
  ASSERT_TRUE(Apply(disk, "1").ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), small);
  ASSERT_TRUE(Apply(disk, "2").ok());
  EXPECT_TRUE(IsClean(disk));
  EXPECT_EQ(Content(disk), large);
}

TEST(SnapshotEditTest, IdsGoUpAndUnknownExtraDataStays) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12});
  ASSERT_EQ(*Make(disk, "a"), "1");
  ASSERT_EQ(*Make(disk, "b"), "2");
  // The first record says that it has 8 bytes of extra data more: what follows it moves.
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok());
  std::vector<uint8_t>& bytes = disk.medium().bytes;
  const uint64_t at = header->snapshots_offset;
  bytes[at + 39] = 32;
  const std::vector<uint8_t> unknown = {1, 2, 3, 4, 5, 6, 7, 8};
  bytes.insert(bytes.begin() + at + 64, unknown.begin(), unknown.end());
  bytes.erase(bytes.begin() + at + 4096, bytes.begin() + at + 4104);
  ASSERT_TRUE(Delete(disk, "2").ok());
  ASSERT_EQ(*Make(disk, "c"), "2");
  const std::vector<Snapshot> list = List(disk);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].unknown_extra, unknown);
  EXPECT_EQ(list[0].name, "a");
  EXPECT_EQ(list[1].name, "c");
  EXPECT_EQ(list[1].disk_bytes, kDisk);
  EXPECT_TRUE(IsClean(disk));
}

TEST(SnapshotEditTest, WhatIsNotThereIsNotFound) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk});
  EXPECT_TRUE(absl::IsNotFound(Delete(disk, "1")));
  EXPECT_TRUE(absl::IsNotFound(Apply(disk, "1")));
}

TEST(SnapshotEditTest, GrowsTheRefcountStructures) {
  // A block of 64-bit counters describes 64 clusters of 512 bytes, a table cluster 64 blocks.
  Qcow2Disk disk(CreateOptions{.size_bytes = 4 << 20, .cluster_bits = 9, .refcount_order = 6});
  WriteAt(disk, {{0, 2 << 20}}, 1);
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(Make(disk, std::string(400, 'n')).ok());
    ASSERT_TRUE(IsClean(disk)) << i;
  }
  EXPECT_EQ(ContentOf(disk, "3"), Content(disk));
}

TEST(SnapshotEditTest, GrowsTheRefcountStructuresOfADevice) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  WriteAt(disk, {{0, 120 << 10}}, 1);
  const std::vector<uint8_t> first = Content(disk);
  disk.medium().bytes.resize(3 << 20, 0x5a);
  disk.medium().traits.growable = false;
  disk.medium().traits.zero_filled = false;
  const uint64_t blocks = BlocksOf(disk);
  for (int i = 0; i < 20; ++i) {
    const absl::StatusOr<std::string> made = Make(disk, absl::StrCat("name ", i));
    ASSERT_TRUE(made.ok()) << made.status();
    ASSERT_TRUE(IsClean(disk)) << i;
    WriteAt(disk, {{0, 4096}}, static_cast<uint8_t>(2 + i));
  }
  EXPECT_EQ(ContentOf(disk, "1"), first);
  // Until it is full, which changes nothing.
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = Make(disk, std::string(40000, 'n')).status();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(BlocksOf(disk), blocks);
  EXPECT_EQ(disk.medium().bytes.size(), uint64_t{3} << 20);
  const absl::StatusOr<CheckResult> result = disk.Check();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->corruptions, 0u);
  EXPECT_EQ(ContentOf(disk, "1"), first);
}

TEST(SnapshotEditTest, DamageIsRefused) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12});
  WriteAt(disk, {{0, 64 << 10}}, 1);
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok());
  const uint64_t table = disk.Load64(header->l1_offset) & kEntryOffsetMask;
  const std::vector<uint8_t> sound = disk.TakeBytes();
  const std::vector<std::pair<uint64_t, uint64_t>> damages = {
      {header->l1_offset, header->l1_offset | kEntryCopied},  // A table inside the L1 table,
      {header->l1_offset, uint64_t{1} << 40},                 // past the end,
      {header->l1_offset, table + 512},                       // not aligned;
      {table, header->refcount_table_offset | kEntryCopied},  // data in the refcount table,
      {table, (uint64_t{1} << 40) | kEntryCopied},            // not counted,
      {table, (table + 512) | kEntryCopied},                  // not aligned.
  };
  for (const auto& [offset, value] : damages) {
    Qcow2Disk damaged(sound);
    damaged.Store64(offset, value);
    const std::vector<uint8_t> before = damaged.TakeBytes();
    EXPECT_TRUE(absl::IsDataLoss(Make(damaged, "x").status())) << value;
    EXPECT_TRUE(damaged.TakeBytes() == before) << value;
  }
}

// Many snapshots that say that they have one table cost no memory for each.
TEST(SnapshotEditTest, TablesThatOverlapAreRefused) {
  Qcow2Disk disk(CreateOptions{.size_bytes = kDisk, .cluster_bits = 9});
  ASSERT_TRUE(Make(disk, "a").ok());
  ASSERT_TRUE(Make(disk, "b").ok());
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok());
  // Both records have 40 + 24 + 2 bytes, padded to 72.
  disk.Store64(header->snapshots_offset + 72, disk.Load64(header->snapshots_offset));
  EXPECT_TRUE(absl::IsDataLoss(Delete(disk, "1")));
}

// --- Failures and power cuts at every step ---

enum class Operation { kCreate, kDelete, kApply };

struct Scenario {
  std::vector<uint8_t> image;
  std::vector<uint8_t> active;
  std::vector<uint8_t> first;  // Of snapshot 1.
};

// A disk with a snapshot that shares some clusters with it.
Scenario MakeScenario() {
  Qcow2Disk disk(CreateOptions{.size_bytes = 96 << 10, .cluster_bits = 9, .refcount_order = 3});
  WriteAt(disk, {{0, 8 << 10}, {64 << 10, 4 << 10}}, 1);
  Scenario scenario;
  scenario.first = Content(disk);
  VIREO_CHECK(Make(disk, "first").ok());
  WriteAt(disk, {{4 << 10, 8 << 10}}, 2);
  scenario.active = Content(disk);
  scenario.image = disk.TakeBytes();
  return scenario;
}

Task<absl::Status> Perform(EventLoop& loop, File& file, Operation operation) {
  if (operation == Operation::kCreate) {
    NewSnapshot wanted = {.name = "second", .date_seconds = 8};
    const absl::StatusOr<std::string> id = co_await CreateSnapshot(loop, file, std::move(wanted));
    co_return id.status();
  }
  if (operation == Operation::kDelete) {
    const absl::Status deleted = co_await DeleteSnapshot(loop, file, "1");
    co_return deleted;
  }
  const absl::Status applied = co_await ApplySnapshot(loop, file, "1");
  co_return applied;
}

// Leaks at most; COPIED flags may disagree with counts that are too high or were not raised.
std::vector<std::string> SeriousErrors(Qcow2Disk& disk) {
  std::vector<std::string> serious;
  CheckReport report = [&serious](const std::string& line) {
    if (absl::StartsWith(line, "ERROR") && !absl::StrContains(line, "OFLAG_COPIED")) {
      serious.push_back(line);
    }
  };
  const absl::StatusOr<CheckResult> result = disk.Check(Repair::kNone, &report);
  if (!result.ok()) serious.push_back(result.status().ToString());
  return serious;
}

void ExpectSound(const std::vector<uint8_t>& state, const Scenario& scenario, Operation operation) {
  Qcow2Disk disk(state);
  ASSERT_THAT(SeriousErrors(disk), IsEmpty());
  const std::vector<std::string> ids = Ids(disk);
  const std::vector<uint8_t> content = Content(disk);
  if (operation == Operation::kApply) {
    EXPECT_TRUE(content == scenario.active || content == scenario.first);
    EXPECT_THAT(ids, ElementsAre("1"));
  } else {
    EXPECT_TRUE(content == scenario.active);
  }
  if (operation != Operation::kDelete) {
    EXPECT_EQ(ContentOf(disk, "1"), scenario.first);
  }
  if (ids.size() == 2) {
    EXPECT_EQ(ContentOf(disk, "2"), scenario.active);
  }
  // Writing to the image as it is spoils no snapshot.
  WriteAt(disk, {{0, 96 << 10}}, 9);
  for (const std::string& id : ids) {
    EXPECT_EQ(ContentOf(disk, id), id == "1" ? scenario.first : scenario.active);
  }
  Qcow2Disk mended(state);
  ASSERT_TRUE(mended.Check(Repair::kAll).ok());
  EXPECT_TRUE(IsClean(mended));
  EXPECT_TRUE(Content(mended) == content);
}

class SnapshotFaultTest : public testing::TestWithParam<Operation> {};

TEST_P(SnapshotFaultTest, EveryOperationMayFail) {
  const Scenario scenario = MakeScenario();
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  std::mt19937 random(1);
  int failures = 0;
  for (uint64_t k = 0;; ++k) {
    FaultyMedium medium(scenario.image, static_cast<uint32_t>(k));
    medium.FailAfter(k, k % 2 == 0 ? EIO : ENOSPC);
    FaultyFile file(*loop, medium);
    const absl::Status status = loop->RunTask(Perform(*loop, file, GetParam()));
    if (!medium.failed()) {
      EXPECT_TRUE(status.ok()) << status;
      break;
    }
    ++failures;
    SCOPED_TRACE(absl::StrCat("operation ", k));
    // A block that was read ahead is read again when it is needed.
    if (status.ok()) {
      EXPECT_TRUE(Qcow2Disk(medium.bytes()).Check()->clean());
    }
    ExpectSound(medium.bytes(), scenario, GetParam());
    ExpectSound(medium.AfterPowerCut(medium.now(), FaultyMedium::Loss::kTorn, random), scenario,
                GetParam());
    if (HasFailure()) return;
  }
  EXPECT_GT(failures, 10);
}

TEST_P(SnapshotFaultTest, ThePowerMayFailAtEveryMoment) {
  const Scenario scenario = MakeScenario();
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FaultyMedium medium(scenario.image, 1);
  FaultyFile file(*loop, medium);
  const absl::Status status = loop->RunTask(Perform(*loop, file, GetParam()));
  ASSERT_TRUE(status.ok()) << status;
  std::mt19937 random(2);
  for (uint64_t moment = 0; moment <= medium.now(); ++moment) {
    SCOPED_TRACE(absl::StrCat("moment ", moment));
    for (const auto loss : {FaultyMedium::Loss::kAll, FaultyMedium::Loss::kNone,
                            FaultyMedium::Loss::kRandom, FaultyMedium::Loss::kTorn}) {
      ExpectSound(medium.AfterPowerCut(moment, loss, random), scenario, GetParam());
      if (HasFailure()) return;
    }
  }
  Qcow2Disk done(medium.bytes());
  EXPECT_TRUE(IsClean(done));
}

INSTANTIATE_TEST_SUITE_P(Operations, SnapshotFaultTest,
                         testing::Values(Operation::kCreate, Operation::kDelete, Operation::kApply),
                         [](const testing::TestParamInfo<Operation>& info) {
                           return info.param == Operation::kCreate   ? "Create"
                                  : info.param == Operation::kDelete ? "Delete"
                                                                     : "Apply";
                         });

}  // namespace
}  // namespace vireo::qcow2
