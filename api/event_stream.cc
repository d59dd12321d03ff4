#include "api/event_stream.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "api/grpc_status.h"
#include "api/report_convert.h"

namespace vireo::api {

class EventStream::Watcher final : public EventWatcher {
 public:
  explicit Watcher(EventStream& stream) : stream_(stream) {}
  void OnEvent(const VmEvent& event) override { stream_.Push(event); }
  void OnClosed() override { stream_.End(absl::OkStatus()); }

 private:
  EventStream& stream_;
};

EventStream::EventStream(CallQueue& queue, v1::VmService::AsyncService& service,
                         VmController& controller)
    : ServerCall(queue), service_(service), controller_(controller) {}

EventStream::~EventStream() {
  if (watcher_ != nullptr) controller_.RemoveEventWatcher(watcher_.get());
}

void EventStream::RequestCall(void* tag) {
  service_.RequestWatchEvents(context(), &request_, &writer_, grpc_queue(), grpc_queue(), tag);
}

void EventStream::OnBegin() {
  (new EventStream(queue(), service_, controller_))->Listen();
  {
    MutexLock lock(mutex_);
    writing_ = true;
    // Tells the client that the watch stands before any event happens.
    writer_.SendInitialMetadata(Expect(written_));
  }
  watcher_ = std::make_shared<Watcher>(*this);
  controller_.AddEventWatcher(watcher_, request_.after_sequence());
}

void EventStream::Push(const VmEvent& event) {
  MutexLock lock(mutex_);
  if (end_.has_value()) return;
  if (pending_.size() < kMaxPending) {
    pending_.push_back(EventToProto(event));
  } else {
    pending_.clear();
    end_ = absl::ResourceExhaustedError(absl::StrFormat(
        "more than %d events wait for this reader; watch again from the last sequence seen",
        kMaxPending));
  }
  Advance();
}

void EventStream::End(absl::Status status) {
  MutexLock lock(mutex_);
  if (!end_.has_value()) end_ = std::move(status);
  Advance();
}

void EventStream::OnWritten(bool ok) {
  MutexLock lock(mutex_);
  writing_ = false;
  if (!ok) GiveUp();
  Advance();
}

void EventStream::OnEnd() {
  MutexLock lock(mutex_);
  GiveUp();
  Advance();
}

void EventStream::GiveUp() {
  pending_.clear();
  if (!end_.has_value()) end_ = absl::CancelledError("the client is gone");
}

void EventStream::Advance() {
  if (writing_ || finished_) return;
  if (!pending_.empty()) {
    writing_ = true;
    writer_.Write(pending_.front(), Expect(written_));  // Serialises the event at once.
    pending_.pop_front();
  } else if (end_.has_value()) {
    finished_ = true;
    writer_.Finish(ToGrpcStatus(*end_), ExpectLast());
  }
}

}  // namespace vireo::api
