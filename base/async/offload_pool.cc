#include "base/async/offload_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <memory>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace vireo::async_internal {
namespace {

constexpr unsigned kMostThreads = 4;

size_t ThreadsFor(int threads) {
  if (threads > 0) return static_cast<size_t>(threads);
  return std::clamp(std::thread::hardware_concurrency(), 1U, kMostThreads);
}

}  // namespace

std::thread StartThread(absl::AnyInvocable<void()> body) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  try {
    thread = std::thread(std::move(body));
  } catch (const std::system_error&) {
    // No thread: the caller sees that it is not joinable.
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

OffloadPool::OffloadPool(int threads) : max_threads_(ThreadsFor(threads)) {}

OffloadPool::~OffloadPool() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    closing_ = true;
    threads.swap(threads_);
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads) thread.join();
}

void OffloadPool::Run(absl::AnyInvocable<void()> job) {
  {
    MutexLock lock(mutex_);
    jobs_.push_back(std::move(job));
    if (jobs_.size() > idle_ && threads_.size() < max_threads_) {
      std::thread thread = StartThread([this] { Work(); });
      if (thread.joinable()) threads_.push_back(std::move(thread));
      VIREO_CHECK(!threads_.empty(), "the system has a thread for computing");
    }
  }
  changed_.NotifyOne();
}

void OffloadPool::Work() {
  mutex_.Lock();
  while (true) {
    while (jobs_.empty() && !closing_) {
      ++idle_;
      changed_.Wait(mutex_);
      --idle_;
    }
    if (jobs_.empty()) break;
    absl::AnyInvocable<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    mutex_.Unlock();
    job();
    job = nullptr;
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace vireo::async_internal
