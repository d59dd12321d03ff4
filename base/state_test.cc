#include "base/state.h"

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

std::vector<uint8_t> Everything() {
  StateWriter writer;
  writer.U8(0x12);
  writer.U16(0x3456);
  writer.U32(0x789abcde);
  writer.U64(0x1122334455667788);
  writer.I64(std::numeric_limits<int64_t>::min());
  writer.Bool(true);
  writer.Bytes(std::vector<uint8_t>{1, 2, 3});
  writer.String("text");
  writer.State({.type = "part", .version = 3, .bytes = {9}});
  return writer.Finish();
}

TEST(StateTest, ReadsBackWhatWasWritten) {
  const std::vector<uint8_t> bytes = Everything();
  StateReader reader(bytes);
  EXPECT_EQ(reader.U8(), 0x12);
  EXPECT_EQ(reader.U16(), 0x3456);
  EXPECT_EQ(reader.U32(), 0x789abcdeu);
  EXPECT_EQ(reader.U64(), 0x1122334455667788u);
  EXPECT_EQ(reader.I64(), std::numeric_limits<int64_t>::min());
  EXPECT_TRUE(reader.Bool());
  EXPECT_EQ(reader.Bytes(), (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_EQ(reader.String(), "text");
  const EncodedState part = reader.State();
  EXPECT_EQ(part.type, "part");
  EXPECT_EQ(part.version, 3u);
  EXPECT_EQ(part.bytes, (std::vector<uint8_t>{9}));
  EXPECT_TRUE(reader.Finish().ok()) << reader.Finish();
}

TEST(StateTest, IsLittleEndian) {
  StateWriter writer;
  writer.U32(0x11223344);
  EXPECT_EQ(writer.Finish(), (std::vector<uint8_t>{0x44, 0x33, 0x22, 0x11}));
}

TEST(StateTest, EveryTruncationIsNoticed) {
  const std::vector<uint8_t> bytes = Everything();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::span<const uint8_t> whole = bytes;
    StateReader reader(whole.first(size));
    reader.U8();
    reader.U16();
    reader.U32();
    reader.U64();
    reader.I64();
    reader.Bool();
    reader.Bytes();
    reader.String();
    reader.State();
    EXPECT_EQ(reader.Finish().code(), absl::StatusCode::kDataLoss) << size;
  }
}

TEST(StateTest, AHugeLengthIsAnErrorNotAnAllocation) {
  StateWriter writer;
  writer.U64(std::numeric_limits<uint64_t>::max());
  const std::vector<uint8_t> bytes = writer.Finish();
  StateReader reader(bytes);
  EXPECT_TRUE(reader.Bytes().empty());
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss);
}

TEST(StateTest, TheFirstErrorStays) {
  const std::vector<uint8_t> bytes = {2};
  StateReader reader(bytes);
  EXPECT_FALSE(reader.Bool());
  EXPECT_EQ(reader.U64(), 0u);
  reader.Fail("later");
  EXPECT_EQ(std::string(reader.status().message()), "state has 2 where a yes or no is");
}

TEST(StateTest, BytesLeftOverAreAnError) {
  const std::vector<uint8_t> bytes = {1, 2};
  StateReader reader(bytes);
  reader.U8();
  EXPECT_TRUE(reader.status().ok());
  EXPECT_EQ(reader.Finish().code(), absl::StatusCode::kDataLoss);
}

TEST(StateTest, AnotherTypeOrANewerVersionIsRefused) {
  const EncodedState state = {.type = "disk", .version = 2, .bytes = {}};
  EXPECT_TRUE(CheckState(state, "disk", 2).ok());
  EXPECT_TRUE(CheckState(state, "disk", 3).ok());
  EXPECT_EQ(CheckState(state, "nic", 2).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckState(state, "disk", 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckState({.type = "disk"}, "disk", 1).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vireo
