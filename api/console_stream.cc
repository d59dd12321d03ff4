#include "api/console_stream.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "api/grpc_status.h"

namespace vireo::api {
namespace {

// A guest that does not read its serial port costs 50 wake-ups a second while a client has typed
// more than 64 KiB.
constexpr std::chrono::milliseconds kRetry(20);

}  // namespace

class ConsoleStream::Reader final : public ConsoleReader {
 public:
  explicit Reader(ConsoleStream& stream) : stream_(stream) {}
  void OnOutput(std::string_view bytes) override { stream_.Push(bytes); }
  void OnClosed() override { stream_.End(absl::OkStatus()); }

 private:
  ConsoleStream& stream_;
};

ConsoleStream::ConsoleStream(VmController& controller)
    : controller_(controller), reader_(std::make_shared<Reader>(*this)) {
  StartSendInitialMetadata();
  StartRead(&input_);
  controller_.AddConsoleReader(reader_);
}

void ConsoleStream::Push(std::string_view output) {
  Update([&] {
    if (end_.has_value()) return;
    pending_.append(output);
    if (pending_.size() > kMaxPending) {
      // Down to half, so that a guest that prints byte by byte does not move a mebibyte for each.
      const size_t excess = pending_.size() - kMaxPending / 2;
      pending_.erase(0, excess);
      lost_bytes_ += excess;
    }
  });
}

void ConsoleStream::End(absl::Status status) {
  Update([&] {
    if (!end_.has_value()) end_ = std::move(status);
  });
}

void ConsoleStream::Update(absl::FunctionRef<void()> change) {
  bool write = false;
  absl::Status status;
  {
    MutexLock lock(mutex_);
    change();
    if (writing_ || finished_) return;
    if (!pending_.empty()) {
      current_.Clear();
      current_.set_lost_bytes(std::exchange(lost_bytes_, 0));
      current_.set_data(pending_.substr(0, kMaxMessage));
      pending_.erase(0, kMaxMessage);
      writing_ = write = true;
    } else if (end_.has_value() && taking_input_ == 0) {
      finished_ = true;
      status = *end_;
    } else {
      return;
    }
  }
  if (write) {
    StartWrite(&current_);
  } else {
    Finish(ToGrpcStatus(status));  // From here on OnDone may delete this.
  }
}

void ConsoleStream::OnReadDone(bool ok) {
  if (!ok) {  // The client has closed its side, or is gone (then OnCancel ends the call).
    if (detach_at_eof_) End(absl::OkStatus());
    return;
  }
  detach_at_eof_ = detach_at_eof_ || input_.detach_at_eof();
  input_taken_ = 0;
  if (input_.data().size() > kMaxInput) {
    End(absl::InvalidArgumentError(absl::StrFormat("data: %d bytes in one message; at most %d",
                                                   input_.data().size(), kMaxInput)));
    return;
  }
  Update([&] { ++taking_input_; });
  OfferInput();
}

void ConsoleStream::OfferInput() {
  const std::string_view rest = std::string_view(input_.data()).substr(input_taken_);
  if (!rest.empty()) input_taken_ += controller_.WriteConsole(rest);
  bool ended = false;
  Update([&] { ended = end_.has_value(); });  // taking_input_ still keeps this alive.
  if (!ended && input_taken_ < input_.data().size()) {
    retry_ =
        std::make_unique<grpc::Alarm>();  // One alarm cannot be set again from its own callback.
    retry_->Set(std::chrono::system_clock::now() + kRetry, [this](bool) { OfferInput(); });
    return;
  }
  if (!ended) StartRead(&input_);
  Update([&] { --taking_input_; });
}

void ConsoleStream::OnWriteDone(bool ok) {
  Update([&] {
    writing_ = false;
    if (ok) return;
    pending_.clear();
    if (!end_.has_value()) end_ = absl::CancelledError("the client is gone");
  });
}

void ConsoleStream::OnCancel() {
  Update([&] {
    pending_.clear();
    if (!end_.has_value()) end_ = absl::CancelledError("the client is gone");
  });
}

void ConsoleStream::OnDone() {
  controller_.RemoveConsoleReader(reader_.get());
  delete this;
}

}  // namespace vireo::api
