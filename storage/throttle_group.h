// Disks that share one set of limits, and how their requests take turns.
//
// A request that may not go yet waits in line. Of those that could go next the one goes whose disk
// has used least so far, so that a disk with many or large requests does not crowd out another.
// Disks of one group may belong to different loops: the group has a mutex, held for arithmetic.

#ifndef VIREO_STORAGE_THROTTLE_GROUP_H_
#define VIREO_STORAGE_THROTTLE_GROUP_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/mutex.h"
#include "storage/throttle.h"

namespace vireo {

// The time that a throttle goes by.
class ThrottleClock {
 public:
  virtual ~ThrottleClock() = default;
  virtual absl::Duration Now() const = 0;  // Since an arbitrary start; any thread.
  // On a loop. Ends early when `stop` asks.
  virtual Task<void> Sleep(absl::Duration duration, StopToken stop) = 0;
};

// CLOCK_MONOTONIC, and timers of `loop`, which outlives the clock.
class HostThrottleClock final : public ThrottleClock {
 public:
  explicit HostThrottleClock(EventLoop& loop) : loop_(loop) {}
  absl::Duration Now() const override;
  Task<void> Sleep(absl::Duration duration, StopToken stop) override;

 private:
  EventLoop& loop_;
};

class ThrottleGroup {
 public:
  class Member;

  explicit ThrottleGroup(const ThrottleLimits& limits);
  // No member is left.
  ~ThrottleGroup();
  ThrottleGroup(const ThrottleGroup&) = delete;
  ThrottleGroup& operator=(const ThrottleGroup&) = delete;

  // Any thread. Requests in line go by the new limits.
  void SetLimits(const ThrottleLimits& limits);
  ThrottleLimits limits() const;
  // Any thread. False: nobody need ask, nor wait.
  bool limited() const { return limited_.load(std::memory_order_relaxed); }

 private:
  // A request in line; lives in its coroutine.
  struct Ticket {
    Member* member;
    ThrottleKind kind;
    uint64_t bytes;
    AsyncEvent granted;  // On the member's loop.
  };
  using Line = std::list<Ticket*>;

  // For members, on their loops. True when the request may go at once; else it is in line.
  bool Enter(Ticket& ticket, absl::Duration now);
  // Lets go who may; answers how long from `now` until more may. Infinite when nobody of `member`
  // is in line.
  absl::Duration Pump(const Member& member, absl::Duration now);
  void SetHurry(Member& member, bool hurry, absl::Duration now);

  Line& LineOf(ThrottleKind kind) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Line::iterator Next(Line& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Account(Member& member, ThrottleKind kind, uint64_t bytes, absl::Duration now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Grant(Line& line, Line::iterator at, absl::Duration now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<bool> limited_;
  mutable Mutex mutex_;
  ThrottleBuckets buckets_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_now_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  std::vector<Member*> members_ ABSL_GUARDED_BY(mutex_);
  // Reads and writes, or all of them in the first when they share a limit.
  std::array<Line, 2> lines_ ABSL_GUARDED_BY(mutex_);
  double least_used_ ABSL_GUARDED_BY(mutex_) = 0;  // By whoever went last, before that.
};

// One disk in a group. Belongs to its loop.
class ThrottleGroup::Member {
 public:
  // `loop` and `clock` outlive the member.
  Member(EventLoop& loop, std::shared_ptr<ThrottleGroup> group, ThrottleClock& clock);
  // After Close().
  ~Member();
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  // Ends when the request may go.
  Task<void> Admit(ThrottleKind kind, uint64_t bytes);
  // While set, nobody waits; what goes then is made up for afterwards.
  void SetHurry(bool hurry) { group_->SetHurry(*this, hurry, clock_.Now()); }
  // Nobody waits any more, and nothing comes after.
  Task<void> Close();

  // Any thread.
  uint64_t waits() const { return waits_.load(std::memory_order_relaxed); }

 private:
  friend class ThrottleGroup;

  // What others post to the member's loop: the member may be gone when it arrives.
  struct Waker {
    Member* member;
  };

  Task<void> PumpWhileWaiting();

  EventLoop& loop_;
  const std::shared_ptr<ThrottleGroup> group_;
  ThrottleClock& clock_;
  const std::shared_ptr<Waker> waker_;
  StopSource wake_;  // Ends a sleep of the pump.
  bool pumping_ = false;
  std::atomic<uint64_t> waits_{0};
  TaskScope background_;

  // The group's, under its mutex.
  size_t waiting_ = 0;
  bool hurry_ = false;
  double used_seconds_ = 0;  // Of the group's limits.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_THROTTLE_GROUP_H_
