#include "storage/raw_file.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/support/memory_file.h"

namespace vireo {
namespace {

class RawFileTest : public testing::Test {
 protected:
  std::unique_ptr<RawFile> Make(uint64_t bytes, RawFile::Options options = {}) {
    medium_.bytes.assign(bytes, 7);
    return std::make_unique<RawFile>(std::make_unique<MemoryFile>(*loop_, medium_), options);
  }
  absl::Status Write(RawFile& disk, uint64_t offset, uint64_t length, WriteFlags flags = {}) {
    std::vector<uint8_t> bytes(length, 1);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    return loop_->RunTask(disk.Write(offset, IoVecs(&part, 1), flags));
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
};

TEST_F(RawFileTest, AnOddSizeIsRoundedUpToWholeSectors) {
  const std::unique_ptr<RawFile> disk = Make(1000);
  EXPECT_EQ(disk->geometry().size_bytes, 1024u);
  std::vector<uint8_t> bytes(512, 0xee);
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  ASSERT_TRUE(loop_->RunTask(disk->Read(512, IoVecs(&part, 1))).ok());
  EXPECT_EQ(bytes[487], 7);
  EXPECT_EQ(bytes[488], 0);
  ASSERT_TRUE(Write(*disk, 512, 512).ok());
  EXPECT_EQ(medium_.bytes.size(), 1024u);
}

TEST_F(RawFileTest, ADevicesPartOfASectorIsLeftAlone) {
  medium_.traits.growable = false;
  EXPECT_EQ(Make(1000)->geometry().size_bytes, 512u);
}

TEST_F(RawFileTest, ADeviceKeepsItsSize) {
  medium_.traits.growable = false;
  const std::unique_ptr<RawFile> disk = Make(4096);
  EXPECT_TRUE(absl::IsUnimplemented(loop_->RunTask(disk->Resize(8192))));
}

TEST_F(RawFileTest, FuaAndFlushReachTheFile) {
  const std::unique_ptr<RawFile> disk = Make(4096);
  ASSERT_TRUE(Write(*disk, 0, 512).ok());
  EXPECT_EQ(medium_.syncs, 0u);
  ASSERT_TRUE(Write(*disk, 0, 512, {.fua = true}).ok());
  EXPECT_EQ(medium_.syncs, 1u);
  ASSERT_TRUE(loop_->RunTask(disk->Flush()).ok());
  EXPECT_EQ(medium_.syncs, 2u);
  ASSERT_TRUE(loop_->RunTask(disk->Close()).ok());
  EXPECT_EQ(medium_.syncs, 3u);
}

TEST_F(RawFileTest, AReadOnlyDiskIsNeverSynced) {
  const std::unique_ptr<RawFile> disk = Make(4096, {.read_only = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(Write(*disk, 0, 512)));
  ASSERT_TRUE(loop_->RunTask(disk->Flush()).ok());
  ASSERT_TRUE(loop_->RunTask(disk->Close()).ok());
  EXPECT_EQ(medium_.syncs, 0u);
}

}  // namespace
}  // namespace vireo
