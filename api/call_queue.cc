#include "api/call_queue.h"

#include <utility>

#include "absl/time/clock.h"

namespace vireo::api {

CallQueue::CallQueue(std::unique_ptr<grpc::ServerCompletionQueue> queue)
    : queue_(std::move(queue)) {}

void CallQueue::Run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
    ServerCall::Tag& ended = *static_cast<ServerCall::Tag*>(tag);
    ended.call_.Deliver(ended, ok);
  }
}

void CallQueue::WaitForCalls(absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  MutexLock lock(mutex_);
  while (under_way_ > 0) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    changed_.WaitFor(mutex_, left);
  }
}

void CallQueue::Close() {
  {
    MutexLock lock(mutex_);
    while (calls_ > 0) changed_.Wait(mutex_);
  }
  queue_->Shutdown();  // Only now: until here a call may start what the queue must still report.
}

ServerCall::ServerCall(CallQueue& queue) : queue_(queue) {
  context_.AsyncNotifyWhenDone(&end_);
  MutexLock lock(queue_.mutex_);
  ++queue_.calls_;
}

ServerCall::~ServerCall() {
  MutexLock lock(queue_.mutex_);
  --queue_.calls_;
  if (begun_) --queue_.under_way_;
  queue_.changed_.NotifyAll();
}

void ServerCall::Listen() {
  MutexLock lock(mutex_);
  RequestCall(Expect(begin_));
}

void* ServerCall::Expect(Tag& tag) {
  ++owed_;
  return &tag;
}

void ServerCall::Begin(bool ok) {
  if (!ok) return;  // The server shuts down. Neither end_ nor last_ comes.
  begun_ = true;
  {
    MutexLock lock(queue_.mutex_);
    ++queue_.under_way_;
  }
  {
    MutexLock lock(mutex_);
    owed_ += 2;  // end_ and last_.
  }
  OnBegin();
}

void ServerCall::Deliver(Tag& tag, bool ok) {
  tag.ended_(ok);
  {
    MutexLock lock(mutex_);
    if (--owed_ > 0) return;
  }
  delete this;
}

}  // namespace vireo::api
