#include "base/log.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace vireo {
namespace {

// The one global of its kind: a message may come from anywhere. Read without the lock only for the
// level. Leaked on purpose, so that threads may log while the process exits.
struct Logger {
  std::atomic<int> min_level{static_cast<int>(LogLevel::kInfo)};
  Mutex mutex;
  LogOptions options ABSL_GUARDED_BY(mutex);
  bool journald ABSL_GUARDED_BY(mutex) = false;
  bool configured ABSL_GUARDED_BY(mutex) = false;
};

Logger& TheLogger() {
  static Logger* const logger = new Logger;
  return *logger;
}

// systemd.exec(5), "JOURNAL_STREAM": "device:inode" of what stdout or stderr was connected to.
bool IsJournal(int fd) {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat status;
  if (stream == nullptr || ::fstat(fd, &status) != 0) return false;
  return absl::StrFormat("%d:%d", status.st_dev, status.st_ino) == stream;
}

// syslog(3) priorities, as sd-daemon(3) wants them.
char JournalPriority(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return '7';
    case LogLevel::kInfo:
      return '6';
    case LogLevel::kWarning:
      return '4';
    case LogLevel::kError:
      return '3';
  }
  return '3';
}

char Letter(LogLevel level) { return "DIWE"[static_cast<int>(level)]; }

void AppendEscaped(std::string_view text, std::string* line) {
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      line->push_back(c);
    } else if (c == '\n') {
      line->append("\\n");
    } else if (c == '\t') {
      line->push_back(' ');
    } else {
      absl::StrAppendFormat(line, "\\x%02x", byte);
    }
  }
}

void AppendTime(std::string* line) {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm utc;
  ::gmtime_r(&now.tv_sec, &utc);
  absl::StrAppendFormat(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ ", utc.tm_year + 1900,
                        utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                        now.tv_nsec / 1000000);
}

}  // namespace

void SetLogOptions(LogOptions options) {
  Logger& logger = TheLogger();
  MutexLock lock(logger.mutex);
  logger.min_level.store(static_cast<int>(options.min_level), std::memory_order_relaxed);
  logger.journald = options.journald.has_value() ? *options.journald : IsJournal(options.fd);
  logger.options = std::move(options);
  logger.configured = true;
}

bool LogEnabled(LogLevel level) {
  return static_cast<int>(level) >= TheLogger().min_level.load(std::memory_order_relaxed);
}

void LogMessage(LogLevel level, std::string_view message) {
  const int saved_errno = errno;
  Logger& logger = TheLogger();
  MutexLock lock(logger.mutex);
  if (!logger.configured) {
    logger.journald = IsJournal(logger.options.fd);
    logger.configured = true;
  }
  std::string line;
  if (logger.journald) {
    line = {'<', JournalPriority(level), '>'};
  } else {
    AppendTime(&line);
    line.append({Letter(level), ' '});
  }
  if (!logger.options.vm_id.empty()) {
    line.push_back('[');
    AppendEscaped(logger.options.vm_id, &line);
    line.append("] ");
  }
  AppendEscaped(message, &line);
  line.push_back('\n');
  // A log that cannot be written is lost: nothing better can be done about it here.
  [[maybe_unused]] const ssize_t written = ::write(logger.options.fd, line.data(), line.size());
  errno = saved_errno;
}

bool RateLimited::Allow() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t now_ns = static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
  int64_t next = next_ns_.load(std::memory_order_relaxed);
  if (now_ns >= next &&
      next_ns_.compare_exchange_strong(next, now_ns + period_ns_, std::memory_order_relaxed)) {
    return true;
  }
  suppressed_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

}  // namespace vireo
