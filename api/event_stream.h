// One WatchEvents call: a queue between the machine's thread, which must not wait, and a client
// that may be slow.
#ifndef VIREO_API_EVENT_STREAM_H_
#define VIREO_API_EVENT_STREAM_H_

#include <grpcpp/support/async_stream.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "api/call_queue.h"
#include "api/v1/vireo.grpc.pb.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class EventStream final : public ServerCall {
 public:
  static constexpr size_t kMaxPending = 1024;  // More ends the call with RESOURCE_EXHAUSTED.

  // All outlive the call.
  EventStream(CallQueue& queue, v1::VmService::AsyncService& service, VmController& controller);
  ~EventStream() override;

 private:
  // What the controller holds; it may outlive the stream, but is removed before the stream is
  // deleted.
  class Watcher;

  void RequestCall(void* tag) override;
  void OnBegin() override;
  void OnEnd() override;
  void OnWritten(bool ok);

  void Push(const VmEvent& event);
  void End(absl::Status status);
  void GiveUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // The client is gone.
  // After each change of the state below: starts the next write or finishes the call, if that is
  // due.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  v1::VmService::AsyncService& service_;
  VmController& controller_;
  std::shared_ptr<Watcher> watcher_;  // Made when the call begins.
  v1::WatchEventsRequest request_;
  grpc::ServerAsyncWriter<v1::Event> writer_{context()};
  Tag written_{*this, [this](bool ok) { OnWritten(ok); }};

  std::deque<v1::Event> pending_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // The initial metadata, or an event.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // Once set: finish with it.
};

}  // namespace vireo::api

#endif  // VIREO_API_EVENT_STREAM_H_
