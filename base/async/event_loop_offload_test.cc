// What an event loop hands to other threads.

#include <poll.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "base/event_fd.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

struct Setup {
  const char* name;
  EventLoop::Options options;
};

class EventLoopOffloadTest : public testing::TestWithParam<Setup> {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create(GetParam().options);
};

struct Square {
  int value;
  std::thread::id* ran_on;
  std::unique_ptr<int> operator()() const {
    *ran_on = std::this_thread::get_id();
    return std::make_unique<int>(value * value);
  }
};

TEST_P(EventLoopOffloadTest, OffloadRunsElsewhereAndAnswersHere) {
  std::thread::id ran_on;
  const std::unique_ptr<int> result = loop_->RunTask(loop_->Offload(Square{12, &ran_on}));
  EXPECT_EQ(*result, 144);
  EXPECT_NE(ran_on, std::this_thread::get_id());
}

Task<void> AddOffloaded(EventLoop* loop, int value, int* sum) {
  std::thread::id ran_on;
  const std::unique_ptr<int> squared = co_await loop->Offload(Square{value, &ran_on});
  *sum += *squared;
}

TEST_P(EventLoopOffloadTest, ManyOffloadedCallsAllReturn) {
  int sum = 0;
  TaskScope scope(*loop_);
  for (int i = 0; i < 200; ++i) scope.Spawn(AddOffloaded(loop_.get(), 2, &sum));
  loop_->RunUntilIdle();
  EXPECT_EQ(scope.size(), 0u);
  EXPECT_EQ(sum, 800);
}

struct WaitForRelease {
  const EventFd* release;
  void operator()() const {
    pollfd poll_fd = {.fd = release->fd(), .events = POLLIN, .revents = 0};
    while (::poll(&poll_fd, 1, -1) != 1) {
    }
  }
};

Task<void> Block(EventLoop* loop, const EventFd* release, int* returned) {
  co_await loop->OffloadBlocking(WaitForRelease{release});
  ++*returned;
}

TEST_P(EventLoopOffloadTest, BlockedCallsHoldUpNeitherEachOtherNorThePool) {
  const EventFd release = *EventFd::Create();
  int returned = 0;
  TaskScope scope(*loop_);
  for (int i = 0; i < 10; ++i) scope.Spawn(Block(loop_.get(), &release, &returned));
  std::thread::id ran_on;
  EXPECT_EQ(*loop_->RunTask(loop_->Offload(Square{3, &ran_on})), 9);
  EXPECT_EQ(returned, 0);
  release.Signal();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(returned, 10);
}

INSTANTIATE_TEST_SUITE_P(
    Rings, EventLoopOffloadTest,
    testing::Values(Setup{"Newest", {}}, Setup{"Plain", {.force_plain_ring = true}},
                    Setup{"BlockingFiles", {.offload_threads = 2, .force_blocking_files = true}}),
    [](const auto& info) { return info.param.name; });

// --- On the loop itself ---

struct Note {
  int which;
  std::vector<int>* order;
  std::thread::id* ran_on;
  void operator()() const {
    order->push_back(which);
    *ran_on = std::this_thread::get_id();
  }
};

Task<void> OffloadNote(EventLoop* loop, Note note) { co_await loop->Offload(note); }

std::vector<int> OrderOf(uint32_t seed) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create({.offload_seed = seed});
  std::vector<int> order;
  std::thread::id ran_on;
  TaskScope scope(*loop);
  for (int i = 0; i < 20; ++i) {
    const Note note = {i, &order, &ran_on};
    scope.Spawn(OffloadNote(loop.get(), note));
  }
  EXPECT_TRUE(order.empty());  // None at once.
  loop->RunUntilIdle();
  EXPECT_EQ(ran_on, std::this_thread::get_id());
  return order;
}

TEST(EventLoopOffloadSeedTest, SaysTheOrderOfOffloadedCalls) {
  const std::vector<int> order = OrderOf(1);
  EXPECT_EQ(order.size(), 20u);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(OrderOf(1), order);
  EXPECT_NE(OrderOf(2), order);
}

}  // namespace
}  // namespace vireo
