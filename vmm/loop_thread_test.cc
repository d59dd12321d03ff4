#include "vmm/loop_thread.h"

#include <thread>

#include "base/async/async_event.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

Task<absl::Status> NoteThread(std::thread::id* where) {
  *where = std::this_thread::get_id();
  co_return absl::OkStatus();
}

Task<absl::Status> WaitFor(AsyncEvent* event) {
  co_await event->Wait();
  co_return absl::AbortedError("it went on");
}

TEST(LoopThreadTest, WorkRunsOnTheOtherLoopAndItsStatusComesHome) {
  const std::unique_ptr<EventLoop> home = *EventLoop::Create();
  const std::unique_ptr<LoopThread> other = *LoopThread::Start("other");
  std::thread::id where;
  LoopThread::Work work = [&where] { return NoteThread(&where); };
  EXPECT_TRUE(home->RunTask(other->Call(*home, std::move(work))).ok());
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(LoopThreadTest, WorkThatEndsInTimeGivesItsStatus) {
  const std::unique_ptr<EventLoop> home = *EventLoop::Create();
  const std::unique_ptr<LoopThread> other = *LoopThread::Start("other");
  std::thread::id where;
  LoopThread::Work work = [&where] { return NoteThread(&where); };
  const std::optional<absl::Status> status =
      home->RunTask(other->CallWithin(*home, std::move(work), absl::Minutes(5)));
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(status->ok());
}

TEST(LoopThreadTest, WorkThatDoesNotEndIsLeftToItself) {
  const std::unique_ptr<EventLoop> home = *EventLoop::Create();
  const std::unique_ptr<LoopThread> other = *LoopThread::Start("other");
  AsyncEvent never;
  LoopThread::Work work = [&never] { return WaitFor(&never); };
  EXPECT_EQ(home->RunTask(other->CallWithin(*home, std::move(work), absl::Milliseconds(1))),
            std::nullopt);
  // Let it end before the loop goes.
  other->loop().Post([&never] { never.Set(); });
  std::thread::id where;
  LoopThread::Work last = [&where] { return NoteThread(&where); };
  EXPECT_TRUE(home->RunTask(other->Call(*home, std::move(last))).ok());
  home->RunUntilIdle();
}

}  // namespace
}  // namespace vireo
