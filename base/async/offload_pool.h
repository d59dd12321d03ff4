// Threads for work that would hold up a loop: a pool for computing, started as needed, and one
// thread each for calls that may never return. Private to base/async.

#ifndef VIREO_BASE_ASYNC_OFFLOAD_POOL_H_
#define VIREO_BASE_ASYNC_OFFLOAD_POOL_H_

#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "base/mutex.h"

namespace vireo::async_internal {

// Any thread. All signals are blocked in its threads.
class OffloadPool {
 public:
  // `threads` 0 means min(cores, 4).
  explicit OffloadPool(int threads);
  // Runs what is queued, then joins.
  ~OffloadPool();

  void Run(absl::AnyInvocable<void()> job);

 private:
  void Work();

  const size_t max_threads_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<absl::AnyInvocable<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
};

// A thread with all signals blocked; not joinable when the system has no more threads.
std::thread StartThread(absl::AnyInvocable<void()> body);

}  // namespace vireo::async_internal

#endif  // VIREO_BASE_ASYNC_OFFLOAD_POOL_H_
