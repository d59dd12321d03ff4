// A console whose output goes to a file or a named pipe, in order, without ever holding the machine
// up.
#ifndef VIREO_VMM_CONSOLE_FILE_H_
#define VIREO_VMM_CONSOLE_FILE_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "vmm/vm_controller.h"

namespace vireo {

// Owned by the loop that hands out console output. Output that the file does not take in time is
// kept, up to kMaxPending bytes; beyond that it is lost, and a log line says how much.
class ConsoleFile final : public ConsoleReader {
 public:
  static constexpr size_t kMaxPending = 1 << 20;

  // `loop` outlives the object. `name` is for messages.
  ConsoleFile(EventLoop& loop, UniqueFd fd, std::string name);

  void OnOutput(std::string_view bytes) override;
  void OnClosed() override {}

  // Ends when everything has been written, or cannot be.
  Task<void> Finish();

 private:
  Task<void> WritePending();

  EventLoop& loop_;
  const UniqueFd fd_;
  const std::string name_;
  std::string pending_;
  bool writing_ = false;
  bool failed_ = false;
  RateLimited log_limit_;
  TaskScope scope_;
};

}  // namespace vireo

#endif  // VIREO_VMM_CONSOLE_FILE_H_
