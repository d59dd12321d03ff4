#include "storage/hand_over_disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "storage/host_file.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

constexpr uint64_t kBytes = 1 << 20;

class HandOverDiskTest : public testing::Test {
 protected:
  HandOverDiskTest() { EXPECT_TRUE(loop_->RunTask(Create(*loop_, opener_, options_.path)).ok()); }
  static Task<absl::Status> Create(EventLoop& loop, Opener& opener, std::string path) {
    HostFile::Options options = {.path = std::move(path), .create = true};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(options));
    CO_RETURN_IF_ERROR(file.status());
    qcow2::CreateOptions image = {.size_bytes = kBytes};
    CO_RETURN_IF_ERROR(co_await qcow2::CreateImage(**file, std::move(image)));
    const absl::Status closed = co_await (*file)->Close();
    co_return closed;
  }
  std::unique_ptr<HandOverDisk> Open(HandOverDisk::Start start) {
    auto disk = loop_->RunTask(HandOverDisk::Open(*loop_, opener_, options_, start));
    EXPECT_TRUE(disk.ok()) << disk.status();
    return *std::move(disk);
  }
  absl::Status Write(HandOverDisk& disk, uint64_t offset, uint8_t byte) {
    std::vector<uint8_t> bytes(512, byte);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    return loop_->RunTask(disk.Write(offset, IoVecs(&part, 1)));
  }
  uint8_t Read(HandOverDisk& disk, uint64_t offset) {
    std::vector<uint8_t> bytes(512);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(disk.Read(offset, IoVecs(&part, 1)));
    EXPECT_TRUE(read.ok()) << read;
    return bytes[0];
  }
  void Close(HandOverDisk& disk) { EXPECT_TRUE(loop_->RunTask(disk.Close()).ok()); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const ImageOptions options_ = {.path = directory_.File("disk.qcow2"),
                                 .format = ImageFormat::kQcow2};
};

TEST_F(HandOverDiskTest, GoesToAnotherAndComesBackWithItsChanges) {
  const std::unique_ptr<HandOverDisk> source = Open(HandOverDisk::Start::kActive);
  const std::unique_ptr<HandOverDisk> target = Open(HandOverDisk::Start::kInactive);
  EXPECT_EQ(target->geometry().size_bytes, kBytes);
  EXPECT_FALSE(target->geometry().read_only);
  ASSERT_TRUE(Write(*source, 0, 1).ok());
  // The source still has it.
  EXPECT_TRUE(absl::IsAborted(loop_->RunTask(target->Activate())));

  ASSERT_TRUE(loop_->RunTask(source->Inactivate()).ok());
  ASSERT_TRUE(loop_->RunTask(target->Activate()).ok());
  EXPECT_EQ(Read(*target, 0), 1);
  ASSERT_TRUE(Write(*target, 65536, 2).ok());
  ASSERT_TRUE(loop_->RunTask(target->Resize(2 * kBytes)).ok());
  EXPECT_TRUE(absl::IsAborted(loop_->RunTask(source->Activate())));

  ASSERT_TRUE(loop_->RunTask(target->Inactivate()).ok());
  ASSERT_TRUE(loop_->RunTask(source->Activate()).ok());
  EXPECT_EQ(source->geometry().size_bytes, 2 * kBytes);
  EXPECT_EQ(Read(*source, 65536), 2);
  Close(*source);
  Close(*target);
}

TEST_F(HandOverDiskTest, InactiveNothingIsReadOrWritten) {
  const std::unique_ptr<HandOverDisk> disk = Open(HandOverDisk::Start::kActive);
  ASSERT_TRUE(loop_->RunTask(disk->Inactivate()).ok());
  EXPECT_FALSE(disk->active());
  EXPECT_TRUE(absl::IsFailedPrecondition(Write(*disk, 0, 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(loop_->RunTask(disk->Flush())));
  EXPECT_TRUE(absl::IsFailedPrecondition(loop_->RunTask(disk->Status(0, 512)).status()));
  ASSERT_TRUE(loop_->RunTask(disk->Inactivate()).ok());
  ASSERT_TRUE(loop_->RunTask(disk->Activate()).ok());
  ASSERT_TRUE(loop_->RunTask(disk->Activate()).ok());
  EXPECT_TRUE(Write(*disk, 0, 1).ok());
  Close(*disk);
}

TEST_F(HandOverDiskTest, TakesCompressedWrites) {
  const std::unique_ptr<HandOverDisk> disk = Open(HandOverDisk::Start::kActive);
  std::vector<uint8_t> bytes(65536, 7);
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  EXPECT_TRUE(loop_->RunTask(disk->WriteCompressed(65536, IoVecs(&part, 1))).ok());
  EXPECT_EQ(Read(*disk, 65536), 7);
  Close(*disk);
}

TEST_F(HandOverDiskTest, AMigrationThatFailsLeavesTheDiskWhereItWas) {
  const std::unique_ptr<HandOverDisk> source = Open(HandOverDisk::Start::kActive);
  const std::unique_ptr<HandOverDisk> target = Open(HandOverDisk::Start::kInactive);
  ASSERT_TRUE(loop_->RunTask(source->Inactivate()).ok());
  ASSERT_TRUE(loop_->RunTask(source->Activate()).ok());
  EXPECT_TRUE(Write(*source, 0, 3).ok());
  EXPECT_TRUE(absl::IsAborted(loop_->RunTask(target->Activate())));
  EXPECT_EQ(Read(*source, 0), 3);
  Close(*source);
  Close(*target);
}

}  // namespace
}  // namespace vireo
