#include "api/operation_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "absl/strings/str_cat.h"

namespace vireo::api {
namespace {

using testing::ElementsAre;

// Starts operations that end when the test says so, and keeps what the callers were told.
struct Caller {
  OperationLog log;
  int started = 0;
  std::vector<OperationLog::Done> running;
  std::vector<absl::Status> told;

  void Run(const std::string& id, const std::string& request) {
    log.Run(
        id, request,
        [this](OperationLog::Done done) {
          ++started;
          running.push_back(std::move(done));
        },
        [this](absl::Status status) { told.push_back(status); });
  }
  void End(size_t index, absl::Status status) { running[index](std::move(status)); }
};

TEST(OperationLog, WithoutIdEveryCallIsNew) {
  Caller caller;
  caller.Run("", "reset");
  caller.Run("", "reset");
  EXPECT_EQ(caller.started, 2);
}

TEST(OperationLog, RepeatWaitsForTheRunningOne) {
  Caller caller;
  caller.Run("a", "reset");
  caller.Run("a", "reset");
  EXPECT_EQ(caller.started, 1);
  EXPECT_TRUE(caller.told.empty());
  caller.End(0, absl::OkStatus());
  EXPECT_THAT(caller.told, ElementsAre(absl::OkStatus(), absl::OkStatus()));
}

TEST(OperationLog, RepeatOfASuccessIsToldAtOnce) {
  Caller caller;
  caller.Run("a", "reset");
  caller.End(0, absl::OkStatus());
  caller.Run("a", "reset");
  EXPECT_EQ(caller.started, 1);
  EXPECT_THAT(caller.told, ElementsAre(absl::OkStatus(), absl::OkStatus()));
}

TEST(OperationLog, RepeatOfAFailureTriesAgain) {
  Caller caller;
  caller.Run("a", "boot");
  caller.End(0, absl::NotFoundError("kernel"));
  caller.Run("a", "boot");
  caller.End(1, absl::OkStatus());
  EXPECT_THAT(caller.told, ElementsAre(absl::NotFoundError("kernel"), absl::OkStatus()));
}

TEST(OperationLog, IdOfAnotherRequestIsRefused) {
  Caller caller;
  caller.Run("a", "pause");
  caller.Run("a", "stop");
  EXPECT_EQ(caller.started, 1);
  ASSERT_EQ(caller.told.size(), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(caller.told[0])) << caller.told[0];
}

TEST(OperationLog, LongIdIsRefused) {
  Caller caller;
  caller.Run(std::string(OperationLog::kMaxIdBytes + 1, 'x'), "stop");
  EXPECT_EQ(caller.started, 0);
  ASSERT_EQ(caller.told.size(), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(caller.told[0])) << caller.told[0];
}

TEST(OperationLog, ForgetsTheOldestSuccessOnly) {
  Caller caller;
  for (size_t i = 0; i <= OperationLog::kRemembered; ++i) {
    caller.Run(absl::StrCat(i), "reset");
    caller.End(i, absl::OkStatus());
  }
  const int before = caller.started;
  caller.Run("1", "reset");
  EXPECT_EQ(caller.started, before);
  caller.Run("0", "reset");
  EXPECT_EQ(caller.started, before + 1);
}

TEST(OperationLog, DoneMayStartTheNextOperation) {
  OperationLog log;
  std::optional<absl::Status> second;
  const auto succeed = [](OperationLog::Done done) { done(absl::OkStatus()); };
  log.Run("a", "pause", succeed, [&](absl::Status) {
    log.Run("b", "resume", succeed, [&](absl::Status status) { second = status; });
  });
  EXPECT_EQ(second, absl::OkStatus());
}

}  // namespace
}  // namespace vireo::api
