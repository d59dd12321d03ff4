#include "base/async/event_loop.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "base/async/blocking_request.h"
#include "base/async/operation.h"
#include "base/status.h"

namespace vireo {

using async_internal::Operation;
using async_internal::Ring;
using async_internal::RingOp;
using async_internal::RingRequest;

namespace {

constinit thread_local EventLoop* current_loop = nullptr;

constexpr uint64_t kLongestTransfer = 0x7ffff000;  // The kernel's MAX_RW_COUNT.

Ring::Options RingOptions(const EventLoop::Options& options) {
  return {.entries = options.entries,
          .force_plain = options.force_plain_ring,
          .force_blocking_files = options.force_blocking_files};
}

// The part of a scatter list that is still to be moved.
class Remaining {
 public:
  explicit Remaining(IoVecs iovecs) : rest_(iovecs) { Advance(0); }

  // At most IOV_MAX vectors, the first one not empty. Valid until the next call of either.
  IoVecs Window() {
    const IoVecs window = rest_.first(std::min<size_t>(rest_.size(), IOV_MAX));
    if (first_done_ == 0) return window;
    cut_.assign(window.begin(), window.end());
    cut_.front().iov_base = static_cast<uint8_t*>(cut_.front().iov_base) + first_done_;
    cut_.front().iov_len -= first_done_;
    return cut_;
  }
  void Advance(size_t bytes) {
    first_done_ += bytes;
    while (!rest_.empty() && first_done_ >= rest_.front().iov_len) {
      first_done_ -= rest_.front().iov_len;
      rest_ = rest_.subspan(1);
    }
  }

 private:
  IoVecs rest_;
  size_t first_done_ = 0;  // Bytes of the first vector that are done.
  IoVecList cut_;
};

// `window` stays valid until the operation has ended.
RingRequest TransferRequest(RingOp one, RingOp many, int fd, uint64_t offset, IoVecs window) {
  RingRequest request = {.op = many, .fd = fd, .offset = offset};
  if (window.size() == 1) {
    request.op = one;
    request.address = reinterpret_cast<uintptr_t>(window.front().iov_base);
    request.length =
        static_cast<uint32_t>(std::min<uint64_t>(window.front().iov_len, kLongestTransfer));
  } else {
    request.address = reinterpret_cast<uintptr_t>(window.data());
    request.length = static_cast<uint32_t>(window.size());
  }
  return request;
}

absl::Status OperationError(int result, std::string_view what) {
  if (result == -ECANCELED) return absl::CancelledError(absl::StrFormat("%s: stopped", what));
  return ErrnoStatus(-result, what);
}

absl::Status TransferError(int result, std::string_view verb, uint64_t offset, uint64_t length) {
  return OperationError(result, absl::StrFormat("%s %d bytes at offset %d", verb, length, offset));
}

bool IsNonblocking(int fd) { return (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }

// With O_DIRECT a read that ended at an odd end of file cannot be resumed there: is that all there
// was?
bool IsAtOrPastEnd(int fd, uint64_t offset) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
         offset >= static_cast<uint64_t>(status.st_size);
}

struct BlockingCall {
  RingRequest request;
  int operator()() const { return async_internal::PerformBlocking(request); }
};

class YieldAwaiter {
 public:
  explicit YieldAwaiter(EventLoop& loop) : loop_(loop) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) const { loop_.MakeReady(waiter); }
  void await_resume() const noexcept {}

 private:
  EventLoop& loop_;
};

}  // namespace

// --- Construction and running ---

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create(Options options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Ring> ring, Ring::Create(RingOptions(options)));
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  return std::unique_ptr<EventLoop>(
      new EventLoop(std::move(options), std::move(ring), std::move(wake)));
}

EventLoop::EventLoop(Options options, std::unique_ptr<Ring> ring, EventFd wake)
    : options_(std::move(options)),
      ring_(std::move(ring)),
      wake_(std::move(wake)),
      roots_(nullptr),
      pool_(options_.offload_threads) {
  if (options_.offload_seed.has_value()) offload_turns_.emplace(*options_.offload_seed);
}

EventLoop::~EventLoop() {
  VIREO_CHECK(running_thread_.load() == std::thread::id(), "a loop does not die while it runs");
  VIREO_CHECK(in_flight_ == 0 && busy_ == 0 && roots_.size() == 0,
              "everything on a loop is stopped and joined before the loop dies");
}

EventLoop* EventLoop::Current() { return current_loop; }

EventLoop::CurrentScope::CurrentScope(EventLoop& loop)
    : before_(std::exchange(current_loop, &loop)) {}

EventLoop::CurrentScope::~CurrentScope() { current_loop = before_; }

// The calling thread runs the loop.
class EventLoop::RunningScope {
 public:
  explicit RunningScope(EventLoop& loop) : loop_(loop), current_(loop) {
    std::thread::id nobody;
    VIREO_CHECK(loop_.running_thread_.compare_exchange_strong(nobody, std::this_thread::get_id()),
                "one thread runs a loop, and not from within it");
    loop_.AdoptThread();
  }
  ~RunningScope() { loop_.running_thread_.store(std::thread::id()); }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  EventLoop& loop_;
  CurrentScope current_;
};

void EventLoop::AdoptThread() {
  const std::thread::id self = std::this_thread::get_id();
  if (ring_thread_ == self) return;
  if (ring_thread_.has_value()) {
    // The kernel ties a ring and what is in flight on it to the thread that submits.
    VIREO_CHECK(busy_ == 0 && in_flight_ == 0,
                "nothing is in flight on a loop that moves to another thread");
    ring_.reset();
    absl::StatusOr<std::unique_ptr<Ring>> ring = Ring::Create(RingOptions(options_));
    VIREO_CHECK(ring.ok(), std::string(ring.status().message()));
    ring_ = *std::move(ring);
    wake_polled_ = false;
  }
  ring_thread_ = self;
  ring_->Enable();
}

void EventLoop::Run() {
  RunningScope running(*this);
  if (!options_.name.empty()) {
    ::pthread_setname_np(::pthread_self(), options_.name.substr(0, 15).c_str());
  }
  while (!stop_requested_.load(std::memory_order_acquire)) Turn(Block::kYes);
  stop_requested_.store(false);
}

void EventLoop::Stop() {
  stop_requested_.store(true, std::memory_order_release);
  Wake();
}

void EventLoop::RunUntilIdle() {
  RunningScope running(*this);
  while (Turn(Block::kNo) || busy_ > 0 || HasPosted()) {
    if (busy_ > 0 && ready_.empty() && !HasPosted()) Turn(Block::kYes);
  }
}

void EventLoop::RunRoot(Task<void> task) {
  RunningScope running(*this);
  bool ended = false;
  roots_.Start(MarkEnded(std::move(task), &ended));
  while (!ended) Turn(Block::kYes, &ended);
}

Task<void> EventLoop::MarkEnded(Task<void> task, bool* ended) {
  co_await std::move(task);
  *ended = true;
}

void EventLoop::StartRoot(Task<void> task) { roots_.Start(std::move(task)); }

bool EventLoop::IsCurrent() const {
  const std::thread::id running = running_thread_.load(std::memory_order_relaxed);
  return running == std::thread::id() || running == std::this_thread::get_id();
}

void EventLoop::Post(absl::AnyInvocable<void()> fn) {
  {
    MutexLock lock(posted_mutex_);
    posted_.push_back(std::move(fn));
    posted_count_.store(posted_.size(), std::memory_order_release);
    // Under the lock: once the loop has run `fn`, whoever waited for it may destroy the loop.
    if (running_thread_.load(std::memory_order_relaxed) != std::this_thread::get_id()) Wake();
  }
}

void EventLoop::Wake() {
  if (!wake_signalled_.exchange(true)) wake_.Signal();
}

void EventLoop::MakeReady(std::coroutine_handle<> coroutine) {
  VIREO_DCHECK(IsCurrent());
  ready_.push_back(coroutine);
}

// --- One turn ---

bool EventLoop::Turn(Block block, const bool* ended) {
  const bool ran = RunPosted();
  const bool resumed = ResumeReady();
  if (!wake_polled_) {
    wake_polled_ =
        ring_->TryPrepare({.op = RingOp::kPoll, .fd = wake_.fd(), .flags = POLLIN}, kWakeUp);
  }
  SubmitOperations();
  // Whatever is posted from here on signals `wake_`, which the sleep below hears.
  const bool sleep = block == Block::kYes && !(ended != nullptr && *ended) && wake_polled_ &&
                     ready_.empty() && !HasPosted() &&
                     !stop_requested_.load(std::memory_order_acquire);
  ring_->Submit(!sleep      ? Ring::Sleep::kNo
                : busy_ > 0 ? Ring::Sleep::kForFiles
                            : Ring::Sleep::kForEvents);
  const size_t completions = ReapCompletions();
  return ran || resumed || completions > 0 || !to_submit_.empty();
}

bool EventLoop::RunPosted() {
  if (!HasPosted()) return false;
  {
    MutexLock lock(posted_mutex_);
    running_posted_.swap(posted_);
    posted_count_.store(0, std::memory_order_release);
  }
  for (absl::AnyInvocable<void()>& fn : running_posted_) fn();
  running_posted_.clear();
  return true;
}

bool EventLoop::ResumeReady() {
  if (ready_.empty()) return false;
  resuming_.swap(ready_);
  for (const std::coroutine_handle<> coroutine : resuming_) {
    async_internal::ResumeFromLoop(coroutine);
  }
  resuming_.clear();
  return true;
}

void EventLoop::SubmitOperations() {
  while (!to_submit_.empty()) {
    Operation& operation = to_submit_.front();
    if (!operation.TrySubmit(*ring_)) {
      ring_->Submit(Ring::Sleep::kNo);
      // Still no room: completions must be collected first. The rest goes in the next turn.
      if (!operation.TrySubmit(*ring_)) return;
    }
    IntrusiveList<Operation>::Remove(operation);
  }
}

size_t EventLoop::ReapCompletions() {
  std::array<Ring::Completion, 64> completions;
  size_t total = 0;
  size_t got;
  do {
    got = ring_->Reap(completions);
    for (size_t i = 0; i < got; ++i) {
      const Ring::Completion& completion = completions[i];
      if (completion.user_data == kWakeUp) {
        wake_polled_ = false;
        wake_.Drain();
        // Before the queue is looked at: a post after that signals again.
        wake_signalled_.store(false);
      } else if (completion.user_data != kIgnored) {
        reinterpret_cast<Operation*>(completion.user_data)->Complete(completion.result);
      }
    }
    total += got;
  } while (got == completions.size());
  return total;
}

// --- Operations ---

Task<int> EventLoop::Perform(RingRequest request) {
  int result = 0;
  if (ring_->Supports(request.op)) {
    Operation operation(*this, request);
    result = co_await operation;
  } else {
    BlockingCall call = {request};
    result = co_await Offload(call);
  }
  co_return result;
}

Task<int> EventLoop::TransferWithoutRing(RingRequest request, StopToken stop, FileKind kind) {
  if (kind == FileKind::kMemory) co_await Yield();
  if (stop.stop_requested()) co_return -ECANCELED;
  if (kind == FileKind::kMemory) co_return async_internal::PerformBlocking(request);
  const int result = co_await Perform(request);
  co_return result;
}

Task<absl::StatusOr<size_t>> EventLoop::Read(int fd, uint64_t offset, IoVecs dst, StopToken stop,
                                             FileKind kind) {
  VIREO_DCHECK(IsCurrent());
  const uint64_t total = TotalSize(dst);
  uint64_t done = 0;
  Remaining remaining(dst);
  while (done < total) {
    const RingRequest request =
        TransferRequest(RingOp::kRead, RingOp::kReadv, fd, offset + done, remaining.Window());
    int result = 0;
    if (kind == FileKind::kStorage && ring_->Supports(request.op)) {
      Operation operation(*this, request, stop);
      result = co_await operation;
    } else {
      result = co_await TransferWithoutRing(request, stop, kind);
    }
    if (result > 0) {
      done += static_cast<uint64_t>(result);
      remaining.Advance(static_cast<size_t>(result));
    } else if (result == 0) {
      break;
    } else if (result == -EINVAL && done > 0 && IsAtOrPastEnd(fd, offset + done)) {
      break;
    } else if (result != -EINTR && result != -EAGAIN) {
      co_return TransferError(result, "read", offset + done, total - done);
    }
  }
  co_return static_cast<size_t>(done);
}

Task<absl::Status> EventLoop::Write(int fd, uint64_t offset, IoVecs src, StopToken stop,
                                    FileKind kind) {
  VIREO_DCHECK(IsCurrent());
  const uint64_t total = TotalSize(src);
  uint64_t done = 0;
  Remaining remaining(src);
  while (done < total) {
    const RingRequest request =
        TransferRequest(RingOp::kWrite, RingOp::kWritev, fd, offset + done, remaining.Window());
    int result = 0;
    if (kind == FileKind::kStorage && ring_->Supports(request.op)) {
      Operation operation(*this, request, stop);
      result = co_await operation;
    } else {
      result = co_await TransferWithoutRing(request, stop, kind);
    }
    if (result > 0) {
      done += static_cast<uint64_t>(result);
      remaining.Advance(static_cast<size_t>(result));
    } else if (result != -EINTR && result != -EAGAIN) {
      // A write that moves nothing and names no error would be repeated for ever.
      co_return TransferError(result == 0 ? -EIO : result, "write", offset + done, total - done);
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> EventLoop::SyncData(int fd) {
  VIREO_DCHECK(IsCurrent());
  const int result = co_await Perform({.op = RingOp::kFsync, .fd = fd, .flags = 1});
  if (result < 0) co_return OperationError(result, "fdatasync");
  co_return absl::OkStatus();
}

Task<absl::Status> EventLoop::SyncAll(int fd) {
  VIREO_DCHECK(IsCurrent());
  const int result = co_await Perform({.op = RingOp::kFsync, .fd = fd});
  if (result < 0) co_return OperationError(result, "fsync");
  co_return absl::OkStatus();
}

Task<absl::Status> EventLoop::Allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  VIREO_DCHECK(IsCurrent());
  const RingRequest request = {.op = RingOp::kFallocate,
                               .fd = fd,
                               .offset = offset,
                               .address = length,
                               .length = static_cast<uint32_t>(mode)};
  int result = -EINTR;
  while (result == -EINTR) result = co_await Perform(request);
  if (result < 0) co_return TransferError(result, "fallocate", offset, length);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<uint32_t>> EventLoop::Poll(int fd, uint32_t events, StopToken stop) {
  VIREO_DCHECK(IsCurrent());
  const RingRequest request = {.op = RingOp::kPoll, .fd = fd, .flags = events};
  Operation operation(*this, request, stop);
  const int result = co_await operation;
  if (result < 0) co_return OperationError(result, "poll");
  co_return static_cast<uint32_t>(result);
}

Task<absl::StatusOr<uint64_t>> EventLoop::Wait(const EventFd& event, StopToken stop) {
  uint64_t count = 0;
  while (count == 0) {
    const RingRequest request = {.op = RingOp::kPoll, .fd = event.fd(), .flags = POLLIN};
    Operation operation(*this, request, stop);
    const int result = co_await operation;
    if (result < 0) co_return OperationError(result, "wait for an event");
    count = event.Drain();
  }
  co_return count;
}

Task<absl::StatusOr<size_t>> EventLoop::ReadSome(int fd, IoVecs dst, StopToken stop) {
  VIREO_DCHECK(IsCurrent());
  bool ready = IsNonblocking(fd);
  const int count = static_cast<int>(std::min<size_t>(dst.size(), IOV_MAX));
  while (true) {
    if (stop.stop_requested()) co_return OperationError(-ECANCELED, "read");
    if (ready) {
      const ssize_t got = ::readv(fd, dst.data(), count);
      if (got >= 0) co_return static_cast<size_t>(got);
      if (errno != EAGAIN && errno != EINTR) co_return ErrnoStatus(errno, "read");
    }
    absl::StatusOr<uint32_t> events = co_await Poll(fd, POLLIN, stop);
    if (!events.ok()) co_return events.status();
    ready = true;
  }
}

Task<absl::StatusOr<size_t>> EventLoop::WriteSome(int fd, IoVecs src, StopToken stop) {
  VIREO_DCHECK(IsCurrent());
  bool ready = IsNonblocking(fd);
  const int count = static_cast<int>(std::min<size_t>(src.size(), IOV_MAX));
  while (true) {
    if (stop.stop_requested()) co_return OperationError(-ECANCELED, "write");
    if (ready) {
      const ssize_t put = ::writev(fd, src.data(), count);
      if (put >= 0) co_return static_cast<size_t>(put);
      if (errno != EAGAIN && errno != EINTR) co_return ErrnoStatus(errno, "write");
    }
    absl::StatusOr<uint32_t> events = co_await Poll(fd, POLLOUT, stop);
    if (!events.ok()) co_return events.status();
    ready = true;
  }
}

Task<absl::Status> EventLoop::SleepFor(absl::Duration duration, StopToken stop) {
  VIREO_DCHECK(IsCurrent());
  constexpr absl::Duration kLongest = absl::Hours(24 * 365 * 100);
  const int64_t nanoseconds =
      absl::ToInt64Nanoseconds(std::clamp(duration, absl::ZeroDuration(), kLongest));
  async_internal::Timespec timespec = {.seconds = nanoseconds / 1000000000,
                                       .nanoseconds = nanoseconds % 1000000000};
  const RingRequest request = {.op = RingOp::kTimeout,
                               .address = reinterpret_cast<uintptr_t>(&timespec)};
  Operation operation(*this, request, stop);
  const int result = co_await operation;
  if (result < 0 && result != -ETIME) co_return OperationError(result, "sleep");
  co_return absl::OkStatus();
}

Task<void> EventLoop::Yield() {
  YieldAwaiter yielded(*this);
  co_await yielded;
}

// --- Offloading ---

namespace async_internal {

void OffloadWait::await_suspend(std::coroutine_handle<> waiter) {
  VIREO_DCHECK(loop_.IsCurrent());
  waiter_ = waiter;
  ++loop_.busy_;
  if (own_thread_) thread_ = StartThread([this] { RunAndReturn(); });
  // Without a thread of its own (the system has no more) the pool is the next best.
  if (!thread_.joinable()) loop_.pool_.Run([this] { RunAndReturn(); });
}

void OffloadWait::RunAndReturn() {
  call_.Run();
  loop_.Post([this] { OnReturned(); });
}

void OffloadWait::OnReturned() {
  if (thread_.joinable()) thread_.join();
  --loop_.busy_;
  loop_.MakeReady(std::exchange(waiter_, nullptr));
}

}  // namespace async_internal

}  // namespace vireo
