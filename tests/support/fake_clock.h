// Time that stands still until the test moves it; timers fire from within Advance(), in order.

#ifndef VIREO_TESTS_SUPPORT_FAKE_CLOCK_H_
#define VIREO_TESTS_SUPPORT_FAKE_CLOCK_H_

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "base/async/task.h"
#include "devices/clock.h"

namespace vireo {

// One thread.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time wall = absl::UnixEpoch()) : wall_(wall) {}

  absl::Time Wall() const override { return wall_; }
  absl::Duration Monotonic() const override { return monotonic_; }
  std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> fired) override {
    return std::make_unique<FakeTimer>(*this, std::move(fired));
  }

  void Advance(absl::Duration step) {
    const absl::Duration end = monotonic_ + step;
    while (FakeTimer* next = NextUntil(end)) {
      MoveTo(std::max(monotonic_, *std::exchange(next->when, std::nullopt)));
      next->fired();
    }
    MoveTo(end);
  }

  // The host's clock was set; time that has passed is not affected.
  void SetWall(absl::Time wall) { wall_ = wall; }

  // An idle device has none.
  int armed_timers() const {
    return static_cast<int>(std::ranges::count_if(
        timers_, [](const FakeTimer* timer) { return timer->when.has_value(); }));
  }

 private:
  class FakeTimer final : public Timer {
   public:
    FakeTimer(FakeClock& clock, absl::AnyInvocable<void()> callback)
        : fired(std::move(callback)), clock_(clock) {
      clock_.timers_.push_back(this);
    }
    ~FakeTimer() override { std::erase(clock_.timers_, this); }
    void Arm(absl::Duration at) override { when = at; }
    void Cancel() override { when.reset(); }
    Task<void> Stop() override {
      when.reset();
      co_return;
    }

    std::optional<absl::Duration> when;
    absl::AnyInvocable<void()> fired;

   private:
    FakeClock& clock_;
  };

  FakeTimer* NextUntil(absl::Duration end) {
    FakeTimer* next = nullptr;
    for (FakeTimer* timer : timers_) {
      if (!timer->when.has_value() || *timer->when > end) continue;
      if (next == nullptr || *timer->when < *next->when) next = timer;
    }
    return next;
  }

  void MoveTo(absl::Duration when) {
    wall_ += when - monotonic_;
    monotonic_ = when;
  }

  absl::Time wall_;
  absl::Duration monotonic_ = absl::ZeroDuration();
  std::vector<FakeTimer*> timers_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAKE_CLOCK_H_
