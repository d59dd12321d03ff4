#include "storage/blkdebug.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/async/task_scope.h"
#include "base/status.h"
#include "tests/support/memory_file.h"

namespace vireo {
namespace {

using testing::ElementsAre;

class BlkdebugTest : public testing::Test {
 protected:
  void Open(const std::string& config) {
    absl::StatusOr<DriverOptions> options = Blkdebug::ReadConfig(config);
    ASSERT_TRUE(options.ok()) << options.status();
    absl::StatusOr<std::vector<Blkdebug::Rule>> rules = Blkdebug::Rules(*options);
    ASSERT_TRUE(rules.ok()) << rules.status();
    file_ =
        std::make_unique<Blkdebug>(std::make_unique<MemoryFile>(*loop_, medium_), *std::move(rules),
                                   [this](const std::string& line) { said_.push_back(line); });
  }
  void Reach(DebugEvent event) { loop_->RunTask(file_->Reach(event)); }
  int WriteErrno(uint64_t offset) {
    std::array<uint8_t, 512> bytes = {};
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    return StatusErrno(loop_->RunTask(file_->Write(offset, IoVecs(&part, 1))));
  }
  int ReadErrno(uint64_t offset) {
    std::array<uint8_t, 512> bytes = {};
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    return StatusErrno(loop_->RunTask(file_->Read(offset, IoVecs(&part, 1))));
  }
  int SyncErrno() { return StatusErrno(loop_->RunTask(file_->Sync())); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  std::vector<std::string> said_;
  std::unique_ptr<Blkdebug> file_;
};

TEST_F(BlkdebugTest, FailsWhatFollowsAnEvent) {
  Open("[inject-error]\nevent = \"l2_load\"\nerrno = \"28\"\n");
  EXPECT_EQ(ReadErrno(0), 0);
  Reach(DebugEvent::kL2Update);
  EXPECT_EQ(ReadErrno(0), 0);
  Reach(DebugEvent::kL2Load);
  EXPECT_EQ(ReadErrno(0), ENOSPC);
  EXPECT_EQ(WriteErrno(0), ENOSPC);
  EXPECT_EQ(SyncErrno(), ENOSPC);
}

TEST_F(BlkdebugTest, OnceIsOnce) {
  Open("# comment\n[inject-error]\n  event = \"l2_load\"\n  once = \"on\"\n");
  Reach(DebugEvent::kL2Load);
  EXPECT_EQ(ReadErrno(0), EIO);
  EXPECT_EQ(ReadErrno(0), 0);
  Reach(DebugEvent::kL2Load);
  EXPECT_EQ(ReadErrno(0), 0);
}

TEST_F(BlkdebugTest, LimitsFaultsToKindsAndSectors) {
  Open(
      "[inject-error]\nevent = \"none\"\niotype = \"write\"\nsector = \"3\"\n"
      "[inject-error]\nevent = \"none\"\niotype = \"flush\"\nerrno = \"9\"\n");
  EXPECT_EQ(WriteErrno(1024), 0);
  EXPECT_EQ(WriteErrno(1536), EIO);
  EXPECT_EQ(ReadErrno(1536), 0);
  EXPECT_EQ(SyncErrno(), EBADF);
}

TEST_F(BlkdebugTest, StatesDecideWhichRulesCount) {
  Open(
      "[inject-error]\nstate = \"2\"\nevent = \"read_aio\"\n"
      "[set-state]\nstate = \"1\"\nevent = \"read_aio\"\nnew_state = \"2\"\n"
      "[set-state]\nstate = \"2\"\nevent = \"flush_to_disk\"\nnew_state = \"1\"\n");
  Reach(DebugEvent::kReadAio);  // State 1: to 2, no fault yet.
  EXPECT_EQ(ReadErrno(0), 0);
  Reach(DebugEvent::kReadAio);
  EXPECT_EQ(ReadErrno(0), EIO);
  Reach(DebugEvent::kFlushToDisk);
  Reach(DebugEvent::kFlushToDisk);
  EXPECT_EQ(ReadErrno(0), EIO);  // What was injected stays until an event injects anew.
}

TEST_F(BlkdebugTest, WritesAreEventsThemselves) {
  Open("[inject-error]\nevent = \"pwritev\"\n");
  EXPECT_EQ(ReadErrno(0), 0);
  EXPECT_EQ(WriteErrno(0), EIO);
}

Task<void> ReachAndNote(Blkdebug* file, DebugEvent event, bool* ended) {
  co_await file->Reach(event);
  *ended = true;
}

TEST_F(BlkdebugTest, HoldsRequestsUpUntilResumed) {
  Open("");
  file_->Break(DebugEvent::kCowWrite, "A");
  TaskScope scope(*loop_);
  bool first = false;
  bool second = false;
  scope.Spawn(ReachAndNote(file_.get(), DebugEvent::kCowWrite, &first));
  EXPECT_TRUE(file_->IsSuspended("A"));
  EXPECT_FALSE(file_->IsSuspended("B"));
  scope.Spawn(ReachAndNote(file_.get(), DebugEvent::kCowWrite, &second));
  EXPECT_TRUE(second) << "a breakpoint holds up one request";
  EXPECT_FALSE(file_->Resume("B"));
  EXPECT_TRUE(file_->Resume("A"));
  loop_->RunUntilIdle();
  EXPECT_TRUE(first);
  EXPECT_THAT(said_,
              ElementsAre("blkdebug: Suspended request 'A'", "blkdebug: Resuming request 'A'"));
  EXPECT_FALSE(file_->RemoveBreak("A"));
}

TEST_F(BlkdebugTest, RemovingABreakpointLetsItsRequestsGo) {
  Open("");
  file_->Break(DebugEvent::kCowRead, "A");
  file_->Break(DebugEvent::kCowWrite, "A");
  TaskScope scope(*loop_);
  bool held = false;
  bool free = false;
  scope.Spawn(ReachAndNote(file_.get(), DebugEvent::kCowRead, &held));
  EXPECT_TRUE(file_->RemoveBreak("A"));
  loop_->RunUntilIdle();
  EXPECT_TRUE(held);
  scope.Spawn(ReachAndNote(file_.get(), DebugEvent::kCowWrite, &free));
  EXPECT_TRUE(free);
}

TEST_F(BlkdebugTest, ClosingLetsEverythingGo) {
  Open("");
  file_->Break(DebugEvent::kCowRead, "A");
  TaskScope scope(*loop_);
  bool ended = false;
  scope.Spawn(ReachAndNote(file_.get(), DebugEvent::kCowRead, &ended));
  EXPECT_TRUE(loop_->RunTask(file_->Close()).ok());
  loop_->RunUntilIdle();
  EXPECT_TRUE(ended);
}

struct BadConfig {
  const char* name;
  const char* text;
  const char* message;
};

std::ostream& operator<<(std::ostream& out, const BadConfig& bad) { return out << bad.name; }

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefused) {
  absl::StatusOr<DriverOptions> options = Blkdebug::ReadConfig(GetParam().text);
  absl::Status status = options.status();
  if (options.ok()) status = Blkdebug::Rules(*options).status();
  EXPECT_EQ(status.message(), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Configs, BadConfigTest,
    testing::Values(BadConfig{"Group", "[foo]\n", "There is no option group 'foo'"},
                    BadConfig{"NoGroup", "event = \"none\"\n", "no group defined"},
                    BadConfig{"NoQuotes", "[set-state]\nevent = none\n", "parse error"},
                    BadConfig{"NoEvent", "[inject-error]\nerrno = \"5\"\n",
                              "Missing event name for rule in section inject-error"},
                    BadConfig{"BadEvent", "[set-state]\nevent = \"x\"\n",
                              "invalid parameter value: x"},
                    BadConfig{"BadKind", "[inject-error]\nevent = \"none\"\niotype = \"x\"\n",
                              "invalid parameter value: x"},
                    BadConfig{"BadErrno", "[inject-error]\nevent = \"none\"\nerrno = \"x\"\n",
                              "Parameter 'errno' expects a number"}),
    [](const testing::TestParamInfo<BadConfig>& info) { return info.param.name; });

TEST(DebugEventTest, NamesAreThoseOfQemu) {
  EXPECT_EQ(DebugEventFromName("l1_update"), DebugEvent::kL1Update);
  EXPECT_EQ(DebugEventFromName("cluster_alloc_space"), DebugEvent::kClusterAllocSpace);
  EXPECT_EQ(DebugEventFromName("empty_image_prepare"), DebugEvent::kEmptyImagePrepare);
  EXPECT_EQ(DebugEventFromName("none"), DebugEvent::kNone);
  EXPECT_EQ(DebugEventFromName("nothing"), std::nullopt);
}

}  // namespace
}  // namespace vireo
