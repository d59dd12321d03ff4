#include "base/async/operation.h"

#include <cerrno>

#include "base/check.h"

namespace vireo::async_internal {

Operation::Operation(EventLoop& loop, const RingRequest& request, StopToken stop)
    : loop_(loop), request_(request), stop_(stop) {}

Operation::~Operation() {
  VIREO_CHECK(state_ == State::kNew || state_ == State::kEnded,
              "an operation has completed before its frame dies");
}

bool Operation::await_ready() {
  VIREO_DCHECK(loop_.IsCurrent() && state_ == State::kNew);
  if (!stop_.stop_requested()) return false;
  state_ = State::kEnded;
  result_ = -ECANCELED;
  return true;
}

void Operation::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  state_ = State::kQueued;
  StartListening(stop_);
  ++loop_.in_flight_;
  if (ends_by_itself()) ++loop_.busy_;
  loop_.to_submit_.PushBack(*this);
}

void Operation::OnStopRequested() {
  if (state_ == State::kQueued) {
    IntrusiveList<Operation>::Remove(*this);
    Complete(-ECANCELED);
  } else if (state_ == State::kInFlight) {
    state_ = State::kCancelQueued;
    loop_.to_submit_.PushBack(*this);
  }
}

bool Operation::TrySubmit(Ring& ring) {
  const uint64_t self = reinterpret_cast<uintptr_t>(static_cast<Operation*>(this));
  if (state_ == State::kCancelQueued) {
    // Its own completion says nothing. Should the request end first, the kernel finds nothing to
    // cancel: it takes submissions in order, so no later operation at this address can be meant.
    if (!ring.TryPrepare({.op = RingOp::kCancel, .address = self}, EventLoop::kIgnored))
      return false;
    state_ = State::kCancelSent;
    return true;
  }
  if (!ring.TryPrepare(request_, self)) return false;
  state_ = State::kInFlight;
  return true;
}

void Operation::Complete(int result) {
  if (state_ == State::kCancelQueued) IntrusiveList<Operation>::Remove(*this);
  const bool stopped = state_ == State::kCancelQueued || state_ == State::kCancelSent;
  // A worker that was interrupted by the cancellation.
  result_ = stopped && result == -EINTR ? -ECANCELED : result;
  state_ = State::kEnded;
  StopListening();
  --loop_.in_flight_;
  if (ends_by_itself()) --loop_.busy_;
  loop_.MakeReady(waiter_);
}

}  // namespace vireo::async_internal
