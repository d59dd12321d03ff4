#include "devices/fair_shared_mutex.h"

#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(FairSharedMutexTest, ReadersShare) {
  FairSharedMutex mutex;
  const std::shared_lock first(mutex);
  std::thread([&] { const std::shared_lock second(mutex); }).join();
}

TEST(FairSharedMutexTest, WritersGetTheirTurnAmongBusyReaders) {
  FairSharedMutex mutex;
  int value = 0;
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        const std::shared_lock lock(mutex);
        EXPECT_EQ(value % 2, 0);
      }
    });
  }
  std::vector<std::thread> writers;
  for (int i = 0; i < 2; ++i) {
    writers.emplace_back([&] {
      for (int n = 0; n < 1000; ++n) {
        const std::unique_lock lock(mutex);
        ++value;  // Odd only while locked.
        ++value;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(value, 4000);
}

}  // namespace
}  // namespace vireo
