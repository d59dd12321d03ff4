#include "storage/qcow2/snapshots.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "storage/qcow2/format.h"
#include "tests/support/memory_file.h"

namespace vireo::qcow2 {
namespace {

class SnapshotsTest : public testing::Test {
 protected:
  SnapshotsTest() {
    header_.layout.cluster_bits = 12;
    header_.size_bytes = 1 << 20;
    header_.snapshots_offset = 4096;
    medium_.bytes.resize(4096);
  }
  void Append(const std::string& id, const std::string& name, uint32_t extra_bytes) {
    RawSnapshot raw = {};
    raw.l1_table_offset = 8192;
    raw.l1_size = 1;
    raw.id_length = static_cast<uint16_t>(id.size());
    raw.name_length = static_cast<uint16_t>(name.size());
    raw.vm_state_bytes = 5;
    raw.extra_data_bytes = extra_bytes;
    const auto* const at = reinterpret_cast<const uint8_t*>(&raw);
    std::vector<uint8_t>& bytes = medium_.bytes;
    bytes.insert(bytes.end(), at, at + sizeof(raw));
    for (uint32_t i = 0; i < extra_bytes; ++i) bytes.push_back(i == 15 ? 64 : 0);
    bytes.insert(bytes.end(), id.begin(), id.end());
    bytes.insert(bytes.end(), name.begin(), name.end());
    bytes.resize((bytes.size() + 7) / 8 * 8);
    ++header_.snapshot_count;
  }
  absl::StatusOr<SnapshotTable> Read() {
    MemoryFile file(*loop_, medium_);
    return loop_->RunTask(ReadSnapshotTable(file, header_));
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  Header header_;
};

TEST_F(SnapshotsTest, NoneIsNoRead) {
  const auto table = Read();
  ASSERT_TRUE(table.ok());
  EXPECT_TRUE(table->snapshots.empty());
  EXPECT_EQ(medium_.reads, 0u);
}

TEST_F(SnapshotsTest, ReadsRecordsWithAndWithoutExtraData) {
  Append("1", "first", 0);
  Append("22", "", 16);
  Append("3", "third", 24);
  const auto table = Read();
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->snapshots.size(), 3u);
  EXPECT_EQ(table->snapshots[0].name, "first");
  EXPECT_EQ(table->snapshots[0].vm_state_bytes, 5u);
  EXPECT_EQ(table->snapshots[0].disk_bytes, 1u << 20);
  EXPECT_EQ(table->snapshots[1].id, "22");
  EXPECT_EQ(table->snapshots[1].vm_state_bytes, 0u);
  EXPECT_EQ(table->snapshots[1].disk_bytes, 64u);
  EXPECT_EQ(table->snapshots[2].instructions, 0u);
  EXPECT_EQ(table->bytes, medium_.bytes.size() - 4096);
}

TEST_F(SnapshotsTest, ReadsMoreThanOneWindow) {
  for (int i = 0; i < 40; ++i) Append(std::to_string(i), std::string(5000, 'n'), 24);
  Append("last", std::string(65535, 'n'), 1024);
  const auto table = Read();
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->snapshots.size(), 41u);
  EXPECT_EQ(table->snapshots[40].id, "last");
  EXPECT_EQ(table->snapshots[40].name.size(), 65535u);
}

TEST_F(SnapshotsTest, DamageIsFound) {
  Append("1", "first", 1025);
  EXPECT_TRUE(absl::IsDataLoss(Read().status()));
  header_.snapshots_offset = 1 << 20;
  EXPECT_TRUE(absl::IsDataLoss(Read().status()));
  header_.snapshots_offset = 4096;
  header_.snapshot_count = 60000;  // More than there are.
  EXPECT_TRUE(absl::IsDataLoss(Read().status()));
}

TEST_F(SnapshotsTest, AnL1TableMustFitTheFile) {
  medium_.bytes.resize(16384);
  const MemoryFile file(*loop_, medium_);
  const Layout& layout = header_.layout;
  EXPECT_TRUE(CheckSnapshotL1(file, layout, {.l1_offset = 8192, .l1_entries = 512}).ok());
  EXPECT_FALSE(CheckSnapshotL1(file, layout, {.l1_offset = 8200, .l1_entries = 1}).ok());
  EXPECT_FALSE(CheckSnapshotL1(file, layout, {.l1_offset = 0, .l1_entries = 1}).ok());
  EXPECT_FALSE(CheckSnapshotL1(file, layout, {.l1_offset = 12288, .l1_entries = 513}).ok());
  EXPECT_FALSE(CheckSnapshotL1(file, layout, {.l1_offset = 8192, .l1_entries = 1u << 30}).ok());
}

}  // namespace
}  // namespace vireo::qcow2
