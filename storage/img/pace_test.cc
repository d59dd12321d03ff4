#include "storage/img/pace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"

namespace vireo::img {
namespace {

class PaceTest : public testing::Test {
 protected:
  // How long `workers` need that each ask for `times` pieces of 1,000 bytes.
  absl::Duration Take(uint64_t bytes_per_second, int workers, int times) {
    Pace pace(*loop_, bytes_per_second);
    TaskScope scope(*loop_);
    const absl::Time begin = absl::Now();
    for (int i = 0; i < workers; ++i) scope.Spawn(Ask(pace, times));
    loop_->RunTask(scope.Join());
    return absl::Now() - begin;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();

 private:
  static Task<void> Ask(Pace& pace, int times) {
    for (int i = 0; i < times; ++i) co_await pace.Admit(1000);
  }
};

TEST_F(PaceTest, WorkersShareTheRate) {
  // Twenty pieces at a hundred a second, the first of which is not held back.
  EXPECT_GE(Take(100'000, 4, 5), absl::Milliseconds(190));
}

TEST_F(PaceTest, WithoutARateNobodyIsHeldBack) {
  // A gigabyte: at a hundred kilobytes a second it would take hours.
  EXPECT_LT(Take(0, 1, 1'000'000), absl::Minutes(1));
}

TEST_F(PaceTest, WhatWasNotUsedIsNotSavedUp) {
  Pace pace(*loop_, 100'000);
  loop_->RunTask(pace.Admit(1000));
  ASSERT_TRUE(loop_->RunTask(loop_->SleepFor(absl::Milliseconds(100))).ok());
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 6; ++i) loop_->RunTask(pace.Admit(1000));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(50));
}

}  // namespace
}  // namespace vireo::img
