// One WatchEvents call: a queue between the machine's thread, which must not wait, and a client
// that may be slow. Owned by gRPC from its construction on; deletes itself in OnDone.
#ifndef VIREO_API_EVENT_STREAM_H_
#define VIREO_API_EVENT_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "api/v1/vireo.pb.h"
#include "base/mutex.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class EventStream final : public grpc::ServerWriteReactor<v1::Event> {
 public:
  static constexpr size_t kMaxPending = 1024;  // More ends the call with RESOURCE_EXHAUSTED.

  // `controller` outlives the call.
  EventStream(VmController& controller, uint64_t after_sequence);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // What the controller holds; it may outlive the stream, but is removed before the stream is
  // deleted.
  class Watcher;

  void Push(const VmEvent& event);
  void End(absl::Status status);
  // Changes the state below, then starts the next write or finishes the call, whichever is due.
  void Update(absl::FunctionRef<void()> change);

  VmController& controller_;
  std::shared_ptr<Watcher> watcher_;
  Mutex mutex_;
  std::deque<v1::Event> pending_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // Once set: finish with it.
  v1::Event current_;                                        // Belongs to gRPC while writing_.
};

}  // namespace vireo::api

#endif  // VIREO_API_EVENT_STREAM_H_
