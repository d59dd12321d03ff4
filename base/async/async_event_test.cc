#include "base/async/async_event.h"

#include <memory>
#include <vector>

#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

class AsyncEventTest : public testing::Test {
 protected:
  AsyncEventTest() : loop_(*EventLoop::Create()), scope_(*loop_) {}

  Task<void> WaitAndLog(AsyncEvent* event, int name) {
    co_await event->Wait();
    log_.push_back(name);
  }
  Task<void> WaitOrStop(AsyncEvent* event, StopToken stop, absl::Status* result) {
    *result = co_await event->Wait(stop);
  }

  std::unique_ptr<EventLoop> loop_;
  TaskScope scope_;
  std::vector<int> log_;
};

TEST_F(AsyncEventTest, WakesAllWhoWaitInOrder) {
  AsyncEvent event;
  scope_.Spawn(WaitAndLog(&event, 1));
  scope_.Spawn(WaitAndLog(&event, 2));
  loop_->RunUntilIdle();
  EXPECT_TRUE(log_.empty());
  event.Set();
  EXPECT_TRUE(log_.empty());  // By the loop, not by the caller.
  loop_->RunUntilIdle();
  EXPECT_EQ(log_, (std::vector<int>{1, 2}));
}

TEST_F(AsyncEventTest, WhileSetNobodyWaits) {
  AsyncEvent event;
  event.Set();
  EXPECT_TRUE(event.is_set());
  scope_.Spawn(WaitAndLog(&event, 1));
  EXPECT_EQ(log_, (std::vector<int>{1}));
  event.Reset();
  scope_.Spawn(WaitAndLog(&event, 2));
  loop_->RunUntilIdle();
  EXPECT_EQ(log_, (std::vector<int>{1}));
  event.Set();
  loop_->RunUntilIdle();
}

TEST_F(AsyncEventTest, ASetThatIsResetAtOnceStillWakes) {
  AsyncEvent event;
  scope_.Spawn(WaitAndLog(&event, 1));
  event.Set();
  event.Reset();
  loop_->RunUntilIdle();
  EXPECT_EQ(log_, (std::vector<int>{1}));
}

TEST_F(AsyncEventTest, AStopEndsTheWait) {
  AsyncEvent event;
  StopSource stop;
  absl::Status result;
  scope_.Spawn(WaitOrStop(&event, stop.token(), &result));
  stop.RequestStop();
  loop_->RunUntilIdle();
  EXPECT_EQ(result.code(), absl::StatusCode::kCancelled);
  result = absl::OkStatus();
  scope_.Spawn(WaitOrStop(&event, stop.token(), &result));
  EXPECT_EQ(result.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(scope_.size(), 0u);
}

TEST_F(AsyncEventTest, ASetBeatsALaterStop) {
  AsyncEvent event;
  StopSource stop;
  absl::Status result = absl::UnknownError("");
  scope_.Spawn(WaitOrStop(&event, stop.token(), &result));
  event.Set();
  stop.RequestStop();
  loop_->RunUntilIdle();
  EXPECT_TRUE(result.ok()) << result;
}

}  // namespace
}  // namespace vireo
