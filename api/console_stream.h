// One Console call: output is kept (within a limit) for a client that may be slow, input is held
// back until the guest has taken it.
#ifndef VIREO_API_CONSOLE_STREAM_H_
#define VIREO_API_CONSOLE_STREAM_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/async_stream.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "api/call_queue.h"
#include "api/v1/vireo.grpc.pb.h"
#include "vmm/vm_controller.h"

namespace vireo::api {

class ConsoleStream final : public ServerCall {
 public:
  static constexpr size_t kMaxPending = size_t{1} << 20;    // Bytes of output kept for the client.
  static constexpr size_t kMaxInput = size_t{64} << 10;     // Bytes in one message.
  static constexpr size_t kMaxMessage = size_t{256} << 10;  // Bytes of output in one message.

  // All outlive the call.
  ConsoleStream(CallQueue& queue, v1::VmService::AsyncService& service, VmController& controller);
  ~ConsoleStream() override;

 private:
  // What the controller holds; it may outlive the stream, but is removed before the stream is
  // deleted.
  class Reader;

  // Input goes round: a message is read, then offered until the guest has taken all of it. One that
  // it has no room for is held until the machine says that there is room.
  enum class Input {
    kReading,
    kOffering,       // On the queue's thread, or about to be.
    kOfferingAgain,  // There has been room since that began.
    kHeld,
    kDone,  // No more comes, or none is wanted.
  };

  void RequestCall(void* tag) override;
  void OnBegin() override;
  void OnEnd() override;
  void OnRead(bool ok);
  void OnWritten(bool ok);

  void Push(std::string_view output);
  void End(absl::Status status);
  void GiveUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // The client is gone.
  void OnInputRoom();
  void OfferInput();
  // After each change of the state below: starts the next write or finishes the call, if that is
  // due.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  v1::VmService::AsyncService& service_;
  VmController& controller_;
  std::shared_ptr<Reader> reader_;  // Made when the call begins.
  grpc::ServerAsyncReaderWriter<v1::ConsoleOutput, v1::ConsoleInput> stream_{context()};
  Tag read_{*this, [this](bool ok) { OnRead(ok); }};
  Tag written_{*this, [this](bool ok) { OnWritten(ok); }};
  Tag room_{*this, [this](bool) { OfferInput(); }};

  v1::ConsoleInput message_;  // gRPC's while kReading, then the queue's thread's.
  size_t message_taken_ = 0;
  bool detach_at_eof_ = false;
  std::unique_ptr<grpc::Alarm> to_queue_ ABSL_GUARDED_BY(mutex_);  // Carries room_.

  Input input_ ABSL_GUARDED_BY(mutex_) = Input::kDone;
  std::string pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t lost_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // Dropped before pending_.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;     // The initial metadata, or output.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // Once set: finish with it.
};

}  // namespace vireo::api

#endif  // VIREO_API_CONSOLE_STREAM_H_
