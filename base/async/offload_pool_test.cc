#include "base/async/offload_pool.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <set>
#include <thread>

#include "base/mutex.h"
#include "gtest/gtest.h"

namespace vireo::async_internal {
namespace {

TEST(OffloadPoolTest, RunsEverythingBeforeItDies) {
  std::atomic<int> ran = 0;
  {
    OffloadPool pool(3);
    for (int i = 0; i < 1000; ++i) pool.Run([&ran] { ++ran; });
  }
  EXPECT_EQ(ran, 1000);
}

TEST(OffloadPoolTest, UsesAsManyThreadsAsAllowedAndNoMore) {
  constexpr int kThreads = 3;
  Mutex mutex;
  CondVar changed;
  int inside = 0;
  std::set<std::thread::id> threads;
  {
    OffloadPool pool(kThreads);
    for (int i = 0; i < 10 * kThreads; ++i) {
      pool.Run([&] {
        MutexLock lock(mutex);
        threads.insert(std::this_thread::get_id());
        ++inside;
        changed.NotifyAll();
        // Nobody goes on before all threads are busy at once.
        while (inside < kThreads) changed.Wait(mutex);
      });
    }
  }
  EXPECT_EQ(threads.size(), static_cast<size_t>(kThreads));
}

TEST(OffloadPoolTest, ItsThreadsTakeNoSignals) {
  std::atomic<bool> blocked = false;
  {
    OffloadPool pool(1);
    pool.Run([&blocked] {
      sigset_t mask;
      ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
      blocked = ::sigismember(&mask, SIGTERM) == 1 && ::sigismember(&mask, SIGUSR1) == 1;
    });
  }
  EXPECT_TRUE(blocked);
  sigset_t mask;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_EQ(::sigismember(&mask, SIGTERM), 0);
}

}  // namespace
}  // namespace vireo::async_internal
