#include "api/lazy_event_engine.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

namespace vireo::api {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(LazyEventEngineTest, RunsATask) {
  LazyEventEngine engine;
  std::promise<bool> on_worker;
  engine.Run([&] { on_worker.set_value(engine.IsWorkerThread()); });
  EXPECT_TRUE(on_worker.get_future().get());
  EXPECT_FALSE(engine.IsWorkerThread());
}

TEST(LazyEventEngineTest, RunsAClosureAndLeavesItItsOwner) {
  struct Closure final : LazyEventEngine::Closure {
    void Run() override { ran.set_value(); }
    std::promise<void> ran;
  };
  LazyEventEngine engine;
  Closure closure;
  engine.Run(&closure);
  closure.ran.get_future().get();
}

TEST(LazyEventEngineTest, RunsTasksInTheOrderInWhichTheyAreDue) {
  LazyEventEngine engine;
  std::promise<void> started, go, over;
  engine.Run([&] {  // Holds the thread until all others are there.
    started.set_value();
    go.get_future().get();
  });
  started.get_future().get();
  std::string order;
  engine.RunAfter(milliseconds(2), [&] {
    order += "c";
    over.set_value();
  });
  engine.RunAfter(milliseconds(1), [&] { order += "b"; });
  engine.Run([&] { order += "a"; });
  go.set_value();
  over.get_future().get();
  EXPECT_EQ(order, "abc");
}

TEST(LazyEventEngineTest, AnEarlierTaskOvertakesOneThatIsWaitedFor) {
  LazyEventEngine engine;
  engine.RunAfter(hours(1), [] { FAIL(); });
  engine.RunAfter(LazyEventEngine::Duration::max(), [] { FAIL(); });
  std::promise<void> ran;
  engine.RunAfter(milliseconds(1), [&] { ran.set_value(); });
  ran.get_future().get();
}

TEST(LazyEventEngineTest, ACancelledTaskIsGoneAtOnce) {
  LazyEventEngine engine;
  const auto held = std::make_shared<int>();
  const auto handle = engine.RunAfter(hours(1), [held] { FAIL(); });
  EXPECT_EQ(held.use_count(), 2);
  EXPECT_TRUE(engine.Cancel(handle));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(engine.Cancel(handle));
}

TEST(LazyEventEngineTest, ATaskThatHasRunCannotBeCancelled) {
  LazyEventEngine engine;
  std::promise<void> ran;
  const auto handle = engine.RunAfter(milliseconds(0), [&] { ran.set_value(); });
  ran.get_future().get();
  EXPECT_FALSE(engine.Cancel(handle));
}

TEST(LazyEventEngineTest, ATaskMayHoldTheLastReference) {
  auto engine = std::make_shared<LazyEventEngine>();
  std::promise<void> go, over;
  std::weak_ptr<LazyEventEngine> weak = engine;
  LazyEventEngine& raw = *engine;
  raw.Run([held = std::move(engine), &go, &over]() mutable {
    go.get_future().get();
    held.reset();
    over.set_value();
  });
  go.set_value();
  over.get_future().get();
  EXPECT_TRUE(weak.expired());
}

TEST(LazyEventEngineTest, HasNoSockets) {
  LazyEventEngine engine;
  EXPECT_EQ(engine.GetDNSResolver({}), nullptr);
  EXPECT_FALSE(engine.CancelConnect({{0, 0}}));
}

}  // namespace
}  // namespace vireo::api
