// Task<T>: a coroutine that yields one T to the coroutine that awaits it. Lazy, move-only,
// single-threaded: it is started, suspended, resumed and destroyed on the thread of one EventLoop.
//
//   Task<absl::StatusOr<Header>> ReadHeader(File& file);  // A coroutine, or returns one.
//
//   absl::StatusOr<Header> header = co_await ReadHeader(file);  // Starts it, and owns its frame.
//
// Awaiting starts the child inline; if it ends at once the parent does not suspend. When a
// suspended child ends, its parent is resumed by the loop, after the child's stack frames are gone:
// neither loops over cached work nor long chains deepen the stack. Nothing is thrown:
// unhandled_exception() aborts. Destroying a suspended task is a CHECK. How to write coroutines so
// that g++ 12 compiles them rightly: docs/coroutines.md.

#ifndef VIREO_BASE_ASYNC_TASK_H_
#define VIREO_BASE_ASYNC_TASK_H_

#include <concepts>
#include <coroutine>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/async/frame_pool.h"
#include "base/async/intrusive_list.h"
#include "base/check.h"

namespace vireo {

template <typename T>
class Task;

namespace async_internal {

class PromiseBase;

// Whoever started a task that nobody awaits (a TaskScope, a loop) and destroys it when it has
// ended.
class RootOwner {
 public:
  // Called from the loop, outside every coroutine.
  virtual void OnRootEnded(PromiseBase& root) = 0;

 protected:
  ~RootOwner() = default;
};

// What the coroutine that has just ended leaves for the loop to do once its stack frames are gone.
struct Epilogue {
  std::coroutine_handle<> resume;  // The parent that awaits it,
  PromiseBase* ended_root;         // or the root that it is.
};
extern constinit thread_local Epilogue epilogue;

// Resumes `coroutine`, then each parent that ends up ready because its child has ended. Called by
// the loop only.
void ResumeFromLoop(std::coroutine_handle<> coroutine);

class PromiseBase : public ListNode<PromiseBase> {
 public:
  static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
  static void operator delete(void* frame, size_t bytes) { FreeFrame(frame, bytes); }

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <typename Promise>
    void await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      PromiseBase& promise = ended.promise();
      if (promise.parent_) {
        epilogue.resume = promise.parent_;
      } else if (promise.owner_ != nullptr) {
        epilogue.ended_root = &promise;
      }
    }
    void await_resume() const noexcept {}
  };

  std::suspend_always initial_suspend() const noexcept { return {}; }
  FinalAwaiter final_suspend() const noexcept { return {}; }
  void unhandled_exception() const noexcept {
    CheckFailed(__FILE__, __LINE__, "no exception", "an exception reached a coroutine");
  }

  bool started() const { return started_; }
  void set_started() { started_ = true; }
  void set_parent(std::coroutine_handle<> parent) { parent_ = parent; }
  void SetOwner(RootOwner* owner, std::coroutine_handle<> self) {
    owner_ = owner;
    parent_ = nullptr;
    self_ = self;
  }
  RootOwner* owner() const { return owner_; }
  std::coroutine_handle<> self() const { return self_; }

 private:
  std::coroutine_handle<> parent_;
  std::coroutine_handle<> self_;  // Roots only.
  RootOwner* owner_ = nullptr;
  bool started_ = false;
};

template <typename T>
class Promise final : public PromiseBase {
 public:
  Task<T> get_return_object() noexcept;

  template <typename U = T>
  requires std::convertible_to<U&&, T>
  void return_value(U&& value) { value_.emplace(std::forward<U>(value)); }
  T TakeResult() {
    VIREO_DCHECK(value_.has_value());
    return *std::move(value_);
  }

 private:
  std::optional<T> value_;
};

template <>
class Promise<void> final : public PromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void TakeResult() const noexcept {}
};

// Awaits a task that outlives it: the operand of the co_await.
template <typename T>
class TaskAwaiter {
 public:
  explicit TaskAwaiter(std::coroutine_handle<Promise<T>> child) : child_(child) {}

  bool await_ready() const {
    child_.promise().set_started();
    child_.resume();
    return child_.done();
  }
  // Nothing has run since the child suspended: it cannot have ended in between.
  void await_suspend(std::coroutine_handle<> parent) const noexcept {
    child_.promise().set_parent(parent);
  }
  T await_resume() const { return child_.promise().TakeResult(); }

 private:
  std::coroutine_handle<Promise<T>> child_;
};

}  // namespace async_internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = async_internal::Promise<T>;
  using value_type = T;

  Task(Task&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      Destroy();
      frame_ = std::exchange(other.frame_, nullptr);
    }
    return *this;
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task() { Destroy(); }

  // `co_await Call()` or `co_await std::move(task)`, once.
  async_internal::TaskAwaiter<T> operator co_await() && {
    VIREO_DCHECK(frame_ && !frame_.promise().started(), "a task is awaited once");
    return async_internal::TaskAwaiter<T>(frame_);
  }

  // For RootSet: the frame is no longer ours to destroy.
  std::coroutine_handle<promise_type> Release() { return std::exchange(frame_, nullptr); }

 private:
  friend promise_type;
  explicit Task(std::coroutine_handle<promise_type> frame) : frame_(frame) {}

  void Destroy() {
    if (!frame_) return;
    VIREO_CHECK(!frame_.promise().started() || frame_.done(),
                "a suspended task is stopped and joined, never destroyed");
    frame_.destroy();
    frame_ = nullptr;
  }

  std::coroutine_handle<promise_type> frame_;
};

namespace async_internal {

template <typename T>
Task<T> Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}

inline Task<void> Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

// The roots that one owner has running. Private to base/async.
class RootSet final : private RootOwner {
 public:
  class Listener {
   public:
    virtual void OnRootSetEmpty() = 0;

   protected:
    ~Listener() = default;
  };
  // `listener` (may be null) hears of every time that the last one ends after having been
  // suspended.
  explicit RootSet(Listener* listener) : listener_(listener) {}
  ~RootSet() { VIREO_CHECK(size_ == 0, "tasks are stopped and joined before their owner dies"); }

  // Starts `task` inline. The caller has made its loop the current one.
  void Start(Task<void> task);
  size_t size() const { return size_; }

 private:
  void OnRootEnded(PromiseBase& root) override;

  Listener* const listener_;
  IntrusiveList<PromiseBase> roots_;
  size_t size_ = 0;
};

}  // namespace async_internal
}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_TASK_H_
