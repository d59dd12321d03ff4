// AsyncMutex: mutual exclusion between coroutines of one loop, first come first served.
//
//   AsyncMutex::Guard guard = co_await mutex_.Lock();   // Released by its destructor or Release().

#ifndef VIREO_BASE_ASYNC_ASYNC_MUTEX_H_
#define VIREO_BASE_ASYNC_ASYNC_MUTEX_H_

#include <coroutine>
#include <utility>

#include "base/async/event_loop.h"
#include "base/async/intrusive_list.h"
#include "base/async/task.h"

namespace vireo {

// The destructor CHECKs that it is free.
class AsyncMutex {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&& other) noexcept {
      if (this != &other) {
        Release();
        mutex_ = std::exchange(other.mutex_, nullptr);
      }
      return *this;
    }
    ~Guard() { Release(); }
    bool held() const { return mutex_ != nullptr; }
    // The next in line owns the mutex now and is resumed by the loop.
    void Release() {
      if (AsyncMutex* const mutex = std::exchange(mutex_, nullptr)) mutex->Unlock();
    }

   private:
    friend class AsyncMutex;
    explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
    AsyncMutex* mutex_ = nullptr;
  };

  AsyncMutex() = default;
  ~AsyncMutex();
  AsyncMutex(const AsyncMutex&) = delete;
  AsyncMutex& operator=(const AsyncMutex&) = delete;

  // Ends at once when the mutex is free.
  Task<Guard> Lock();
  bool locked() const { return locked_; }

 private:
  class Waiter;
  void Unlock();

  bool locked_ = false;
  IntrusiveList<Waiter> waiters_;
};

class AsyncMutex::Waiter final : public ListNode<Waiter> {
 public:
  explicit Waiter(AsyncMutex& mutex) : mutex_(mutex) {}
  bool await_ready() const noexcept { return !std::exchange(mutex_.locked_, true); }
  void await_suspend(std::coroutine_handle<> waiter);
  void await_resume() const noexcept {}

 private:
  friend class AsyncMutex;
  AsyncMutex& mutex_;
  EventLoop* loop_ = nullptr;
  std::coroutine_handle<> waiter_;
};

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_ASYNC_MUTEX_H_
