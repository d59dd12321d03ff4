#include "storage/in_flight.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "base/async/event_loop.h"
#include "base/async/task_scope.h"

namespace vireo {
namespace {

TEST(InFlightTest, AMomentPassesWhenAllThatWereUnderWayHaveEnded) {
  InFlight list;
  EXPECT_TRUE(list.HasPassed(list.Now()));
  std::optional<InFlight::Operation> first(list);
  std::optional<InFlight::Operation> second(list);
  const uint64_t moment = list.Now();
  std::optional<InFlight::Operation> later(list);
  EXPECT_FALSE(list.HasPassed(moment));
  first.reset();
  EXPECT_FALSE(list.HasPassed(moment));
  second.reset();
  EXPECT_TRUE(list.HasPassed(moment));  // Whatever began since.
  EXPECT_FALSE(list.HasPassed(list.Now()));
  later.reset();
  EXPECT_TRUE(list.empty());
}

TEST(InFlightTest, OperationsEndInAnyOrder) {
  InFlight list;
  auto a = std::make_unique<InFlight::Operation>(list);
  auto b = std::make_unique<InFlight::Operation>(list);
  auto c = std::make_unique<InFlight::Operation>(list);
  b.reset();
  c.reset();
  EXPECT_FALSE(list.empty());
  a.reset();
  EXPECT_TRUE(list.empty());
}

Task<void> Drain(InFlight* list, bool* ended) {
  co_await list->Drain();
  *ended = true;
}
Task<void> WaitUntilPassed(InFlight* list, bool* ended) {
  co_await list->WaitUntilPassed(list->Now());
  *ended = true;
}
Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

TEST(InFlightTest, DrainWaitsForTheLast) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  EventLoop::CurrentScope current(*loop);
  InFlight list;
  TaskScope scope(*loop);
  bool ended = false;
  std::optional<InFlight::Operation> operation(list);
  scope.Spawn(Drain(&list, &ended));
  loop->RunUntilIdle();
  EXPECT_FALSE(ended);
  operation.reset();
  loop->RunTask(Join(&scope));
  EXPECT_TRUE(ended);
}

TEST(InFlightTest, WaitingForAMomentIsNotWaitingForWhatBeganSince) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  EventLoop::CurrentScope current(*loop);
  InFlight list;
  TaskScope scope(*loop);
  bool ended = false;
  std::optional<InFlight::Operation> first(list);
  std::optional<InFlight::Operation> second(list);
  scope.Spawn(WaitUntilPassed(&list, &ended));
  const InFlight::Operation later(list);
  first.reset();
  loop->RunUntilIdle();
  EXPECT_FALSE(ended);
  second.reset();
  loop->RunTask(Join(&scope));
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace vireo
