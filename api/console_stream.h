// One Console call: output is kept (within a limit) for a client that may be slow, input is held
// back until the guest has taken it. Owned by gRPC from its construction on; deletes itself in
// OnDone.
#ifndef VIREO_API_CONSOLE_STREAM_H_
#define VIREO_API_CONSOLE_STREAM_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "api/v1/vireo.pb.h"
#include "base/mutex.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class ConsoleStream final : public grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput> {
 public:
  static constexpr size_t kMaxPending = size_t{1} << 20;    // Bytes of output kept for the client.
  static constexpr size_t kMaxInput = size_t{64} << 10;     // Bytes in one message.
  static constexpr size_t kMaxMessage = size_t{256} << 10;  // Bytes of output in one message.

  explicit ConsoleStream(VmController& controller);  // Outlives the call.

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Reader;

  void Push(std::string_view output);
  void End(absl::Status status);
  // Offers what is left of the input to the guest; reads on when all is taken, else tries again a
  // little later: the controller does not say when there is room. Entered with taking_input_
  // counted for it.
  void OfferInput();
  // Changes the state below and, in the same critical section, decides what follows: a write, the
  // end of the call, or nothing. In the last case another thread may end the call and delete this
  // as soon as the mutex is free.
  void Update(absl::FunctionRef<void()> change);

  VmController& controller_;
  std::shared_ptr<Reader> reader_;

  // Input belongs to one chain of callbacks: OnReadDone -> OfferInput -> (retry_ -> OfferInput ...)
  // -> StartRead.
  v1::ConsoleInput input_;
  size_t input_taken_ = 0;
  bool detach_at_eof_ = false;

  std::unique_ptr<grpc::Alarm> retry_;

  Mutex mutex_;
  int taking_input_ ABSL_GUARDED_BY(mutex_) = 0;  // Links of that chain that still use this.
  std::string pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t lost_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // Dropped before pending_.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // Once set: finish with it.
  v1::ConsoleOutput current_;                                // Belongs to gRPC while writing_.
};

}  // namespace vireo::api

#endif  // VIREO_API_CONSOLE_STREAM_H_
