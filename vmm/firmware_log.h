// What firmware says of itself while it starts a machine, appended to a file line by line.
#ifndef VIREO_VMM_FIRMWARE_LOG_H_
#define VIREO_VMM_FIRMWARE_LOG_H_

#include <cstdint>
#include <string>

#include "base/mutex.h"
#include "base/unique_fd.h"

namespace vireo {

// Any thread. A guest can write as much as it likes: what goes beyond kMaxBytes between two calls
// of Restart() is dropped, and the last line says so.
class FirmwareLog {
 public:
  static constexpr size_t kMaxBytes = 1 << 20;

  // `fd` is open for appending; `path` is for messages.
  FirmwareLog(UniqueFd fd, std::string path);
  ~FirmwareLog();

  void Append(uint8_t byte);
  // The machine starts again.
  void Restart();

 private:
  void WriteOut() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const UniqueFd fd_;
  const std::string path_;
  Mutex mutex_;
  std::string line_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vireo

#endif  // VIREO_VMM_FIRMWARE_LOG_H_
