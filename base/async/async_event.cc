#include "base/async/async_event.h"

#include "base/check.h"

namespace vireo {

bool AsyncEvent::Waiter::await_ready() {
  if (event_.set_) return true;
  stopped_ = stop_.stop_requested();
  return stopped_;
}

void AsyncEvent::Waiter::await_suspend(std::coroutine_handle<> waiter) {
  loop_ = EventLoop::Current();
  VIREO_CHECK(loop_ != nullptr, "coroutines run on a loop");
  waiter_ = waiter;
  StartListening(stop_);
  event_.waiters_.PushBack(*this);
}

void AsyncEvent::Waiter::OnStopRequested() {
  IntrusiveList<Waiter>::Remove(*this);
  stopped_ = true;
  Resume();
}

void AsyncEvent::Waiter::Resume() {
  StopListening();
  loop_->MakeReady(waiter_);
}

void AsyncEvent::Set() {
  set_ = true;
  while (Waiter* const waiter = waiters_.PopFront()) waiter->Resume();
}

Task<void> AsyncEvent::Wait() {
  Waiter waiter(*this, StopToken());
  co_await waiter;
}

Task<absl::Status> AsyncEvent::Wait(StopToken stop) {
  Waiter waiter(*this, stop);
  const bool set = co_await waiter;
  if (!set) co_return absl::CancelledError("wait for an event: stopped");
  co_return absl::OkStatus();
}

}  // namespace vireo
