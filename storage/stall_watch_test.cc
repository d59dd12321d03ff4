#include "storage/stall_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/async/async_event.h"
#include "base/async/task_scope.h"
#include "tests/support/memory_backend.h"

namespace vireo {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(4);

class StallWatchTest : public testing::Test {
 protected:
  void Watch(absl::Duration limit) {
    auto memory = std::make_unique<MemoryBackend>(MemoryBackend::Options{});
    memory_ = memory.get();
    disk_ = std::make_unique<StallWatch>(*loop_, std::move(memory),
                                         StallWatch::Options{.limit = limit,
                                                             .on_stall =
                                                                 [this](const Stall& stall) {
                                                                   stalls_.push_back(stall);
                                                                   stalled_.Set();
                                                                 },
                                                             .on_answer = [this] { ++answers_; }});
  }
  ~StallWatchTest() override {
    if (disk_ == nullptr) return;
    EXPECT_TRUE(loop_->RunTask(disk_->Close()).ok());
  }
  Task<void> WriteAt(uint64_t offset) {
    const std::vector<uint8_t> bytes(512, 1);
    const iovec part = {const_cast<uint8_t*>(bytes.data()), bytes.size()};
    const IoVecs src(&part, 1);
    const absl::Status status = co_await disk_->Write(offset, src);
    EXPECT_TRUE(status.ok()) << status;
  }
  Task<void> Flush() {
    const absl::Status status = co_await disk_->Flush();
    EXPECT_TRUE(status.ok()) << status;
  }
  void WaitForStall() {
    loop_->RunTask(stalled_.Wait());
    stalled_.Reset();
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryBackend* memory_ = nullptr;  // Inside disk_.
  std::unique_ptr<StallWatch> disk_;
  std::vector<Stall> stalls_;
  int answers_ = 0;
  AsyncEvent stalled_;
};

TEST_F(StallWatchTest, TellsOfTheOldestRequestOnceAndOfTheAnswer) {
  Watch(kShort);
  memory_->Hold();
  TaskScope scope(*loop_);
  scope.Spawn(WriteAt(4096));
  scope.Spawn(WriteAt(0));
  WaitForStall();
  ASSERT_EQ(stalls_.size(), 1u);
  EXPECT_TRUE(stalls_[0].write);
  EXPECT_EQ(stalls_[0].offset, 4096u);
  EXPECT_EQ(answers_, 0);
  memory_->Release();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(answers_, 1);
  EXPECT_EQ(stalls_.size(), 1u) << "one stall, whoever else waits";

  memory_->Hold();
  scope.Spawn(Flush());
  WaitForStall();
  memory_->Release();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(stalls_.size(), 2u) << "the next stall is another one";
  EXPECT_EQ(answers_, 2);
}

TEST_F(StallWatchTest, SaysNothingOfDisksThatAnswer) {
  Watch(absl::Hours(1));
  for (int i = 0; i < 100; ++i) loop_->RunTask(WriteAt(0));
  EXPECT_TRUE(loop_->RunTask(disk_->Close()).ok()) << "at once, with an hour to go";
  disk_.reset();
  EXPECT_THAT(stalls_, testing::IsEmpty());
  EXPECT_EQ(answers_, 0);
}

// One request after the other, each of its own, for much longer than the limit.
TEST_F(StallWatchTest, ABusyDiskIsNotAStalledOne) {
  Watch(kShort);
  const absl::Time end = absl::Now() + 20 * kShort;
  while (absl::Now() < end) loop_->RunTask(WriteAt(512));
  EXPECT_THAT(stalls_, testing::IsEmpty());
}

TEST_F(StallWatchTest, AnIdleDiskHasNoTimer) {
  Watch(kShort);
  loop_->RunTask(WriteAt(0));
  loop_->RunUntilIdle();
  const absl::Status slept = loop_->RunTask(loop_->SleepFor(2 * kShort));
  ASSERT_TRUE(slept.ok()) << slept;
  EXPECT_FALSE(disk_->watching()) << "a round without a request is the last";
  memory_->Hold();
  TaskScope scope(*loop_);
  scope.Spawn(WriteAt(0));
  WaitForStall();  // It starts again.
  memory_->Release();
  loop_->RunTask(scope.Join());
}

}  // namespace
}  // namespace vireo
