#include "devices/clock.h"

#include <atomic>
#include <thread>

#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

// Real time, but nothing here depends on how much of it passes.
class ClockTest : public testing::Test {
 protected:
  // Runs the loop until `done`.
  Task<void> Until(const std::atomic<bool>& done) {
    while (!done) {
      (void)co_await loop_->SleepFor(absl::Milliseconds(1));
    }
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  HostClock clock_{*loop_};
};

TEST_F(ClockTest, TimeGoesForward) {
  const absl::Duration before = clock_.Monotonic();
  EXPECT_GE(clock_.Monotonic(), before);
  EXPECT_GT(clock_.Wall(), absl::FromUnixSeconds(1'600'000'000));
}

TEST_F(ClockTest, CallsBackOnceNotBeforeItsTime) {
  int calls = 0;
  std::atomic<bool> fired{false};
  absl::Duration at;
  const std::unique_ptr<Timer> timer = clock_.CreateTimer([&] {
    EXPECT_TRUE(loop_->IsCurrent());
    at = clock_.Monotonic();
    ++calls;
    fired = true;
  });
  const absl::Duration when = clock_.Monotonic() + absl::Milliseconds(5);
  timer->Arm(when);
  loop_->RunTask(Until(fired));
  EXPECT_GE(at, when);
  loop_->RunTask(timer->Stop());
  EXPECT_EQ(calls, 1);
}

TEST_F(ClockTest, AnEarlierTimeReplacesALaterOne) {
  std::atomic<bool> fired{false};
  const std::unique_ptr<Timer> timer = clock_.CreateTimer([&] { fired = true; });
  timer->Arm(clock_.Monotonic() + absl::Hours(1));
  loop_->RunUntilIdle();
  timer->Arm(clock_.Monotonic());
  loop_->RunTask(Until(fired));
  loop_->RunTask(timer->Stop());
}

TEST_F(ClockTest, TheCallbackMayArmAgain) {
  int calls = 0;
  std::atomic<bool> done{false};
  std::unique_ptr<Timer> timer;
  timer = clock_.CreateTimer([&] {
    if (++calls == 5) {
      done = true;
    } else {
      timer->Arm(clock_.Monotonic());
    }
  });
  timer->Arm(clock_.Monotonic());
  loop_->RunTask(Until(done));
  EXPECT_EQ(calls, 5);
  loop_->RunTask(timer->Stop());
}

TEST_F(ClockTest, CancelledAndStoppedTimersDoNotCall) {
  bool fired = false;
  const std::unique_ptr<Timer> timer = clock_.CreateTimer([&] { fired = true; });
  timer->Arm(clock_.Monotonic());
  timer->Cancel();
  loop_->RunUntilIdle();
  timer->Arm(clock_.Monotonic() + absl::Hours(1));
  loop_->RunUntilIdle();
  loop_->RunTask(timer->Stop());
  EXPECT_FALSE(fired);
}

TEST_F(ClockTest, ATimerMayGoWhileItsWakeUpIsPosted) {
  {
    const std::unique_ptr<Timer> timer = clock_.CreateTimer([] { FAIL(); });
    timer->Arm(clock_.Monotonic() + absl::Hours(1));
  }
  loop_->RunUntilIdle();
}

TEST_F(ClockTest, ArmedFromAnotherThreadWhileTheLoopRuns) {
  std::atomic<int> calls{0};
  const std::unique_ptr<Timer> timer = clock_.CreateTimer([&] { ++calls; });
  std::thread loop([&] { loop_->Run(); });
  for (int i = 1; i <= 100; ++i) {
    timer->Arm(clock_.Monotonic() + absl::Hours(1));
    if (i % 3 == 0) timer->Cancel();
    timer->Arm(clock_.Monotonic());
    while (calls < i) std::this_thread::yield();
  }
  loop_->RunOn([&] { return timer->Stop(); });
  loop_->Stop();
  loop.join();
  EXPECT_EQ(calls, 100);
}

}  // namespace
}  // namespace vireo
