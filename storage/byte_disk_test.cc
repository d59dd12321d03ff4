#include "storage/byte_disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/async/task_scope.h"
#include "storage/raw_file.h"
#include "tests/support/memory_file.h"

namespace vireo {
namespace {

class ByteDiskTest : public testing::Test {
 protected:
  ByteDiskTest() {
    medium_.bytes.assign(64 << 10, 'o');
    disk_ = std::make_unique<RawFile>(std::make_unique<MemoryFile>(*loop_, medium_),
                                      RawFile::Options());
    bytes_ = std::make_unique<ByteDisk>(*disk_);
  }
  absl::Status Write(uint64_t offset, std::string text) {
    const iovec part = {text.data(), text.size()};
    return loop_->RunTask(bytes_->Write(offset, IoVecs(&part, 1), {}));
  }
  std::string Read(uint64_t offset, size_t length) {
    std::string text(length, '?');
    const iovec part = {text.data(), text.size()};
    EXPECT_TRUE(loop_->RunTask(bytes_->Read(offset, IoVecs(&part, 1))).ok());
    return text;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  std::unique_ptr<RawFile> disk_;
  std::unique_ptr<ByteDisk> bytes_;
};

TEST_F(ByteDiskTest, MovesAnyBytes) {
  EXPECT_TRUE(Write(1000, "hello").ok());
  EXPECT_EQ(Read(999, 7), "ohelloo");
  EXPECT_TRUE(Write(510, std::string(1030, 'x')).ok());
  EXPECT_EQ(Read(508, 4), "ooxx");
  EXPECT_EQ(Read(1538, 4), "xxoo");
  EXPECT_EQ(Read(0, 0), "");
}

TEST_F(ByteDiskTest, ZeroesAnyBytes) {
  EXPECT_TRUE(loop_->RunTask(bytes_->WriteZeroes(100, 2000, {})).ok());
  EXPECT_EQ(Read(98, 4), std::string("oo\0\0", 4));
  EXPECT_EQ(Read(2098, 4), std::string("\0\0oo", 4));
  EXPECT_TRUE(loop_->RunTask(bytes_->WriteZeroes(5000, 10, {})).ok());
  EXPECT_EQ(Read(4999, 12), "o" + std::string(10, '\0') + "o");
  EXPECT_TRUE(loop_->RunTask(bytes_->WriteZeroes(8192, 1024, {})).ok());
  EXPECT_EQ(Read(8191, 3), std::string("o\0\0", 3));
}

TEST_F(ByteDiskTest, DiscardsWholeBlocksOnly) {
  EXPECT_TRUE(loop_->RunTask(bytes_->Discard(100, 1000)).ok());
  EXPECT_EQ(Read(0, 512), std::string(512, 'o'));
  EXPECT_EQ(Read(1024, 512), std::string(512, 'o'));
  EXPECT_TRUE(loop_->RunTask(bytes_->Discard(1, 1)).ok());
}

TEST_F(ByteDiskTest, RefusesWhatIsPastTheEnd) {
  EXPECT_TRUE(absl::IsOutOfRange(Write((64 << 10) - 1, "ab")));
  EXPECT_TRUE(absl::IsOutOfRange(Write(~uint64_t{0}, "a")));
  EXPECT_TRUE(absl::IsOutOfRange(loop_->RunTask(bytes_->Discard(64 << 10, 1))));
  EXPECT_TRUE(absl::IsOutOfRange(loop_->RunTask(bytes_->WriteZeroes(0, ~uint64_t{0}, {}))));
}

Task<void> WriteAlone(ByteDisk* bytes, uint64_t offset, std::string text, int* done) {
  const iovec part = {text.data(), text.size()};
  const absl::Status status = co_await bytes->Write(offset, IoVecs(&part, 1), {});
  if (status.ok()) ++*done;
}

TEST_F(ByteDiskTest, WritersOfOneBlockLoseNothing) {
  TaskScope scope(*loop_);
  int done = 0;
  for (uint64_t i = 0; i < 64; ++i) {
    scope.Spawn(
        WriteAlone(bytes_.get(), i * 24, std::string(24, static_cast<char>('A' + i % 26)), &done));
    if (i % 8 == 0) scope.Spawn(WriteAlone(bytes_.get(), 4096, std::string(512, 'w'), &done));
  }
  loop_->RunUntilIdle();
  EXPECT_EQ(done, 72);
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_EQ(Read(i * 24, 24), std::string(24, static_cast<char>('A' + i % 26))) << i;
  }
}

}  // namespace
}  // namespace vireo
