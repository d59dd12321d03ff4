// EventLoop: one thread, one io_uring, and the coroutines (Task) that wait on it. Everything a
// device, a backend or an image does asynchronously is a member function here; nothing else in the
// program polls.
//
// A loop belongs to the thread that is inside Run(), RunTask() or RunUntilIdle(). Of its members
// only Post(), Stop() and RunOn() may be called from other threads. While nobody runs it, whoever
// holds it may use it.
//
// One turn of the loop: run what was posted, resume what is ready, hand all new operations to the
// kernel in one call (sleeping in the same call when nothing is ready), collect completions. An
// idle loop sleeps in the kernel.

#ifndef VIREO_BASE_ASYNC_EVENT_LOOP_H_
#define VIREO_BASE_ASYNC_EVENT_LOOP_H_

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/async/intrusive_list.h"
#include "base/async/offload_pool.h"
#include "base/async/ring.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"
#include "base/check.h"
#include "base/event_fd.h"
#include "base/iovecs.h"
#include "base/mutex.h"

namespace vireo {

namespace async_internal {
class Operation;
class OffloadWait;
template <typename T>
class RemoteResult;
}  // namespace async_internal

// Where a file's bytes are.
enum class FileKind {
  kStorage,
  // In memory (tmpfs): what is asked for is done on the loop itself, a turn later. io_uring would
  // hand each request to a thread of the kernel, which takes several times as long.
  kMemory,
};

class EventLoop {
 public:
  struct Options {
    unsigned entries = 256;   // Of the submission queue; more operations may be in flight.
    int offload_threads = 0;  // 0 means min(cores, 4). They start when first needed.
    // Instead of threads: an offloaded call runs on the loop, a few turns later, as this seed says,
    // so that a run can be repeated. Tests.
    std::optional<uint32_t> offload_seed;
    std::string name;  // The thread's name while it runs the loop; at most 15 characters show.
    bool force_plain_ring = false;      // As on a kernel without newer ring features; tests.
    bool force_blocking_files = false;  // As on a kernel whose rings lack file operations; tests.
  };

  // FAILED_PRECONDITION, naming the sysctl, when io_uring is disabled or too old;
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(Options options);
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create() { return Create(Options()); }
  // CHECKs that no operation, task or offloaded call is left. What was posted and did not run is
  // dropped.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // --- Running. Moving a loop to another thread needs that nothing is in flight (a CHECK). ---

  // On the calling thread until Stop(). May be called again later.
  void Run();
  // Any thread. Ends a Run() after its current turn; before a Run(), ends that one at once.
  void Stop();
  // Until nothing is ready and nothing but polls, eventfd waits and timers is in flight. Tests.
  void RunUntilIdle();
  // Until `task` has ended: tests, tools and set-up. Its result.
  template <typename T>
  T RunTask(Task<T> task);
  // True on the thread that runs the loop, and on any thread while none does.
  bool IsCurrent() const;
  // The loop whose coroutine or callback the calling thread is in; null outside.
  static EventLoop* Current();

  // --- From any thread. ---

  // Runs `fn` on the loop, in the order of the calls.
  void Post(absl::AnyInvocable<void()> fn);
  // Runs the Task<T> that factory() makes on the loop and blocks for its result. For threads other
  // than the loop's; the loop is running or will be, and is not stopped before. What `factory`
  // refers to stays valid meanwhile.
  template <typename F>
  auto RunOn(F factory) -> typename std::invoke_result_t<F&>::value_type;

  // --- Operations, awaited on the loop. Buffers and descriptors stay valid until the task has
  // ended, stopped or not. CANCELLED when `stop` asks before the operation has ended. Statuses keep
  // the errno (StatusErrno). ---

  // Reads at `offset` into all of `dst`; fewer bytes only at the end of the file. Short reads are
  // resumed, also more than IOV_MAX buffers are fine. After an error `dst` is undefined.
  Task<absl::StatusOr<size_t>> Read(int fd, uint64_t offset, IoVecs dst, StopToken stop = {},
                                    FileKind kind = FileKind::kStorage);
  // Writes all of `src` at `offset`. After an error any part may have been written.
  Task<absl::Status> Write(int fd, uint64_t offset, IoVecs src, StopToken stop = {},
                           FileKind kind = FileKind::kStorage);
  Task<absl::Status> SyncData(int fd);  // fdatasync(2)
  Task<absl::Status> SyncAll(int fd);   // fsync(2)
  // fallocate(2) with its modes (allocate, punch, zero).
  Task<absl::Status> Allocate(int fd, int mode, uint64_t offset, uint64_t length);
  // Waits until one of `events` (POLLIN, ...) is there, once; answers what is, POLLERR and POLLHUP
  // included.
  Task<absl::StatusOr<uint32_t>> Poll(int fd, uint32_t events, StopToken stop = {});
  // Waits for a signal and consumes the counter, which it answers.
  Task<absl::StatusOr<uint64_t>> Wait(const EventFd& event, StopToken stop = {});
  // Taps, sockets, pipes, terminals: one readv(2) or writev(2), tried first when the descriptor is
  // O_NONBLOCK and repeated when Poll says ready. 0 read is the end of the stream.
  Task<absl::StatusOr<size_t>> ReadSome(int fd, IoVecs dst, StopToken stop = {});
  Task<absl::StatusOr<size_t>> WriteSome(int fd, IoVecs src, StopToken stop = {});
  Task<absl::Status> SleepFor(absl::Duration duration, StopToken stop = {});
  // Lets everything that is ready go first.
  Task<void> Yield();

  // Runs fn() on the pool, for computing; resumes on the loop with its result. fn is destroyed on
  // the loop.
  template <typename F>
  Task<std::invoke_result_t<F&>> Offload(F fn);
  // The same on a thread of its own, for calls that may never return (the task then never ends).
  template <typename F>
  Task<std::invoke_result_t<F&>> OffloadBlocking(F fn);

  // --- For base/async: ---

  // Resumes `coroutine` in the next turn. On the loop.
  void MakeReady(std::coroutine_handle<> coroutine);

  // Makes a loop the current one while roots are started outside of it.
  class CurrentScope {
   public:
    explicit CurrentScope(EventLoop& loop);
    ~CurrentScope();
    CurrentScope(const CurrentScope&) = delete;
    CurrentScope& operator=(const CurrentScope&) = delete;

   private:
    EventLoop* const before_;
  };

 private:
  friend class async_internal::Operation;
  friend class async_internal::OffloadWait;
  enum class Block { kNo, kYes };
  // user_data of completions that belong to no operation.
  static constexpr uint64_t kIgnored = 0;
  static constexpr uint64_t kWakeUp = 1;
  class RunningScope;

  EventLoop(Options options, std::unique_ptr<async_internal::Ring> ring, EventFd wake);

  // One turn; false when nothing happened in it. Does not sleep once `ended` (may be null) is true.
  bool Turn(Block block, const bool* ended = nullptr);
  bool RunPosted();
  bool ResumeReady();
  void SubmitOperations();
  size_t ReapCompletions();
  void AdoptThread();
  void Wake();
  bool HasPosted() const { return posted_count_.load(std::memory_order_acquire) != 0; }
  void StartRoot(Task<void> task);
  void RunRoot(Task<void> task);
  Task<void> MarkEnded(Task<void> task, bool* ended);
  Task<int> Perform(async_internal::RingRequest request);
  Task<int> TransferWithoutRing(async_internal::RingRequest request, StopToken stop, FileKind kind);

  template <typename T>
  static Task<void> StoreResult(Task<T> task, std::optional<T>* result);
  template <typename T, typename F>
  static Task<void> Deliver(F* factory, async_internal::RemoteResult<T>* result);
  template <typename R, typename F>
  Task<R> OffloadTo(F fn, bool own_thread);

  const Options options_;
  std::unique_ptr<async_internal::Ring> ring_;
  const EventFd wake_;
  bool wake_polled_ = false;  // A poll of `wake_` is in flight.

  IntrusiveList<async_internal::Operation> to_submit_;
  size_t in_flight_ = 0;  // Operations that wait to be submitted or completed.
  size_t busy_ = 0;       // Of those, and of offloaded calls, the ones that will end by themselves.
  std::vector<std::coroutine_handle<>> ready_;
  std::vector<std::coroutine_handle<>> resuming_;
  async_internal::RootSet roots_;
  std::optional<std::thread::id> ring_thread_;  // Whose the ring is since Enable().

  std::atomic<std::thread::id> running_thread_{};
  std::atomic<bool> stop_requested_{false};
  std::atomic<bool> wake_signalled_{false};
  std::atomic<size_t> posted_count_{0};
  Mutex posted_mutex_;
  std::vector<absl::AnyInvocable<void()>> posted_ ABSL_GUARDED_BY(posted_mutex_);
  std::vector<absl::AnyInvocable<void()>> running_posted_;

  std::optional<std::minstd_rand> offload_turns_;  // Of options_.offload_seed.
  // Last: its threads post to the members above until it has joined them.
  async_internal::OffloadPool pool_;
};

// --- Implementation of the templates ---

namespace async_internal {

// A result on its way from the loop to the thread that waits for it.
template <typename T>
class RemoteResult {
 public:
  using Stored = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

  // Nothing here is touched after the waiter may have seen it.
  void Set(Stored value) {
    MutexLock lock(mutex_);
    value_.emplace(std::move(value));
    changed_.NotifyAll();
  }
  Stored Wait() {
    MutexLock lock(mutex_);
    while (!value_.has_value()) changed_.Wait(mutex_);
    return *std::move(value_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::optional<Stored> value_ ABSL_GUARDED_BY(mutex_);
};

// A call on another thread, awaited on the loop.
class OffloadCall {
 public:
  virtual void Run() = 0;

 protected:
  ~OffloadCall() = default;
};

template <typename R, typename F>
class OffloadCallOf final : public OffloadCall {
 public:
  explicit OffloadCallOf(F fn) : fn_(std::move(fn)) {}
  void Run() override {
    if constexpr (std::is_void_v<R>) {
      fn_();
    } else {
      result_.emplace(fn_());
    }
  }
  R Take() {
    if constexpr (!std::is_void_v<R>) return *std::move(result_);
  }

 private:
  F fn_;
  std::optional<std::conditional_t<std::is_void_v<R>, std::monostate, R>> result_;
};

class OffloadWait {
 public:
  OffloadWait(EventLoop& loop, OffloadCall& call, bool own_thread)
      : loop_(loop), call_(call), own_thread_(own_thread) {}
  ~OffloadWait() { VIREO_CHECK(!waiter_, "an offloaded call has returned before its frame dies"); }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter);
  void await_resume() const noexcept {}

 private:
  void RunAndReturn();  // On the other thread.
  void OnReturned();    // On the loop.

  EventLoop& loop_;
  OffloadCall& call_;
  const bool own_thread_;
  std::coroutine_handle<> waiter_;
  std::thread thread_;
};

}  // namespace async_internal

template <typename T>
Task<void> EventLoop::StoreResult(Task<T> task, std::optional<T>* result) {
  T value = co_await std::move(task);
  result->emplace(std::move(value));
}

template <typename T>
T EventLoop::RunTask(Task<T> task) {
  if constexpr (std::is_void_v<T>) {
    RunRoot(std::move(task));
  } else {
    std::optional<T> result;
    RunRoot(StoreResult<T>(std::move(task), &result));
    return *std::move(result);
  }
}

template <typename T, typename F>
Task<void> EventLoop::Deliver(F* factory, async_internal::RemoteResult<T>* result) {
  if constexpr (std::is_void_v<T>) {
    {
      // Gone, with all that it refers to, before the caller goes on.
      Task<T> task = (*factory)();
      co_await std::move(task);
    }
    result->Set({});
  } else {
    std::optional<T> value;
    {
      Task<T> task = (*factory)();
      T got = co_await std::move(task);
      value.emplace(std::move(got));
    }
    result->Set(*std::move(value));
  }
}

template <typename F>
auto EventLoop::RunOn(F factory) -> typename std::invoke_result_t<F&>::value_type {
  using T = typename std::invoke_result_t<F&>::value_type;
  VIREO_CHECK(running_thread_.load() != std::this_thread::get_id(),
              "a loop does not wait for itself: co_await instead");
  async_internal::RemoteResult<T> result;
  Post([this, &factory, &result] { StartRoot(Deliver<T>(&factory, &result)); });
  if constexpr (std::is_void_v<T>) {
    result.Wait();
  } else {
    return result.Wait();
  }
}

template <typename R, typename F>
Task<R> EventLoop::OffloadTo(F fn, bool own_thread) {
  async_internal::OffloadCallOf<R, F> call(std::move(fn));
  if (offload_turns_.has_value()) {
    for (uint32_t turns = (*offload_turns_)() % 8 + 1; turns > 0; --turns) co_await Yield();
    call.Run();
    co_return call.Take();
  }
  async_internal::OffloadWait returned(*this, call, own_thread);
  co_await returned;
  co_return call.Take();
}

template <typename F>
Task<std::invoke_result_t<F&>> EventLoop::Offload(F fn) {
  return OffloadTo<std::invoke_result_t<F&>>(std::move(fn), false);
}

template <typename F>
Task<std::invoke_result_t<F&>> EventLoop::OffloadBlocking(F fn) {
  return OffloadTo<std::invoke_result_t<F&>>(std::move(fn), true);
}

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_EVENT_LOOP_H_
