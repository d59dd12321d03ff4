#include "base/async/task_scope.h"

#include <memory>

#include "base/async/event_loop.h"
#include "base/event_fd.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

class TaskScopeTest : public testing::Test {
 protected:
  TaskScopeTest() : loop_(*EventLoop::Create()), event_(*EventFd::Create()) {}

  Task<void> WaitFor(const EventFd* event, StopToken stop) {
    const absl::StatusOr<uint64_t> waited = co_await loop_->Wait(*event, stop);
    ++ended_;
    last_ = waited.status();
  }
  Task<void> JoinAndCount(TaskScope* scope) {
    co_await scope->Join();
    ++joined_;
  }
  Task<void> SpawnMore(TaskScope* scope, int count) {
    co_await loop_->Yield();
    if (count > 0) scope->Spawn(SpawnMore(scope, count - 1));
    ++ended_;
  }

  std::unique_ptr<EventLoop> loop_;
  EventFd event_;
  int ended_ = 0;
  int joined_ = 0;
  absl::Status last_;
};

TEST_F(TaskScopeTest, JoinWaitsForEveryTask) {
  TaskScope scope(*loop_);
  scope.Spawn(WaitFor(&event_, scope.stop_token()));
  EXPECT_EQ(scope.size(), 1u);
  TaskScope joiners(*loop_);
  joiners.Spawn(JoinAndCount(&scope));
  joiners.Spawn(JoinAndCount(&scope));
  loop_->RunUntilIdle();
  EXPECT_EQ(joined_, 0);
  event_.Signal();
  loop_->RunUntilIdle();
  EXPECT_EQ(ended_, 1);
  EXPECT_EQ(joined_, 2);
  EXPECT_EQ(scope.size(), 0u);
}

TEST_F(TaskScopeTest, JoinOfNothingEndsAtOnce) {
  TaskScope scope(*loop_);
  TaskScope joiners(*loop_);
  joiners.Spawn(JoinAndCount(&scope));
  EXPECT_EQ(joined_, 1);
}

TEST_F(TaskScopeTest, AStopReachesEveryOperation) {
  TaskScope scope(*loop_);
  for (int i = 0; i < 5; ++i) scope.Spawn(WaitFor(&event_, scope.stop_token()));
  loop_->RunUntilIdle();
  EXPECT_EQ(ended_, 0);
  scope.RequestStop();
  EXPECT_TRUE(scope.stop_requested());
  loop_->RunTask(scope.Join());
  EXPECT_EQ(ended_, 5);
  EXPECT_EQ(last_.code(), absl::StatusCode::kCancelled);
}

TEST_F(TaskScopeTest, TasksMaySpawnIntoTheirOwnScope) {
  TaskScope scope(*loop_);
  scope.Spawn(SpawnMore(&scope, 100));
  loop_->RunTask(scope.Join());
  EXPECT_EQ(ended_, 101);
}

TEST_F(TaskScopeTest, ARearmedScopeServesAgain) {
  TaskScope scope(*loop_);
  scope.Spawn(WaitFor(&event_, scope.stop_token()));
  scope.RequestStop();
  loop_->RunTask(scope.Join());
  scope.Rearm();
  EXPECT_FALSE(scope.stop_requested());
  scope.Spawn(WaitFor(&event_, scope.stop_token()));
  event_.Signal();
  loop_->RunTask(scope.Join());
  EXPECT_TRUE(last_.ok()) << last_;
}

TEST_F(TaskScopeTest, TasksThatEndAtOnceLeaveNoTrace) {
  TaskScope scope(*loop_);
  scope.RequestStop();
  scope.Spawn(WaitFor(&event_, scope.stop_token()));
  EXPECT_EQ(scope.size(), 0u);
  EXPECT_EQ(last_.code(), absl::StatusCode::kCancelled);
}

TEST_F(TaskScopeTest, DyingWithTasksIsOurBug) {
  EXPECT_DEATH(
      {
        TaskScope scope(*loop_);
        scope.Spawn(WaitFor(&event_, scope.stop_token()));
      },
      "stopped and joined before their owner dies");
}

}  // namespace
}  // namespace vireo
