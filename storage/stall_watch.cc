#include "storage/stall_watch.h"

#include <utility>

#include "base/async/stop_token.h"
#include "base/check.h"

namespace vireo {
namespace {

constexpr int kRoundsOfALimit = 4;

}  // namespace

StallWatch::Request::Request(StallWatch& watch, Stall what)
    : watch_(watch), what_(what), begun_(watch.round_), previous_(watch.newest_) {
  (previous_ == nullptr ? watch_.oldest_ : previous_->next_) = this;
  watch_.newest_ = this;
  if (!watch_.watching_) {
    watch_.watching_ = true;
    watch_.scope_.Spawn(watch_.Watch());
  }
}

StallWatch::Request::~Request() {
  (previous_ == nullptr ? watch_.oldest_ : previous_->next_) = next_;
  (next_ == nullptr ? watch_.newest_ : next_->previous_) = previous_;
  if (watch_.stalled_ && !watch_.OldestWaitsTooLong()) {
    watch_.stalled_ = false;
    if (watch_.options_.on_answer) watch_.options_.on_answer();
  }
}

StallWatch::StallWatch(EventLoop& loop, std::unique_ptr<BlockBackend> disk, Options options)
    : loop_(loop), disk_(std::move(disk)), options_(std::move(options)), scope_(loop) {
  VIREO_CHECK(options_.limit >= absl::Milliseconds(1));
}

StallWatch::~StallWatch() { VIREO_CHECK(oldest_ == nullptr, "a backend outlives its operations"); }

// The round in which a request came may have been nearly over, and is not counted.
bool StallWatch::OldestWaitsTooLong() const {
  return oldest_ != nullptr && round_ - oldest_->begun_ > kRoundsOfALimit;
}

Task<void> StallWatch::Watch() {
  while (!scope_.stop_requested()) {
    const absl::Duration round = options_.limit / kRoundsOfALimit;
    StopToken stop = scope_.stop_token();
    const absl::Status slept = co_await loop_.SleepFor(round, stop);
    if (!slept.ok() || oldest_ == nullptr) break;
    ++round_;
    if (!stalled_ && OldestWaitsTooLong()) {
      stalled_ = true;
      if (options_.on_stall) options_.on_stall(oldest_->what_);
    }
  }
  watching_ = false;
}

Task<absl::Status> StallWatch::Read(uint64_t offset, IoVecs dst) {
  const Request request(*this, {.write = false, .offset = offset});
  const absl::Status status = co_await disk_->Read(offset, dst);
  co_return status;
}

Task<absl::Status> StallWatch::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  const Request request(*this, {.write = true, .offset = offset});
  const absl::Status status = co_await disk_->Write(offset, src, flags);
  co_return status;
}

Task<absl::Status> StallWatch::WriteCompressed(uint64_t offset, IoVecs src) {
  const Request request(*this, {.write = true, .offset = offset});
  const absl::Status status = co_await disk_->WriteCompressed(offset, src);
  co_return status;
}

Task<absl::Status> StallWatch::Flush() {
  const Request request(*this, {.write = true});
  const absl::Status status = co_await disk_->Flush();
  co_return status;
}

Task<absl::Status> StallWatch::Discard(uint64_t offset, uint64_t length) {
  const Request request(*this, {.write = true, .offset = offset});
  const absl::Status status = co_await disk_->Discard(offset, length);
  co_return status;
}

Task<absl::Status> StallWatch::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const Request request(*this, {.write = true, .offset = offset});
  const absl::Status status = co_await disk_->WriteZeroes(offset, length, flags);
  co_return status;
}

Task<absl::Status> StallWatch::Close() {
  scope_.RequestStop();
  co_await scope_.Join();
  const absl::Status status = co_await disk_->Close();
  co_return status;
}

}  // namespace vireo
