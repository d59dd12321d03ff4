#include "base/async/async_mutex.h"

#include "base/check.h"

namespace vireo {

AsyncMutex::~AsyncMutex() { VIREO_CHECK(!locked_, "a mutex is free before it dies"); }

void AsyncMutex::Waiter::await_suspend(std::coroutine_handle<> waiter) {
  loop_ = EventLoop::Current();
  VIREO_CHECK(loop_ != nullptr, "coroutines run on a loop");
  waiter_ = waiter;
  mutex_.waiters_.PushBack(*this);
}

Task<AsyncMutex::Guard> AsyncMutex::Lock() {
  Waiter waiter(*this);
  co_await waiter;
  co_return Guard(this);
}

void AsyncMutex::Unlock() {
  VIREO_DCHECK(locked_);
  Waiter* const next = waiters_.PopFront();
  if (next == nullptr) {
    locked_ = false;
    return;
  }
  // It stays locked, for `next`: whoever asks meanwhile queues behind.
  next->loop_->MakeReady(next->waiter_);
}

}  // namespace vireo
