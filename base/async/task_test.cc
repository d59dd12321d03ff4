// Task without a loop: this test plays the loop's part.

#include "base/async/task.h"

#include <coroutine>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using async_internal::ResumeFromLoop;
using async_internal::RootSet;

// A place where a coroutine waits until the test lets it go.
class Gate {
 public:
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) { waiter_ = waiter; }
  void await_resume() const noexcept {}
  bool waiting() const { return static_cast<bool>(waiter_); }
  void Open() { ResumeFromLoop(std::exchange(waiter_, nullptr)); }

 private:
  std::coroutine_handle<> waiter_;
};

Task<int> Value(int value) { co_return value; }

Task<int> ValueBehind(Gate* gate, int value) {
  co_await *gate;
  co_return value;
}

Task<void> Store(Task<int> task, int* result) { *result = co_await std::move(task); }

TEST(TaskTest, IsLazy) {
  int result = 0;
  { const Task<void> never_started = Store(Value(1), &result); }
  EXPECT_EQ(result, 0);
}

TEST(TaskTest, AChildThatEndsAtOnceDoesNotSuspendItsParent) {
  RootSet roots(nullptr);
  int result = 0;
  roots.Start(Store(Value(7), &result));
  EXPECT_EQ(result, 7);
  EXPECT_EQ(roots.size(), 0u);
}

TEST(TaskTest, AParentGoesOnWhenItsChildEnds) {
  RootSet roots(nullptr);
  Gate gate;
  int result = 0;
  roots.Start(Store(ValueBehind(&gate, 8), &result));
  EXPECT_EQ(roots.size(), 1u);
  EXPECT_EQ(result, 0);
  gate.Open();
  EXPECT_EQ(result, 8);
  EXPECT_EQ(roots.size(), 0u);
}

Task<int> SumOfMany(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    const int one = co_await Value(1);
    sum += one;
  }
  co_return sum;
}

TEST(TaskTest, LongLoopsOverReadyWorkDoNotDeepenTheStack) {
  RootSet roots(nullptr);
  int result = 0;
  roots.Start(Store(SumOfMany(300000), &result));
  EXPECT_EQ(result, 300000);
}

Task<int> SumBehindGates(Gate* gate, int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    const int one = co_await ValueBehind(gate, 1);
    sum += one;
  }
  co_return sum;
}

TEST(TaskTest, LongLoopsOverSuspendedWorkDoNotDeepenTheStack) {
  RootSet roots(nullptr);
  Gate gate;
  int result = 0;
  roots.Start(Store(SumBehindGates(&gate, 100000), &result));
  while (gate.waiting()) gate.Open();
  EXPECT_EQ(result, 100000);
}

// A stack of `depth` tasks, each of which ends with the one below.
Task<int> Chain(Gate* gate, int depth) {
  if (depth == 0) {
    co_await *gate;
    co_return 0;
  }
  const int below = co_await Chain(gate, depth - 1);
  co_return below + 1;
}

TEST(TaskTest, ParentsAreResumedOneAfterTheOther) {
  RootSet roots(nullptr);
  Gate gate;
  int result = 0;
  roots.Start(Store(Chain(&gate, 1000), &result));
  gate.Open();
  EXPECT_EQ(result, 1000);
}

Task<std::unique_ptr<int>> MakeInt(int value) { co_return std::make_unique<int>(value); }
Task<void> StoreInt(std::unique_ptr<int>* result) { *result = co_await MakeInt(3); }

TEST(TaskTest, ResultsMayBeMoveOnly) {
  RootSet roots(nullptr);
  std::unique_ptr<int> result;
  roots.Start(StoreInt(&result));
  ASSERT_NE(result, nullptr);
  EXPECT_EQ(*result, 3);
}

Task<absl::StatusOr<std::string>> Fetch(bool ok) {
  if (!ok) co_return absl::NotFoundError("gone");
  co_return "text";
}

Task<absl::StatusOr<size_t>> FetchLength(bool ok) {
  CO_RETURN_IF_ERROR(absl::OkStatus());
  CO_ASSIGN_OR_RETURN(const std::string text, co_await Fetch(ok));
  co_return text.size();
}

Task<void> StoreLength(bool ok, absl::StatusOr<size_t>* result) {
  *result = co_await FetchLength(ok);
}

TEST(TaskTest, TheCoMacrosLeaveWithTheErrorOrGoOn) {
  RootSet roots(nullptr);
  absl::StatusOr<size_t> result = absl::UnknownError("");
  roots.Start(StoreLength(true, &result));
  EXPECT_EQ(*result, 4u);
  roots.Start(StoreLength(false, &result));
  EXPECT_EQ(result.status(), absl::NotFoundError("gone"));
}

struct Witness {
  explicit Witness(std::vector<std::string>* log, std::string name)
      : log(log), name(std::move(name)) {}
  ~Witness() { log->push_back(name); }
  std::vector<std::string>* log;
  std::string name;
};

Task<void> Inner(Gate* gate, std::vector<std::string>* log) {
  Witness witness(log, "inner");
  co_await *gate;
}
Task<void> Outer(Gate* gate, std::vector<std::string>* log) {
  Witness witness(log, "outer");
  co_await Inner(gate, log);
  log->push_back("after");
}

TEST(TaskTest, LocalsDieWhenTheirTaskEnds) {
  RootSet roots(nullptr);
  Gate gate;
  std::vector<std::string> log;
  roots.Start(Outer(&gate, &log));
  EXPECT_TRUE(log.empty());
  gate.Open();
  EXPECT_EQ(log, (std::vector<std::string>{"inner", "after", "outer"}));
}

class Listener final : public RootSet::Listener {
 public:
  void OnRootSetEmpty() override { ++emptied; }
  int emptied = 0;
};

TEST(RootSetTest, TellsWhenTheLastSuspendedOneEnds) {
  Listener listener;
  RootSet roots(&listener);
  Gate one;
  Gate two;
  int result = 0;
  roots.Start(Store(ValueBehind(&one, 1), &result));
  roots.Start(Store(ValueBehind(&two, 1), &result));
  one.Open();
  EXPECT_EQ(listener.emptied, 0);
  two.Open();
  EXPECT_EQ(listener.emptied, 1);
}

void DestroySuspended() {
  Gate gate;
  auto task = std::make_unique<Task<int>>(ValueBehind(&gate, 1));
  async_internal::TaskAwaiter<int> awaiter = std::move(*task).operator co_await();
  if (!awaiter.await_ready()) task.reset();
}

TEST(TaskDeathTest, DestroyingASuspendedTaskIsOurBug) {
  EXPECT_DEATH(DestroySuspended(), "stopped and joined, never destroyed");
}

Task<int> Throws() {
  throw 1;
  co_return 0;
}

void RunThrowing() {
  RootSet roots(nullptr);
  int result = 0;
  roots.Start(Store(Throws(), &result));
}

TEST(TaskDeathTest, AnExceptionAborts) {
  EXPECT_DEATH(RunThrowing(), "an exception reached a coroutine");
}

}  // namespace
}  // namespace vireo
