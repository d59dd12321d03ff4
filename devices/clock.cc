#include "devices/clock.h"

#include <ctime>
#include <memory>
#include <optional>
#include <utility>

#include "base/async/stop_token.h"
#include "base/async/task_scope.h"
#include "base/mutex.h"

namespace vireo {
namespace {

absl::Duration MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

// One coroutine sleeps until the earliest deadline that it was told of and then looks again, so
// that Cancel() and a later Arm() cost nothing but a look.
class LoopTimer final : public Timer {
 public:
  LoopTimer(EventLoop& loop, absl::AnyInvocable<void()> fired)
      : core_(std::make_shared<Core>(loop, std::move(fired))) {}
  ~LoopTimer() override { core_->Cancel(); }

  void Arm(absl::Duration when) override {
    if (core_->SetDeadline(when)) {
      core_->loop().Post([core = core_] { core->Wake(); });
    }
  }
  void Cancel() override { core_->Cancel(); }
  Task<void> Stop() override { return core_->Stop(); }

 private:
  // Shared with posted calls, which may run when the timer is gone.
  class Core {
   public:
    Core(EventLoop& loop, absl::AnyInvocable<void()> fired)
        : loop_(loop), fired_(std::move(fired)), scope_(loop) {}

    EventLoop& loop() { return loop_; }

    // True when the loop has to be told.
    bool SetDeadline(absl::Duration when) {
      const MutexLock lock(mutex_);
      deadline_ = when;
      return !next_look_.has_value() || when < *next_look_;
    }

    void Cancel() {
      const MutexLock lock(mutex_);
      deadline_.reset();
    }

    // On the loop.
    void Wake() {
      if (scope_.size() != 0) {
        look_.RequestStop();
      } else {
        scope_.Spawn(Serve());
      }
    }

    Task<void> Stop() {
      Cancel();
      look_.RequestStop();
      co_await scope_.Join();
      look_.Rearm();
    }

   private:
    Task<void> Serve() {
      while (true) {
        const std::optional<absl::Duration> wait = NextWait();
        if (!wait.has_value()) break;
        if (*wait > absl::ZeroDuration()) {
          // Ended early or not: look again.
          (void)co_await loop_.SleepFor(*wait, look_.token());
          look_.Rearm();
        } else {
          fired_();
        }
      }
    }

    // How long until the deadline; zero when it has come, which takes it.
    std::optional<absl::Duration> NextWait() {
      const MutexLock lock(mutex_);
      if (!deadline_.has_value()) {
        next_look_.reset();
        return std::nullopt;
      }
      const absl::Duration wait = *deadline_ - MonotonicNow();
      if (wait <= absl::ZeroDuration()) {
        deadline_.reset();
        next_look_ = -absl::InfiniteDuration();  // It looks again right after the call.
        return absl::ZeroDuration();
      }
      next_look_ = deadline_;
      return wait;
    }

    EventLoop& loop_;
    absl::AnyInvocable<void()> fired_;
    StopSource look_;  // Stopped: look at the deadline again.

    Mutex mutex_;
    std::optional<absl::Duration> deadline_ ABSL_GUARDED_BY(mutex_);
    // When Serve() looks next by itself; nothing when it is not running.
    std::optional<absl::Duration> next_look_ ABSL_GUARDED_BY(mutex_);

    TaskScope scope_;
  };

  std::shared_ptr<Core> core_;
};

}  // namespace

absl::Time HostClock::Wall() const { return absl::Now(); }

absl::Duration HostClock::Monotonic() const { return MonotonicNow(); }

std::unique_ptr<Timer> HostClock::CreateTimer(absl::AnyInvocable<void()> fired) {
  return std::make_unique<LoopTimer>(loop_, std::move(fired));
}

}  // namespace vireo
