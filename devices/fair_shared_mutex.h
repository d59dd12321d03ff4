// A shared_mutex whose writers get their turn. std::shared_mutex lets readers overtake a waiting
// writer for ever, and vCPUs that poll a register never leave a gap. Here, readers that find a
// writer waiting queue up behind it; without one, reading costs what it costs there, and a load.
//
// Hence a thread must not lock it shared twice: a writer that arrives in between would wait for the
// first and block the second.

#ifndef VIREO_DEVICES_FAIR_SHARED_MUTEX_H_
#define VIREO_DEVICES_FAIR_SHARED_MUTEX_H_

#include <atomic>
#include <mutex>
#include <shared_mutex>

namespace vireo {

// Meets the standard's SharedMutex requirements as far as std::unique_lock and std::shared_lock
// ask.
class FairSharedMutex {
 public:
  FairSharedMutex() = default;
  FairSharedMutex(const FairSharedMutex&) = delete;
  FairSharedMutex& operator=(const FairSharedMutex&) = delete;

  void lock() {
    writers_.fetch_add(1);
    turnstile_.lock();
    mutex_.lock();
  }
  void unlock() {
    mutex_.unlock();
    turnstile_.unlock();
    writers_.fetch_sub(1);
  }
  void lock_shared() {
    if (writers_.load() != 0) {
      const std::lock_guard queue(turnstile_);
    }
    mutex_.lock_shared();
  }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
  std::mutex turnstile_;  // Held by a writer from before it waits for readers until it is done.
  std::atomic<int> writers_{0};
};

}  // namespace vireo

#endif  // VIREO_DEVICES_FAIR_SHARED_MUTEX_H_
