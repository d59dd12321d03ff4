// The host's time as devices see it: what day it is, how long ago something was, and a call at a
// later time. Devices take a Clock so that tests move time by hand.

#ifndef VIREO_DEVICES_CLOCK_H_
#define VIREO_DEVICES_CLOCK_H_

#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"

namespace vireo {

// Calls back once for each Arm(), at the time set or later, on the clock's loop. Destroyed by its
// owner when it was stopped.
class Timer {
 public:
  virtual ~Timer() = default;

  // Calls back when Clock::Monotonic() has reached `when`, which replaces what was armed before.
  // Any thread; never calls back from within.
  virtual void Arm(absl::Duration when) = 0;

  // No call begins any more for what was armed; one that has begun goes on. Any thread.
  virtual void Cancel() = 0;

  // On the loop. Cancels; ends when nothing of the timer is left in the loop. Arm() starts it
  // again.
  virtual Task<void> Stop() = 0;
};

// Any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Wall() const = 0;
  virtual absl::Duration Monotonic() const = 0;  // Since an arbitrary start; never goes back.
  // `fired` runs on the clock's loop, and may Arm() its timer again.
  virtual std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> fired) = 0;
};

// CLOCK_REALTIME, CLOCK_MONOTONIC, and timers of `loop`, which outlives the clock and its timers.
class HostClock final : public Clock {
 public:
  explicit HostClock(EventLoop& loop) : loop_(loop) {}
  absl::Time Wall() const override;
  absl::Duration Monotonic() const override;
  std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> fired) override;

 private:
  EventLoop& loop_;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_CLOCK_H_
