#include "storage/throttled_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/async/task_scope.h"
#include "tests/support/memory_backend.h"

namespace vireo {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(1);

// Time that the test moves.
class FakeThrottleClock final : public ThrottleClock {
 public:
  struct Time {
    absl::Duration now = absl::ZeroDuration();
    std::vector<FakeThrottleClock*> clocks;
  };
  explicit FakeThrottleClock(Time& time) : time_(time) { time.clocks.push_back(this); }
  ~FakeThrottleClock() override { std::erase(time_.clocks, this); }

  absl::Duration Now() const override { return time_.now; }
  Task<void> Sleep(absl::Duration duration, StopToken stop) override {
    until_ = time_.now + duration;
    due_.Reset();
    const absl::Status woken = co_await due_.Wait(stop);
    static_cast<void>(woken);
  }
  void Look() {
    if (until_ <= time_.now) due_.Set();
  }

 private:
  Time& time_;
  absl::Duration until_ = absl::InfiniteDuration();
  AsyncEvent due_;
};

class ThrottledBackendTest : public testing::Test {
 protected:
  std::unique_ptr<ThrottledBackend> Disk(std::shared_ptr<ThrottleGroup> group) {
    return std::make_unique<ThrottledBackend>(
        *loop_, std::make_unique<MemoryBackend>(MemoryBackend::Options{}), std::move(group),
        std::make_unique<FakeThrottleClock>(time_));
  }
  void Advance(absl::Duration duration) {
    for (const absl::Duration end = time_.now + duration; time_.now < end;) {
      time_.now += kTick;
      for (FakeThrottleClock* const clock : time_.clocks) clock->Look();
      loop_->RunUntilIdle();
    }
  }
  // Reads of `bytes` without a pause until `stop`.
  static Task<void> ReadAlways(BlockBackend& disk, size_t bytes, const bool* stop,
                               uint64_t* count) {
    std::vector<uint8_t> buffer(bytes);
    const iovec part = ToIoVec(std::span<uint8_t>(buffer));
    while (!*stop) {
      const absl::Status status = co_await disk.Read(0, IoVecs(&part, 1));
      EXPECT_TRUE(status.ok()) << status;
      ++*count;
    }
  }
  static Task<void> WriteOnce(BlockBackend& disk, absl::Status* result) {
    std::vector<uint8_t> buffer(512);
    const iovec part = ToIoVec(std::span<uint8_t>(buffer));
    *result = co_await disk.Write(0, IoVecs(&part, 1));
  }
  static Task<void> CompressOnce(BlockBackend& disk, absl::Status* result) {
    std::vector<uint8_t> buffer(512);
    const iovec part = ToIoVec(std::span<uint8_t>(buffer));
    *result = co_await disk.WriteCompressed(0, IoVecs(&part, 1));
  }
  void Close(ThrottledBackend& disk) { EXPECT_TRUE(loop_->RunTask(disk.Close()).ok()); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  FakeThrottleClock::Time time_;
};

TEST_F(ThrottledBackendTest, TenSecondsBringTenSecondsWorth) {
  for (const uint64_t rate : {10, 333, 5000}) {
    const auto group =
        std::make_shared<ThrottleGroup>(ThrottleLimits{.ops_total = {.per_second = rate}});
    const std::unique_ptr<ThrottledBackend> disk = Disk(group);
    bool stop = false;
    uint64_t count = 0;
    TaskScope scope(*loop_);
    for (int i = 0; i < 8; ++i) scope.Spawn(ReadAlways(*disk, 512, &stop, &count));
    Advance(absl::Seconds(10));
    EXPECT_NEAR(static_cast<double>(count), 10.0 * rate, 0.2 * rate) << rate;
    stop = true;
    disk->SetHurry(true);
    loop_->RunTask(scope.Join());
    Close(*disk);
  }
}

TEST_F(ThrottledBackendTest, AGroupIsSharedEvenly) {
  const auto group =
      std::make_shared<ThrottleGroup>(ThrottleLimits{.bytes_total = {.per_second = 1 << 20}});
  const std::unique_ptr<ThrottledBackend> small = Disk(group);
  const std::unique_ptr<ThrottledBackend> large = Disk(group);
  bool stop = false;
  uint64_t small_count = 0;
  uint64_t large_count = 0;
  TaskScope scope(*loop_);
  // One has many times the requests in flight, and of many times the size.
  for (int i = 0; i < 2; ++i) scope.Spawn(ReadAlways(*small, 4096, &stop, &small_count));
  for (int i = 0; i < 16; ++i) scope.Spawn(ReadAlways(*large, 64 << 10, &stop, &large_count));
  Advance(absl::Seconds(10));
  const double small_bytes = static_cast<double>(small_count) * 4096;
  const double large_bytes = static_cast<double>(large_count) * (64 << 10);
  EXPECT_NEAR(small_bytes + large_bytes, 10.0 * (1 << 20), 0.2 * (1 << 20));
  EXPECT_NEAR(small_bytes / large_bytes, 1, 0.1);
  stop = true;
  small->SetHurry(true);
  large->SetHurry(true);
  loop_->RunTask(scope.Join());
  Close(*small);
  Close(*large);
}

TEST_F(ThrottledBackendTest, AnIdleDiskLeavesItsShareToTheOthers) {
  const auto group =
      std::make_shared<ThrottleGroup>(ThrottleLimits{.ops_read = {.per_second = 100}});
  const std::unique_ptr<ThrottledBackend> busy = Disk(group);
  const std::unique_ptr<ThrottledBackend> idle = Disk(group);
  bool stop = false;
  uint64_t count = 0;
  TaskScope scope(*loop_);
  scope.Spawn(ReadAlways(*busy, 512, &stop, &count));
  Advance(absl::Seconds(10));
  EXPECT_NEAR(static_cast<double>(count), 1000, 20);
  stop = true;
  busy->SetHurry(true);
  loop_->RunTask(scope.Join());
  Close(*busy);
  Close(*idle);
}

TEST_F(ThrottledBackendTest, NewLimitsReachThoseWhoWait) {
  const auto group =
      std::make_shared<ThrottleGroup>(ThrottleLimits{.ops_total = {.per_second = 1}});
  const std::unique_ptr<ThrottledBackend> disk = Disk(group);
  bool stop = false;
  uint64_t count = 0;
  TaskScope scope(*loop_);
  for (int i = 0; i < 4; ++i) scope.Spawn(ReadAlways(*disk, 512, &stop, &count));
  Advance(absl::Milliseconds(100));
  EXPECT_EQ(count, 1u);
  group->SetLimits({.ops_read = {.per_second = 1000}});
  Advance(absl::Seconds(1));
  EXPECT_NEAR(static_cast<double>(count), 1000, 40);
  stop = true;
  group->SetLimits({});
  Advance(kTick);
  loop_->RunTask(scope.Join());
  Close(*disk);
}

TEST_F(ThrottledBackendTest, FlushesAndUnlimitedDirectionsPass) {
  const auto group = std::make_shared<ThrottleGroup>(ThrottleLimits{.ops_read = {.per_second = 1}});
  const std::unique_ptr<ThrottledBackend> disk = Disk(group);
  bool stop = false;
  uint64_t count = 0;
  TaskScope scope(*loop_);
  for (int i = 0; i < 3; ++i) scope.Spawn(ReadAlways(*disk, 512, &stop, &count));
  loop_->RunUntilIdle();
  absl::Status written = absl::UnknownError("");
  scope.Spawn(WriteOnce(*disk, &written));
  loop_->RunUntilIdle();
  EXPECT_TRUE(written.ok()) << written;
  EXPECT_TRUE(loop_->RunTask(disk->Flush()).ok());
  EXPECT_EQ(count, 1u);
  stop = true;
  disk->SetHurry(true);
  loop_->RunTask(scope.Join());
  Close(*disk);
}

TEST_F(ThrottledBackendTest, CompressedWritesWaitForTheirTurnToo) {
  const auto group =
      std::make_shared<ThrottleGroup>(ThrottleLimits{.bytes_total = {.per_second = 512}});
  const std::unique_ptr<ThrottledBackend> disk = Disk(group);
  std::vector<absl::Status> results(3, absl::UnknownError("waiting"));
  TaskScope scope(*loop_);
  for (absl::Status& result : results) scope.Spawn(CompressOnce(*disk, &result));
  loop_->RunUntilIdle();
  EXPECT_TRUE(results[0].ok()) << results[0];
  EXPECT_FALSE(results[2].ok());
  Advance(absl::Seconds(3));
  EXPECT_TRUE(results[2].ok()) << results[2];
  loop_->RunTask(scope.Join());
  Close(*disk);
}

TEST_F(ThrottledBackendTest, CloseWaitsForNobodysTurn) {
  const auto group =
      std::make_shared<ThrottleGroup>(ThrottleLimits{.ops_total = {.per_second = 1}});
  const std::unique_ptr<ThrottledBackend> disk = Disk(group);
  std::vector<absl::Status> results(5, absl::UnknownError("waiting"));
  TaskScope scope(*loop_);
  for (absl::Status& result : results) scope.Spawn(WriteOnce(*disk, &result));
  loop_->RunUntilIdle();
  EXPECT_FALSE(results[4].ok());
  Close(*disk);
  loop_->RunTask(scope.Join());
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TEST_F(ThrottledBackendTest, WhatWentInAHurryIsMadeUpFor) {
  const auto group =
      std::make_shared<ThrottleGroup>(ThrottleLimits{.ops_total = {.per_second = 10}});
  const std::unique_ptr<ThrottledBackend> disk = Disk(group);
  std::vector<absl::Status> results(11, absl::UnknownError("waiting"));
  TaskScope scope(*loop_);
  for (absl::Status& result : results) scope.Spawn(WriteOnce(*disk, &result));
  loop_->RunUntilIdle();
  disk->SetHurry(true);
  loop_->RunTask(scope.Join());
  disk->SetHurry(false);
  absl::Status late = absl::UnknownError("waiting");
  scope.Spawn(WriteOnce(*disk, &late));
  Advance(absl::Milliseconds(900));
  EXPECT_FALSE(late.ok());
  Advance(absl::Milliseconds(300));
  EXPECT_TRUE(late.ok()) << late;
  loop_->RunTask(scope.Join());
  Close(*disk);
}

}  // namespace
}  // namespace vireo
