#include "api/event_stream.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "api/convert.h"
#include "api/grpc_status.h"

namespace vireo::api {

class EventStream::Watcher final : public EventWatcher {
 public:
  explicit Watcher(EventStream& stream) : stream_(stream) {}
  void OnEvent(const VmEvent& event) override { stream_.Push(event); }
  void OnClosed() override { stream_.End(absl::OkStatus()); }

 private:
  EventStream& stream_;
};

EventStream::EventStream(VmController& controller, uint64_t after_sequence)
    : controller_(controller), watcher_(std::make_shared<Watcher>(*this)) {
  StartSendInitialMetadata();  // Tells the client that the watch stands before any event happens.
  controller_.AddEventWatcher(watcher_, after_sequence);
}

void EventStream::Push(const VmEvent& event) {
  Update([&] {
    if (end_.has_value()) return;
    if (pending_.size() < kMaxPending) {
      pending_.push_back(EventToProto(event));
      return;
    }
    pending_.clear();
    end_ = absl::ResourceExhaustedError(absl::StrFormat(
        "more than %d events wait for this reader; watch again from the last sequence seen",
        kMaxPending));
  });
}

void EventStream::End(absl::Status status) {
  Update([&] {
    if (!end_.has_value()) end_ = std::move(status);
  });
}

void EventStream::Update(absl::FunctionRef<void()> change) {
  bool write = false;
  absl::Status status;
  {
    MutexLock lock(mutex_);
    change();
    if (writing_ || finished_) return;
    if (!pending_.empty()) {
      current_ = std::move(pending_.front());
      pending_.pop_front();
      writing_ = write = true;
    } else if (end_.has_value()) {
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

void EventStream::OnWriteDone(bool ok) {
  Update([&] {
    writing_ = false;
    if (ok) return;
    pending_.clear();
    if (!end_.has_value()) end_ = absl::CancelledError("the client is gone");
  });
}

void EventStream::OnCancel() {
  Update([&] {
    pending_.clear();
    if (!end_.has_value()) end_ = absl::CancelledError("the client is gone");
  });
}

void EventStream::OnDone() {
  controller_.RemoveEventWatcher(watcher_.get());
  delete this;
}

}  // namespace vireo::api
