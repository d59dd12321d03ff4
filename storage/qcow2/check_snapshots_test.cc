#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/snapshot_edit.h"
#include "storage/qcow2/snapshots.h"
#include "tests/support/faulty_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kCluster = 4096;

struct Record {
  RawSnapshot raw;
  std::vector<uint8_t> extra;
  std::string id;
  std::string name;
};

std::vector<uint8_t> Bytes(const std::vector<Record>& records) {
  std::vector<uint8_t> bytes;
  for (const Record& record : records) {
    RawSnapshot raw = record.raw;
    raw.extra_data_bytes = static_cast<uint32_t>(record.extra.size());
    raw.id_length = static_cast<uint16_t>(record.id.size());
    raw.name_length = static_cast<uint16_t>(record.name.size());
    const auto* const fixed = reinterpret_cast<const uint8_t*>(&raw);
    bytes.insert(bytes.end(), fixed, fixed + sizeof(raw));
    bytes.insert(bytes.end(), record.extra.begin(), record.extra.end());
    bytes.insert(bytes.end(), record.id.begin(), record.id.end());
    bytes.insert(bytes.end(), record.name.begin(), record.name.end());
    bytes.resize(AlignUp<uint64_t>(bytes.size(), 8));
  }
  return bytes;
}

// An image with the snapshots "1" (its first cluster 0x11), "2" (0x22) and "3" (0x33), and 0x44
// now.
class CheckSnapshotsTest : public testing::Test {
 protected:
  CheckSnapshotsTest() : disk_(CreateOptions{.size_bytes = 1 << 20, .cluster_bits = 12}) {
    for (const int i : {1, 2, 3}) {
      Fill(static_cast<uint8_t>(0x11 * i));
      MemoryFile file(disk_.loop(), disk_.medium());
      const auto made = disk_.loop().RunTask(
          CreateSnapshot(disk_.loop(), file, {.name = absl::StrCat("name ", i)}));
      EXPECT_TRUE(made.ok()) << made.status();
    }
    Fill(0x44);
    table_offset_ = disk_.ReadTheHeader()->snapshots_offset;
    for (const Snapshot& snapshot : List(disk_)) {
      Record record = {
          .raw = {}, .extra = std::vector<uint8_t>(24), .id = snapshot.id, .name = snapshot.name};
      record.raw.l1_table_offset = snapshot.l1_offset;
      record.raw.l1_size = snapshot.l1_entries;
      const Be64 disk_bytes(snapshot.disk_bytes);
      std::memcpy(record.extra.data() + 8, &disk_bytes, sizeof(disk_bytes));
      records_.push_back(std::move(record));
    }
  }

  void Fill(uint8_t byte) {
    EXPECT_TRUE(disk_.Open().ok());
    EXPECT_TRUE(disk_.Write(0, kCluster, byte).ok());
    EXPECT_TRUE(disk_.Close().ok());
  }

  static std::vector<Snapshot> List(Qcow2Disk& disk) {
    MemoryFile file(disk.loop(), disk.medium());
    const absl::StatusOr<Header> header = disk.ReadTheHeader();
    EXPECT_TRUE(header.ok()) << header.status();
    const auto table = disk.loop().RunTask(ReadSnapshotTable(file, *header));
    EXPECT_TRUE(table.ok()) << table.status();
    return table.ok() ? table->snapshots : std::vector<Snapshot>();
  }
  static std::vector<std::string> Ids(Qcow2Disk& disk) {
    std::vector<std::string> ids;
    for (const Snapshot& snapshot : List(disk)) ids.push_back(snapshot.id);
    return ids;
  }

  // Puts records_ in place of the table, behind the end of the file, counted.
  void PutTable() {
    const std::vector<uint8_t> bytes = Bytes(records_);
    const uint64_t clusters = (bytes.size() + kCluster - 1) / kCluster;
    std::vector<uint8_t>& image = disk_.medium().bytes;
    image.resize(AlignUp<uint64_t>(image.size(), kCluster));
    const uint64_t offset = image.size();
    image.insert(image.end(), bytes.begin(), bytes.end());
    image.resize(offset + clusters * kCluster);
    const Be32 count(static_cast<uint32_t>(records_.size()));
    std::memcpy(image.data() + kSnapshotFieldsOffset, &count, sizeof(count));
    disk_.Store64(kSnapshotFieldsOffset + 4, offset);
    // The counts of the new table, as far as the block reaches, and of the old.
    const uint64_t block =
        disk_.Load64(disk_.ReadTheHeader(Access::kRepair)->refcount_table_offset);
    for (uint64_t i = 0; i < clusters && (offset / kCluster + i) * 2 < kCluster; ++i) {
      disk_.Store16(block + (offset / kCluster + i) * 2, 1);
    }
    disk_.Store16(block + table_offset_ / kCluster * 2, 0);
    table_offset_ = offset;
  }

  CheckResult Check(Repair repair = Repair::kNone) { return CheckOf(disk_, repair); }
  CheckResult CheckOf(Qcow2Disk& disk, Repair repair) {
    lines_.clear();
    CheckReport report = [this](const std::string& line) { lines_.push_back(line); };
    const auto result = disk.Check(repair, &report);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : CheckResult{.check_errors = 1};
  }

  // Snapshots and disk still hold what they held.
  static void ExpectContent(Qcow2Disk& disk, const std::vector<std::string>& ids) {
    EXPECT_EQ(Ids(disk), ids);
    ASSERT_TRUE(disk.Open({.read_only = true}).ok());
    EXPECT_TRUE(disk.Holds(0, kCluster, 0x44));
    ASSERT_TRUE(disk.Close().ok());
    for (const std::string& id : ids) {
      Qcow2Disk copy(disk.TakeBytes());
      MemoryFile file(copy.loop(), copy.medium());
      const absl::Status applied = copy.loop().RunTask(ApplySnapshot(copy.loop(), file, id));
      ASSERT_TRUE(applied.ok()) << applied;
      ASSERT_TRUE(copy.Open({.read_only = true}).ok());
      EXPECT_TRUE(copy.Holds(0, kCluster, static_cast<uint8_t>(0x11 * (id[0] - '0')))) << id;
      ASSERT_TRUE(copy.Close().ok());
    }
  }

  Qcow2Disk disk_;
  std::vector<Record> records_;
  std::vector<std::string> lines_;  // What the last check said.
  uint64_t table_offset_ = 0;
};

TEST_F(CheckSnapshotsTest, ASoundTableIsLeftAlone) {
  PutTable();
  EXPECT_TRUE(Check().clean());
  const std::vector<uint8_t> before = disk_.TakeBytes();
  const CheckResult result = Check(Repair::kAll);
  EXPECT_TRUE(result.clean());
  EXPECT_EQ(result.corruptions_fixed, 0u);
  EXPECT_EQ(disk_.TakeBytes(), before);
  ExpectContent(disk_, {"1", "2", "3"});
}

TEST_F(CheckSnapshotsTest, IncompleteRecordsAreCompleted) {
  records_[0].extra.resize(8);
  records_[2].extra.clear();
  PutTable();
  for (const Repair repair : {Repair::kNone, Repair::kLeaks}) {
    EXPECT_EQ(Check(repair).corruptions, 2u);
    EXPECT_THAT(lines_, ElementsAre("ERROR snapshot table entry 0 is incomplete",
                                    "ERROR snapshot table entry 2 is incomplete"));
  }
  const CheckResult result = Check(Repair::kAll);
  EXPECT_TRUE(result.stopped.ok()) << result.stopped;
  EXPECT_EQ(result.corruptions, 0u);
  EXPECT_EQ(result.corruptions_fixed, 2u);
  EXPECT_THAT(lines_, ElementsAre("Repairing snapshot table entry 0 is incomplete",
                                  "Repairing snapshot table entry 2 is incomplete"));
  EXPECT_TRUE(Check().clean());
  ExpectContent(disk_, {"1", "2", "3"});
  EXPECT_EQ(List(disk_)[2].disk_bytes, uint64_t{1} << 20);
}

TEST_F(CheckSnapshotsTest, Version2KnowsNoExtraData) {
  Qcow2Disk old(CreateOptions{.size_bytes = 1 << 20, .version = 2, .cluster_bits = 12});
  MemoryFile file(old.loop(), old.medium());
  ASSERT_TRUE(old.loop().RunTask(CreateSnapshot(old.loop(), file, {.name = "old"})).ok());
  const uint64_t table = old.ReadTheHeader()->snapshots_offset;
  Record record = {.raw = {}, .extra = {}, .id = "1", .name = "old"};
  std::memcpy(&record.raw, old.medium().bytes.data() + table, sizeof(record.raw));
  const std::vector<uint8_t> bytes = Bytes({record});
  std::copy(bytes.begin(), bytes.end(), old.medium().bytes.begin() + static_cast<long>(table));
  EXPECT_TRUE(CheckOf(old, Repair::kNone).clean());
  EXPECT_THAT(Ids(old), ElementsAre("1"));
}

TEST_F(CheckSnapshotsTest, ExtraDataBeyondTheLimitIsCutOff) {
  for (size_t i = 24; i < 1200; ++i) records_[1].extra.push_back(static_cast<uint8_t>(i));
  PutTable();
  CheckResult result = Check();
  EXPECT_EQ(result.check_errors, 1u);
  EXPECT_FALSE(result.stopped.ok());
  EXPECT_THAT(lines_, Contains(HasSubstr("Too much extra metadata in snapshot table entry 1")));
  EXPECT_THAT(lines_, Contains(HasSubstr("check -r all")));
  result = Check(Repair::kAll);
  EXPECT_TRUE(result.stopped.ok()) << result.stopped;
  EXPECT_EQ(result.corruptions_fixed, 1u);
  EXPECT_THAT(lines_, Contains("Discarding too much extra metadata in snapshot table entry 1 "
                               "(1200 > 1024)"));
  EXPECT_TRUE(Check().clean());
  ExpectContent(disk_, {"1", "2", "3"});
  const std::vector<uint8_t> kept = List(disk_)[1].unknown_extra;
  ASSERT_EQ(kept.size(), 1000u);
  EXPECT_EQ(kept[999], static_cast<uint8_t>(1023));
}

TEST_F(CheckSnapshotsTest, SnapshotsBeyondTheMostAreTakenOut) {
  Record filler = records_[0];
  filler.raw.l1_size = 0;
  filler.id = "9";
  records_.resize(kMaxSnapshots, filler);
  records_.push_back({.raw = records_[1].raw, .extra = records_[1].extra, .id = "x", .name = ""});
  PutTable();
  CheckResult result = Check();
  EXPECT_FALSE(result.stopped.ok());
  EXPECT_THAT(lines_,
              ElementsAre("ERROR snapshot table too large",
                          HasSubstr("You can force-remove all 1 overhanging snapshots with")));
  EXPECT_FALSE(disk_.Open().ok());
  result = Check(Repair::kAll);
  EXPECT_TRUE(result.stopped.ok()) << result.stopped;
  EXPECT_THAT(lines_, Contains("Discarding 1 overhanging snapshots"));
  EXPECT_EQ(result.corruptions, 0u);
  EXPECT_TRUE(Check().clean());
  EXPECT_EQ(List(disk_).size(), kMaxSnapshots);
  ASSERT_TRUE(disk_.Open().ok());
  EXPECT_TRUE(disk_.Holds(0, kCluster, 0x44));
  ASSERT_TRUE(disk_.Close().ok());
}

TEST_F(CheckSnapshotsTest, ATableBeyondItsMostBytesIsCutShort) {
  Record filler = records_[0];
  filler.raw.l1_size = 0;
  filler.id = "9";
  filler.name = std::string(65000, 'n');
  records_.resize(1100, filler);
  PutTable();
  CheckResult result = Check();
  EXPECT_FALSE(result.stopped.ok());
  EXPECT_THAT(lines_, Contains(HasSubstr("Snapshot table is too big")));
  result = Check(Repair::kAll);
  EXPECT_TRUE(result.stopped.ok()) << result.stopped;
  EXPECT_THAT(lines_, Contains(HasSubstr("overhanging snapshots (snapshot table is too big)")));
  EXPECT_TRUE(Check().clean());
  EXPECT_LT(List(disk_).size(), 1100u);
  EXPECT_GT(List(disk_).size(), 1000u);
}

TEST_F(CheckSnapshotsTest, SnapshotsPastTheEndAreTakenOut) {
  PutTable();
  const Be32 count(5);
  std::memcpy(disk_.medium().bytes.data() + kSnapshotFieldsOffset, &count, sizeof(count));
  disk_.medium().bytes.resize(table_offset_ + Bytes(records_).size());
  CheckResult result = Check();
  EXPECT_FALSE(result.stopped.ok());
  EXPECT_THAT(lines_, ElementsAre(HasSubstr("The file ends before its last 2 entries"),
                                  HasSubstr("force-remove all 2 overhanging snapshots")));
  EXPECT_FALSE(disk_.Open().ok());
  result = Check(Repair::kAll);
  EXPECT_TRUE(result.stopped.ok()) << result.stopped;
  EXPECT_EQ(result.corruptions_fixed, 2u);
  EXPECT_TRUE(Check().clean());
  ExpectContent(disk_, {"1", "2", "3"});
}

// The repair that opening starts by itself gives up nothing.
TEST_F(CheckSnapshotsTest, OpeningADirtyImageCutsNoTable) {
  const auto make_dirty = [this] {
    disk_.Store64(kFeatureFieldsOffset, disk_.Load64(kFeatureFieldsOffset) | kIncompatibleDirty);
  };
  for (size_t i = 24; i < 1200; ++i) records_[1].extra.push_back(static_cast<uint8_t>(i));
  PutTable();
  make_dirty();
  const std::vector<uint8_t> before = disk_.TakeBytes();
  EXPECT_TRUE(absl::IsDataLoss(disk_.Open()));
  MemoryFile file(disk_.loop(), disk_.medium());
  EXPECT_TRUE(absl::IsDataLoss(
      disk_.loop().RunTask(CreateSnapshot(disk_.loop(), file, {.name = "n"})).status()));
  EXPECT_EQ(disk_.TakeBytes(), before);

  // What is only incomplete loses nothing.
  records_[1].extra.resize(8);
  PutTable();
  make_dirty();
  ASSERT_TRUE(disk_.Open().ok());
  ASSERT_TRUE(disk_.Close().ok());
  EXPECT_TRUE(Check().clean());
  ExpectContent(disk_, {"1", "2", "3"});
}

TEST_F(CheckSnapshotsTest, ATablePastTheEndIsNotWrittenOver) {
  disk_.Store64(kSnapshotFieldsOffset + 4, uint64_t{1} << 40);
  const std::vector<uint8_t> before = disk_.TakeBytes();
  for (const Repair repair : {Repair::kNone, Repair::kLeaks, Repair::kAll}) {
    const CheckResult result = Check(repair);
    EXPECT_FALSE(result.stopped.ok());
    EXPECT_THAT(lines_, ElementsAre(HasSubstr("past the end")));
    EXPECT_EQ(disk_.TakeBytes(), before);
  }
}

TEST_F(CheckSnapshotsTest, DamagedL1TablesAreNamedByTheirSnapshot) {
  records_[0].raw.l1_table_offset = 0x12345;
  records_[1].raw.l1_size = 0x7fffffff;
  PutTable();
  EXPECT_EQ(Check().corruptions, 2u);
  EXPECT_THAT(lines_, Contains("ERROR snapshot 1 (name 1) l1_offset=0x12345: L1 table is not "
                               "cluster aligned; snapshot table entry corrupted"));
  EXPECT_THAT(lines_, Contains("ERROR snapshot 2 (name 2) l1_size=0x7fffffff: L1 table is too "
                               "large; snapshot table entry corrupted"));
}

// Whenever the power goes while a table is written anew, old or new are there, whole.
TEST_F(CheckSnapshotsTest, APowerCutLeavesTheOldTableOrTheNew) {
  records_[1].extra.resize(8);
  for (size_t i = 24; i < 1200; ++i) records_[2].extra.push_back(static_cast<uint8_t>(i));
  PutTable();
  FaultyMedium medium(disk_.TakeBytes(), 1);
  FaultyFile file(disk_.loop(), medium);
  const auto mended = disk_.loop().RunTask(CheckImage(file, Repair::kAll));
  ASSERT_TRUE(mended.ok()) << mended.status();
  EXPECT_EQ(mended->corruptions_fixed, 2u);
  std::mt19937 random(1);
  for (uint64_t moment = 0; moment <= medium.now(); ++moment) {
    SCOPED_TRACE(absl::StrCat("moment ", moment));
    for (const auto loss : {FaultyMedium::Loss::kAll, FaultyMedium::Loss::kNone,
                            FaultyMedium::Loss::kRandom, FaultyMedium::Loss::kTorn}) {
      Qcow2Disk left(medium.AfterPowerCut(moment, loss, random));
      const CheckResult found = CheckOf(left, Repair::kNone);
      // Not yet mended, or done; never a count that is too low.
      EXPECT_TRUE(!found.stopped.ok() || found.corruptions == 0);
      const CheckResult again = CheckOf(left, Repair::kAll);
      ASSERT_TRUE(again.stopped.ok()) << again.stopped;
      EXPECT_EQ(again.corruptions, 0u);
      EXPECT_TRUE(CheckOf(left, Repair::kNone).clean());
      ExpectContent(left, {"1", "2", "3"});
    }
  }
}

}  // namespace
}  // namespace vireo::qcow2
