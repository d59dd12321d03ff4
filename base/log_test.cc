#include "base/log.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_format.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

class LogTest : public testing::Test {
 protected:
  LogTest() : file_(::memfd_create("log", MFD_CLOEXEC)) {}
  ~LogTest() override { SetLogOptions({}); }

  std::string Logged() const {
    std::string text(4096, '\0');
    const ssize_t got = ::pread(file_.get(), text.data(), text.size(), 0);
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return text;
  }

  const UniqueFd file_;
};

TEST_F(LogTest, LinesCarryTimeLevelAndVm) {
  SetLogOptions({.vm_id = "web1", .journald = false, .fd = file_.get()});
  LogWarning("disk %d is slow", 3);
  EXPECT_THAT(Logged(), testing::MatchesRegex("[0-9-]+T[0-9:.]+Z W \\[web1\\] disk 3 is slow\n"));
}

TEST_F(LogTest, TheJournalGetsItsPriorities) {
  SetLogOptions({.min_level = LogLevel::kDebug, .journald = true, .fd = file_.get()});
  LogDebug("d");
  LogInfo("i");
  LogWarning("w");
  LogError("e");
  EXPECT_EQ(Logged(), "<7>d\n<6>i\n<4>w\n<3>e\n");
}

TEST_F(LogTest, TheJournalIsRecognisedByDeviceAndInode) {
  struct stat status;
  ASSERT_EQ(::fstat(file_.get(), &status), 0);
  const std::string stream = absl::StrFormat("%d:%d", status.st_dev, status.st_ino);
  ASSERT_EQ(::setenv("JOURNAL_STREAM", stream.c_str(), 1), 0);
  SetLogOptions({.fd = file_.get()});
  LogInfo("hello");
  ASSERT_EQ(::unsetenv("JOURNAL_STREAM"), 0);
  EXPECT_EQ(Logged(), "<6>hello\n");
}

TEST_F(LogTest, LowerLevelsAreLeftOut) {
  SetLogOptions({.min_level = LogLevel::kError, .journald = true, .fd = file_.get()});
  LogWarning("not this");
  LogError("this");
  EXPECT_EQ(Logged(), "<3>this\n");
}

TEST_F(LogTest, NoMessageForgesALine) {
  SetLogOptions({.vm_id = "a\nb", .journald = true, .fd = file_.get()});
  LogInfo("%s", "one\n<3>two\x1b[31m\tthree");
  EXPECT_EQ(Logged(), "<6>[a\\nb] one\\n<3>two\\x1b[31m three\n");
}

TEST(RateLimitedTest, AllowsOneAPeriodAndCountsTheRest) {
  RateLimited limit(absl::Hours(1));
  EXPECT_TRUE(limit.Allow());
  EXPECT_FALSE(limit.Allow());
  EXPECT_FALSE(limit.Allow());
  EXPECT_EQ(limit.TakeSuppressed(), 2u);
  EXPECT_EQ(limit.TakeSuppressed(), 0u);
}

TEST(RateLimitedTest, AllowsAgainInTheNextPeriod) {
  RateLimited limit(absl::ZeroDuration());
  EXPECT_TRUE(limit.Allow());
  EXPECT_TRUE(limit.Allow());
}

}  // namespace
}  // namespace vireo
