#include "base/async/async_mutex.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

class AsyncMutexTest : public testing::Test {
 protected:
  AsyncMutexTest() : loop_(*EventLoop::Create()), scope_(*loop_) {}

  Task<void> HoldUntil(AsyncMutex* mutex, AsyncEvent* event, std::string name) {
    AsyncMutex::Guard guard = co_await mutex->Lock();
    log_.push_back("+" + name);
    co_await event->Wait();
    log_.push_back("-" + name);
  }
  Task<void> Count(AsyncMutex* mutex, int* count) {
    for (int i = 0; i < 100; ++i) {
      AsyncMutex::Guard guard = co_await mutex->Lock();
      const int before = *count;
      co_await loop_->Yield();
      *count = before + 1;
    }
  }
  Task<void> LockAndMove(AsyncMutex* mutex, AsyncMutex::Guard* out) {
    AsyncMutex::Guard guard = co_await mutex->Lock();
    *out = std::move(guard);
  }

  std::unique_ptr<EventLoop> loop_;
  TaskScope scope_;
  std::vector<std::string> log_;
};

TEST_F(AsyncMutexTest, IsFirstComeFirstServed) {
  AsyncMutex mutex;
  AsyncEvent go;
  for (const std::string name : {"a", "b", "c"}) scope_.Spawn(HoldUntil(&mutex, &go, name));
  loop_->RunUntilIdle();
  EXPECT_EQ(log_, (std::vector<std::string>{"+a"}));
  EXPECT_TRUE(mutex.locked());
  go.Set();
  loop_->RunUntilIdle();
  EXPECT_EQ(log_, (std::vector<std::string>{"+a", "-a", "+b", "-b", "+c", "-c"}));
  EXPECT_FALSE(mutex.locked());
}

TEST_F(AsyncMutexTest, ExcludesOthersAcrossSuspensions) {
  AsyncMutex mutex;
  int count = 0;
  for (int i = 0; i < 10; ++i) scope_.Spawn(Count(&mutex, &count));
  loop_->RunTask(scope_.Join());
  EXPECT_EQ(count, 1000);
}

TEST_F(AsyncMutexTest, NobodyOvertakesTheOneWhoWasWoken) {
  AsyncMutex mutex;
  AsyncEvent first_may_end;
  AsyncEvent never_waits;
  never_waits.Set();
  scope_.Spawn(HoldUntil(&mutex, &first_may_end, "a"));
  scope_.Spawn(HoldUntil(&mutex, &never_waits, "b"));
  AsyncMutex::Guard guard;
  first_may_end.Set();
  // Asks after "a" has been told to go on and before "b" has run.
  scope_.Spawn(HoldUntil(&mutex, &never_waits, "c"));
  loop_->RunUntilIdle();
  EXPECT_EQ(log_, (std::vector<std::string>{"+a", "-a", "+b", "-b", "+c", "-c"}));
}

TEST_F(AsyncMutexTest, AGuardMovesAndReleasesOnce) {
  AsyncMutex mutex;
  AsyncMutex::Guard guard;
  scope_.Spawn(LockAndMove(&mutex, &guard));
  EXPECT_TRUE(guard.held());
  EXPECT_TRUE(mutex.locked());
  guard.Release();
  EXPECT_FALSE(guard.held());
  EXPECT_FALSE(mutex.locked());
  guard.Release();
  EXPECT_FALSE(mutex.locked());
}

}  // namespace
}  // namespace vireo
