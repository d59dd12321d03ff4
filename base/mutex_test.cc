#include "base/mutex.h"

#include <thread>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(MutexTest, ExcludesOtherThreads) {
  Mutex mutex;
  int count = 0;
  const auto work = [&mutex, &count] {
    for (int i = 0; i < 10000; ++i) {
      MutexLock lock(mutex);
      ++count;
    }
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(count, 20000);
}

TEST(CondVarTest, WakesTheWaiter) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  std::thread other([&mutex, &changed, &ready] {
    MutexLock lock(mutex);
    ready = true;
    changed.NotifyAll();
  });
  {
    MutexLock lock(mutex);
    while (!ready) changed.Wait(mutex);
  }
  other.join();
}

TEST(CondVarTest, WaitForGivesUp) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(mutex);
  bool signalled = true;
  while (signalled) signalled = never.WaitFor(mutex, absl::Milliseconds(1));
  EXPECT_FALSE(signalled);
}

}  // namespace
}  // namespace vireo
