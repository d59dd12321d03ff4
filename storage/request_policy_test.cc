#include "storage/request_policy.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/status.h"
#include "storage/raw_file.h"
#include "tests/support/memory_file.h"

namespace vireo {
namespace {

class RequestPolicyTest : public testing::Test {
 protected:
  void Open(RequestPolicy::Options options) {
    medium_.bytes.assign(64 << 10, 'o');
    disk_ = std::make_unique<RequestPolicy>(
        std::make_unique<RawFile>(std::make_unique<MemoryFile>(*loop_, medium_),
                                  RawFile::Options()),
        options);
  }
  absl::Status Write(uint64_t offset, std::string bytes) {
    const iovec part = {bytes.data(), bytes.size()};
    return loop_->RunTask(disk_->Write(offset, IoVecs(&part, 1)));
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  std::unique_ptr<RequestPolicy> disk_;
};

TEST_F(RequestPolicyTest, WritethroughMakesEachWriteDurable) {
  Open({.writethrough = true});
  ASSERT_TRUE(Write(0, std::string(512, 'a')).ok());
  EXPECT_EQ(medium_.syncs, 1u);
  ASSERT_TRUE(loop_->RunTask(disk_->WriteZeroes(0, 512, {})).ok());
  EXPECT_EQ(medium_.syncs, 2u);
}

TEST_F(RequestPolicyTest, WritebackWaitsForAFlush) {
  Open({});
  ASSERT_TRUE(Write(0, std::string(512, 'a')).ok());
  EXPECT_EQ(medium_.syncs, 0u);
  ASSERT_TRUE(loop_->RunTask(disk_->Flush()).ok());
  EXPECT_EQ(medium_.syncs, 1u);
}

TEST_F(RequestPolicyTest, IgnoredDiscardsAreCheckedAllTheSame) {
  Open({.ignore_discards = true});
  EXPECT_TRUE(loop_->RunTask(disk_->Discard(0, 4096)).ok());
  EXPECT_EQ(medium_.bytes[0], 'o');
  EXPECT_TRUE(absl::IsOutOfRange(loop_->RunTask(disk_->Discard(64 << 10, 512))));
}

TEST_F(RequestPolicyTest, WritesOfZerosBecomeZeroes) {
  Open({.detect_zeroes = RequestPolicy::Zeroes::kUnmap});
  const uint64_t before = medium_.writes;
  ASSERT_TRUE(Write(4096, std::string(4096, '\0')).ok());
  EXPECT_EQ(medium_.writes, before);
  EXPECT_EQ(medium_.bytes[4096], 0);
  ASSERT_TRUE(Write(4096, std::string(4095, '\0') + "x").ok());
  EXPECT_EQ(medium_.bytes[8191], 'x');
}

TEST_F(RequestPolicyTest, AGuessedFormatIsKept) {
  Open({.guard_format = true});
  const std::string header = std::string("QFI\xfb\0\0\0\3", 8) + std::string(504, '\0');
  EXPECT_EQ(StatusErrno(Write(0, header)), EPERM);
  EXPECT_EQ(medium_.bytes[0], 'o');
  EXPECT_TRUE(Write(512, header).ok());
  EXPECT_TRUE(Write(0, std::string(512, 'a')).ok());
}

}  // namespace
}  // namespace vireo
