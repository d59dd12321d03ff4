#include "storage/range_lock.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"

namespace vireo {
namespace {

class RangeLockTest : public testing::Test {
 protected:
  // Takes the range, notes `name`, and keeps it until `release`.
  Task<void> Hold(uint64_t first, uint64_t last, char name, AsyncEvent* release) {
    const RangeLock::Guard guard = co_await lock_.Lock(first, last);
    granted_ += name;
    co_await release->Wait();
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  RangeLock lock_;
  std::string granted_;
};

TEST_F(RangeLockTest, DisjointRangesAreHeldTogether) {
  EventLoop::CurrentScope current(*loop_);
  TaskScope scope(*loop_);
  AsyncEvent release;
  scope.Spawn(Hold(0, 4, 'a', &release));
  scope.Spawn(Hold(5, 5, 'b', &release));
  scope.Spawn(Hold(6, 100, 'c', &release));
  loop_->RunUntilIdle();
  EXPECT_EQ(granted_, "abc");
  release.Set();
  loop_->RunTask(Join(&scope));
}

TEST_F(RangeLockTest, OverlappingRangesTakeTurnsInOrder) {
  EventLoop::CurrentScope current(*loop_);
  TaskScope scope(*loop_);
  AsyncEvent first;
  AsyncEvent rest;
  scope.Spawn(Hold(0, 9, 'a', &first));
  scope.Spawn(Hold(5, 14, 'b', &rest));
  scope.Spawn(Hold(12, 20, 'c', &rest));  // Free itself, but b came first.
  scope.Spawn(Hold(30, 31, 'd', &rest));
  loop_->RunUntilIdle();
  EXPECT_EQ(granted_, "ad");
  first.Set();
  loop_->RunUntilIdle();
  EXPECT_EQ(granted_, "adb");
  rest.Set();
  loop_->RunTask(Join(&scope));
  EXPECT_EQ(granted_, "adbc");
}

TEST_F(RangeLockTest, AGuardReleasesOnce) {
  const auto lock = [this](uint64_t first, uint64_t last) {
    return loop_->RunTask(lock_.Lock(first, last));
  };
  RangeLock::Guard guard = lock(1, 1);
  RangeLock::Guard moved = std::move(guard);
  guard.Release();
  moved.Release();
  moved.Release();
  const RangeLock::Guard again = lock(0, 2);
}

}  // namespace
}  // namespace vireo
