// What a machine says on its console, for a test that waits for words of it.

#ifndef VIREO_TESTS_SUPPORT_CONSOLE_TEXT_H_
#define VIREO_TESTS_SUPPORT_CONSOLE_TEXT_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>

#include "vmm/vm_controller.h"

namespace vireo {

// Any thread.
class ConsoleText final : public ConsoleReader {
 public:
  void OnOutput(std::string_view bytes) override {
    const std::lock_guard lock(mutex_);
    text_ += bytes;
    changed_.notify_all();
  }
  void OnClosed() override {}

  // Blocks until `text` has appeared `times` times; the test's own time limit is the limit.
  void WaitFor(std::string_view text, int times = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return Count(text) >= times; });
  }
  // The same for so long at most; false when it did not.
  bool WaitFor(std::string_view text, int times, std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return Count(text) >= times; });
  }
  int CountOf(std::string_view text) {
    const std::lock_guard lock(mutex_);
    return Count(text);
  }

 private:
  int Count(std::string_view text) const {
    int count = 0;
    for (size_t at = text_.find(text); at != std::string::npos; at = text_.find(text, at + 1))
      ++count;
    return count;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_CONSOLE_TEXT_H_
