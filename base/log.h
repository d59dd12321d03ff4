// Logging to stderr, one write(2) a line: "TIME LEVEL [vm] message", or journald's "<N>" prefix
// when stderr is the journal. Any thread. Control characters in a message are escaped, so that no
// guest or file name forges a line.

#ifndef VIREO_BASE_LOG_H_
#define VIREO_BASE_LOG_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace vireo {

enum class LogLevel : int { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

struct LogOptions {
  std::string vm_id;  // Stands before each message when not empty.
  LogLevel min_level = LogLevel::kInfo;
  std::optional<bool>
      journald;  // Unset: asked of JOURNAL_STREAM, which names stderr's device and inode.
  int fd = 2;    // Not owned.
};

// May be called again; lines that are being written use the old or the new options.
void SetLogOptions(LogOptions options);

bool LogEnabled(LogLevel level);
void LogMessage(LogLevel level, std::string_view message);

// LogInfo("%s: %d bytes", path, size): absl::StrFormat's format, checked at compile time.
template <typename... Args>
void Log(LogLevel level, const absl::FormatSpec<Args...>& format, const Args&... args) {
  if (LogEnabled(level)) LogMessage(level, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogDebug(const absl::FormatSpec<Args...>& format, const Args&... args) {
  if (LogEnabled(LogLevel::kDebug)) LogMessage(LogLevel::kDebug, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogInfo(const absl::FormatSpec<Args...>& format, const Args&... args) {
  if (LogEnabled(LogLevel::kInfo)) LogMessage(LogLevel::kInfo, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogWarning(const absl::FormatSpec<Args...>& format, const Args&... args) {
  if (LogEnabled(LogLevel::kWarning)) {
    LogMessage(LogLevel::kWarning, absl::StrFormat(format, args...));
  }
}
template <typename... Args>
void LogError(const absl::FormatSpec<Args...>& format, const Args&... args) {
  if (LogEnabled(LogLevel::kError)) LogMessage(LogLevel::kError, absl::StrFormat(format, args...));
}

// At most one message a period: `if (limit_.Allow()) LogWarning(...)`. Thread-safe, never blocks.
class RateLimited {
 public:
  explicit RateLimited(absl::Duration period = absl::Seconds(1))
      : period_ns_(absl::ToInt64Nanoseconds(period)) {}

  bool Allow();
  // How many were refused since this was last asked; sets it back to 0.
  uint64_t TakeSuppressed() { return suppressed_.exchange(0, std::memory_order_relaxed); }

 private:
  const int64_t period_ns_;
  std::atomic<int64_t> next_ns_{0};
  std::atomic<uint64_t> suppressed_{0};
};

}  // namespace vireo

#endif  // VIREO_BASE_LOG_H_
