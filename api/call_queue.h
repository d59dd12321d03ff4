// gRPC's completion queue, and the calls that live on it. One thread sleeps in the queue until
// something happens, and costs nothing while nothing does. (gRPC 1.51's callback API would be less
// code here, but its own threads wake ten times a second for as long as the server stands.)
//
// A call lives for as long as the queue owes it a tag, which is when gRPC may still use it:
//
//          Listen()             the client calls                 Finish()
//     made --------> listening ------------------> under way ---------------> over: deleted with
//                        |                                                    its last tag
//                        +---- the server shuts down: deleted
//
// Operations are started by any thread, under the call's mutex; tags come back on the queue's
// thread only, one at a time, without the mutex. As a tag is crossed off under the mutex too, a
// call is never deleted while a thread is still starting something on it.
#ifndef VIREO_API_CALL_QUEUE_H_
#define VIREO_API_CALL_QUEUE_H_

#include <grpcpp/completion_queue.h>
#include <grpcpp/server_context.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace vireo::api {

class CallQueue {
 public:
  explicit CallQueue(std::unique_ptr<grpc::ServerCompletionQueue> queue);

  // Hands out tags, on the calling thread, until Close().
  void Run();
  // Any other thread: waits until no call is under way, for at most `limit`.
  void WaitForCalls(absl::Duration limit);
  // Any other thread, once the grpc::Server has been shut down: waits until no call lives, which
  // those that are under way may take their time for, and lets Run() return.
  void Close();

  grpc::ServerCompletionQueue* grpc_queue() { return queue_.get(); }

 private:
  friend class ServerCall;

  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  Mutex mutex_;
  CondVar changed_;
  size_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;  // Of those.
};

// The server's side of one call. Made with new; deletes itself.
class ServerCall {
 public:
  ServerCall(const ServerCall&) = delete;
  ServerCall& operator=(const ServerCall&) = delete;

  // Waits for a client from here on. Once.
  void Listen() ABSL_LOCKS_EXCLUDED(mutex_);

 protected:
  // What gRPC gets with an operation and gives back through the queue when that has ended, `ok` or
  // not.
  class Tag {
   public:
    Tag(ServerCall& call, absl::AnyInvocable<void(bool ok)> ended)
        : call_(call), ended_(std::move(ended)) {}
    Tag(const Tag&) = delete;
    Tag& operator=(const Tag&) = delete;

   private:
    friend class CallQueue;
    friend class ServerCall;

    ServerCall& call_;
    absl::AnyInvocable<void(bool)> ended_;
  };

  explicit ServerCall(CallQueue& queue);  // Outlives the call.
  virtual ~ServerCall();

  // Asks gRPC for a call of the right kind: the generated Request...() with context(), grpc_queue()
  // and `tag`. Called by Listen(), with the mutex.
  virtual void RequestCall(void* tag) = 0;

  // Both are called on the queue's thread, without the mutex. A destructor has whoever else knows
  // of the call (the controller, for instance) forget it.

  // The client calls. Somebody else must listen for the next, and Finish is due at some time, from
  // whichever thread, also when the client has gone away.
  virtual void OnBegin() = 0;
  // The status has been sent, or the client has gone away.
  virtual void OnEnd() {}

  // Every operation of gRPC gets one of these as its tag: the second if it is Finish.
  void* Expect(Tag& tag) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void* ExpectLast() { return &last_; }

  grpc::ServerContext* context() { return &context_; }
  grpc::ServerCompletionQueue* grpc_queue() { return queue_.grpc_queue(); }

  CallQueue& queue() { return queue_; }

  Mutex mutex_;

 private:
  friend class CallQueue;

  void Begin(bool ok);
  // A tag has come back.
  void Deliver(Tag& tag, bool ok);

  CallQueue& queue_;
  grpc::ServerContext context_;
  size_t owed_ ABSL_GUARDED_BY(mutex_) = 0;  // Tags that will still come.
  bool begun_ = false;                       // On the queue's thread.
  Tag begin_{*this, [this](bool ok) { Begin(ok); }};
  Tag end_{*this, [this](bool) { OnEnd(); }};
  Tag last_{*this, [](bool) {}};
};

}  // namespace vireo::api

#endif  // VIREO_API_CALL_QUEUE_H_
