// AsyncEvent: a flag that coroutines wait for. One loop; setting it wakes all who wait, in order.

#ifndef VIREO_BASE_ASYNC_ASYNC_EVENT_H_
#define VIREO_BASE_ASYNC_ASYNC_EVENT_H_

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/intrusive_list.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"

namespace vireo {

// The destructor CHECKs that nobody waits.
class AsyncEvent {
 public:
  AsyncEvent() = default;
  AsyncEvent(const AsyncEvent&) = delete;
  AsyncEvent& operator=(const AsyncEvent&) = delete;

  // Everyone who waits is resumed by the loop, even if Reset() follows at once.
  void Set();
  void Reset() { set_ = false; }
  bool is_set() const { return set_; }
  // Ends at once when set.
  Task<void> Wait();
  // The same; CANCELLED when `stop` asks first.
  Task<absl::Status> Wait(StopToken stop);

 private:
  class Waiter;

  bool set_ = false;
  IntrusiveList<Waiter> waiters_;
};

class AsyncEvent::Waiter final : public ListNode<Waiter>, private StopListener {
 public:
  Waiter(AsyncEvent& event, StopToken stop) : event_(event), stop_(stop) {}
  bool await_ready();
  void await_suspend(std::coroutine_handle<> waiter);
  bool await_resume() const { return !stopped_; }  // False when stopped.

 private:
  friend class AsyncEvent;
  void OnStopRequested() override;
  void Resume();

  AsyncEvent& event_;
  const StopToken stop_;
  EventLoop* loop_ = nullptr;
  std::coroutine_handle<> waiter_;
  bool stopped_ = false;
};

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_ASYNC_EVENT_H_
