#include "storage/throttle_group.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace vireo {

absl::Duration HostThrottleClock::Now() const {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

Task<void> HostThrottleClock::Sleep(absl::Duration duration, StopToken stop) {
  const absl::Status slept = co_await loop_.SleepFor(duration, stop);
  static_cast<void>(slept);  // Whoever was stopped looks again.
}

ThrottleGroup::ThrottleGroup(const ThrottleLimits& limits) : limited_(limits.any()) {
  const MutexLock lock(mutex_);
  buckets_.SetLimits(limits, last_now_);
}

ThrottleGroup::~ThrottleGroup() {
  const MutexLock lock(mutex_);
  VIREO_CHECK(members_.empty(), "members leave before their group goes");
}

ThrottleLimits ThrottleGroup::limits() const {
  const MutexLock lock(mutex_);
  return buckets_.limits();
}

void ThrottleGroup::SetLimits(const ThrottleLimits& limits) {
  const MutexLock lock(mutex_);
  limited_.store(limits.any(), std::memory_order_relaxed);
  buckets_.SetLimits(limits, last_now_);
  // Whether reads and writes share a line may have changed.
  Line all = std::move(lines_[0]);
  all.splice(all.end(), lines_[1]);
  lines_[0].clear();
  for (Ticket* const ticket : all) LineOf(ticket->kind).push_back(ticket);
  for (Member* const member : members_) {
    member->loop_.Post([waker = member->waker_] {
      if (waker->member != nullptr) waker->member->wake_.RequestStop();
    });
  }
}

ThrottleGroup::Line& ThrottleGroup::LineOf(ThrottleKind kind) {
  return lines_[buckets_.shared() || kind == ThrottleKind::kRead ? 0 : 1];
}

ThrottleGroup::Line::iterator ThrottleGroup::Next(Line& line) {
  return std::min_element(line.begin(), line.end(), [](const Ticket* a, const Ticket* b) {
    return a->member->used_seconds_ < b->member->used_seconds_;
  });
}

void ThrottleGroup::Account(Member& member, ThrottleKind kind, uint64_t bytes, absl::Duration now) {
  least_used_ = std::max(least_used_, member.used_seconds_);
  member.used_seconds_ += buckets_.Take(kind, bytes, now);
}

void ThrottleGroup::Grant(Line& line, Line::iterator at, absl::Duration now) {
  Ticket* const ticket = *at;
  line.erase(at);
  --ticket->member->waiting_;
  Account(*ticket->member, ticket->kind, ticket->bytes, now);
  if (&ticket->member->loop_ == EventLoop::Current()) {
    ticket->granted.Set();
  } else {
    ticket->member->loop_.Post([ticket] { ticket->granted.Set(); });
  }
}

bool ThrottleGroup::Enter(Ticket& ticket, absl::Duration now) {
  const MutexLock lock(mutex_);
  last_now_ = std::max(last_now_, now);
  Member& member = *ticket.member;
  Line& line = LineOf(ticket.kind);
  // A disk that was idle has saved nothing up.
  if (member.waiting_ == 0) member.used_seconds_ = std::max(member.used_seconds_, least_used_);
  if (member.hurry_ ||
      (line.empty() && buckets_.WaitFor(ticket.kind, last_now_) == absl::ZeroDuration())) {
    Account(member, ticket.kind, ticket.bytes, last_now_);
    return true;
  }
  line.push_back(&ticket);
  ++member.waiting_;
  return false;
}

absl::Duration ThrottleGroup::Pump(const Member& member, absl::Duration now) {
  const MutexLock lock(mutex_);
  last_now_ = std::max(last_now_, now);
  absl::Duration next = absl::InfiniteDuration();
  for (Line& line : lines_) {
    while (!line.empty()) {
      const Line::iterator at = Next(line);
      const absl::Duration wait = buckets_.WaitFor((*at)->kind, last_now_);
      if (wait > absl::ZeroDuration()) {
        next = std::min(next, wait);
        break;
      }
      Grant(line, at, last_now_);
    }
  }
  return member.waiting_ == 0 ? absl::InfiniteDuration() : next;
}

void ThrottleGroup::SetHurry(Member& member, bool hurry, absl::Duration now) {
  const MutexLock lock(mutex_);
  last_now_ = std::max(last_now_, now);
  member.hurry_ = hurry;
  if (!hurry) return;
  for (Line& line : lines_) {
    for (Line::iterator at = line.begin(); at != line.end();) {
      const Line::iterator here = at++;
      if ((*here)->member == &member) Grant(line, here, last_now_);
    }
  }
}

ThrottleGroup::Member::Member(EventLoop& loop, std::shared_ptr<ThrottleGroup> group,
                              ThrottleClock& clock)
    : loop_(loop),
      group_(std::move(group)),
      clock_(clock),
      waker_(std::make_shared<Waker>(Waker{this})),
      background_(loop) {
  const MutexLock lock(group_->mutex_);
  group_->members_.push_back(this);
}

ThrottleGroup::Member::~Member() {
  waker_->member = nullptr;
  const MutexLock lock(group_->mutex_);
  VIREO_CHECK(waiting_ == 0, "a throttled disk is closed before it goes");
  std::erase(group_->members_, this);
}

Task<void> ThrottleGroup::Member::Admit(ThrottleKind kind, uint64_t bytes) {
  Ticket ticket = {.member = this, .kind = kind, .bytes = bytes};
  if (group_->Enter(ticket, clock_.Now())) co_return;
  waits_.fetch_add(1, std::memory_order_relaxed);
  if (!std::exchange(pumping_, true)) background_.Spawn(PumpWhileWaiting());
  co_await ticket.granted.Wait();
}

Task<void> ThrottleGroup::Member::PumpWhileWaiting() {
  while (true) {
    if (wake_.stop_requested()) wake_.Rearm();
    const absl::Duration wait = group_->Pump(*this, clock_.Now());
    if (wait == absl::InfiniteDuration()) break;
    co_await clock_.Sleep(wait, wake_.token());
  }
  pumping_ = false;
}

Task<void> ThrottleGroup::Member::Close() {
  wake_.RequestStop();
  co_await background_.Join();
}

}  // namespace vireo
