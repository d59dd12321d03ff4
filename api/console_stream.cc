#include "api/console_stream.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "api/grpc_status.h"

namespace vireo::api {

class ConsoleStream::Reader final : public ConsoleReader {
 public:
  explicit Reader(ConsoleStream& stream) : stream_(stream) {}
  void OnOutput(std::string_view bytes) override { stream_.Push(bytes); }
  void OnInputRoom() override { stream_.OnInputRoom(); }
  void OnClosed() override { stream_.End(absl::OkStatus()); }

 private:
  ConsoleStream& stream_;
};

ConsoleStream::ConsoleStream(CallQueue& queue, v1::VmService::AsyncService& service,
                             VmController& controller)
    : ServerCall(queue), service_(service), controller_(controller) {}

ConsoleStream::~ConsoleStream() {
  if (reader_ != nullptr) controller_.RemoveConsoleReader(reader_.get());
}

void ConsoleStream::RequestCall(void* tag) {
  service_.RequestConsole(context(), &stream_, grpc_queue(), grpc_queue(), tag);
}

void ConsoleStream::OnBegin() {
  (new ConsoleStream(queue(), service_, controller_))->Listen();
  {
    MutexLock lock(mutex_);
    writing_ = true;
    stream_.SendInitialMetadata(Expect(written_));
    input_ = Input::kReading;
    stream_.Read(&message_, Expect(read_));
  }
  reader_ = std::make_shared<Reader>(*this);
  controller_.AddConsoleReader(reader_);
}

// ---- Output ----

void ConsoleStream::Push(std::string_view output) {
  MutexLock lock(mutex_);
  if (end_.has_value()) return;
  pending_.append(output);
  if (pending_.size() > kMaxPending) {
    // Down to half, so that a guest that prints byte by byte does not move a mebibyte for each.
    const size_t excess = pending_.size() - kMaxPending / 2;
    pending_.erase(0, excess);
    lost_bytes_ += excess;
  }
  Advance();
}

void ConsoleStream::End(absl::Status status) {
  MutexLock lock(mutex_);
  if (!end_.has_value()) end_ = std::move(status);
  Advance();
}

void ConsoleStream::OnWritten(bool ok) {
  MutexLock lock(mutex_);
  writing_ = false;
  if (!ok) GiveUp();
  Advance();
}

void ConsoleStream::OnEnd() {
  MutexLock lock(mutex_);
  GiveUp();
  Advance();
}

void ConsoleStream::GiveUp() {
  pending_.clear();
  if (!end_.has_value()) end_ = absl::CancelledError("the client is gone");
}

void ConsoleStream::Advance() {
  if (writing_ || finished_) return;
  if (!pending_.empty()) {
    v1::ConsoleOutput output;
    output.set_lost_bytes(std::exchange(lost_bytes_, 0));
    output.set_data(pending_.substr(0, kMaxMessage));
    pending_.erase(0, kMaxMessage);
    writing_ = true;
    stream_.Write(output, Expect(written_));  // Serialises it at once.
  } else if (end_.has_value()) {
    finished_ = true;
    stream_.Finish(ToGrpcStatus(*end_), ExpectLast());
  }
}

// ---- Input ----

void ConsoleStream::OnRead(bool ok) {
  const bool fits = message_.data().size() <= kMaxInput;
  {
    MutexLock lock(mutex_);
    input_ = ok && fits ? Input::kOffering : Input::kDone;
  }
  if (!ok) {  // The client has closed its side, or is gone (then OnEnd ends the call).
    if (detach_at_eof_) End(absl::OkStatus());
    return;
  }
  if (!fits) {
    End(absl::InvalidArgumentError(absl::StrFormat("data: %d bytes in one message; at most %d",
                                                   message_.data().size(), kMaxInput)));
    return;
  }
  detach_at_eof_ = detach_at_eof_ || message_.detach_at_eof();
  message_taken_ = 0;
  OfferInput();
}

void ConsoleStream::OfferInput() {
  while (true) {
    const std::string_view rest = std::string_view(message_.data()).substr(message_taken_);
    if (!rest.empty()) message_taken_ += controller_.WriteConsole(rest);
    MutexLock lock(mutex_);
    if (end_.has_value()) {
      input_ = Input::kDone;
    } else if (message_taken_ == message_.data().size()) {
      input_ = Input::kReading;
      stream_.Read(&message_, Expect(read_));
    } else if (input_ == Input::kOfferingAgain) {
      input_ = Input::kOffering;
      continue;
    } else {
      input_ = Input::kHeld;
    }
    return;
  }
}

void ConsoleStream::OnInputRoom() {
  MutexLock lock(mutex_);
  if (input_ == Input::kOffering) input_ = Input::kOfferingAgain;
  if (input_ != Input::kHeld || finished_) return;
  // The machine's thread must not call the controller: the queue's does, by way of an alarm that is
  // due at once.
  input_ = Input::kOffering;
  to_queue_ = std::make_unique<grpc::Alarm>();
  to_queue_->Set(grpc_queue(), gpr_inf_past(GPR_CLOCK_REALTIME), Expect(room_));
}

}  // namespace vireo::api
