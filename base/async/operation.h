// One request to the kernel and the coroutine that waits for it. Lives in that coroutine's frame,
// which stays put until the completion has come. Private to base/async.

#ifndef VIREO_BASE_ASYNC_OPERATION_H_
#define VIREO_BASE_ASYNC_OPERATION_H_

#include <coroutine>

#include "base/async/event_loop.h"
#include "base/async/intrusive_list.h"
#include "base/async/ring.h"
#include "base/async/stop_token.h"

namespace vireo::async_internal {

// co_await answers the result of the request: not negative, or a negative errno; -ECANCELED when
// stopped.
class Operation final : public ListNode<Operation>, private StopListener {
 public:
  Operation(EventLoop& loop, const RingRequest& request, StopToken stop = {});
  ~Operation();

  bool await_ready();
  void await_suspend(std::coroutine_handle<> waiter);
  int await_resume() const { return result_; }

 private:
  friend class ::vireo::EventLoop;

  // Not yet started -> queued -> in flight -> ended. A stop takes it from queued to ended at once;
  // in flight it goes back to the queue, this time for its cancellation, and ends when the request
  // itself does.
  enum class State : uint8_t { kNew, kQueued, kInFlight, kCancelQueued, kCancelSent, kEnded };

  void OnStopRequested() override;
  // Called by the loop. True when it is now on the submission queue.
  bool TrySubmit(Ring& ring);
  void Complete(int result);
  // Polls and timers may stay in flight for ever; everything else ends by itself.
  bool ends_by_itself() const {
    return request_.op != RingOp::kPoll && request_.op != RingOp::kTimeout;
  }

  EventLoop& loop_;
  const RingRequest request_;
  const StopToken stop_;
  std::coroutine_handle<> waiter_;
  int result_ = 0;
  State state_ = State::kNew;
};

}  // namespace vireo::async_internal

#endif  // VIREO_BASE_ASYNC_OPERATION_H_
