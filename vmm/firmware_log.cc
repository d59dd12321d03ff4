#include "vmm/firmware_log.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr size_t kLongLine = 4096;

}  // namespace

FirmwareLog::FirmwareLog(UniqueFd fd, std::string path)
    : fd_(std::move(fd)), path_(std::move(path)) {}

FirmwareLog::~FirmwareLog() {
  const MutexLock lock(mutex_);
  WriteOut();
}

void FirmwareLog::Append(uint8_t byte) {
  const MutexLock lock(mutex_);
  if (bytes_ > kMaxBytes) return;
  if (++bytes_ > kMaxBytes) {
    line_ += "\n[more than 1 MiB: the rest is dropped]\n";
    WriteOut();
    return;
  }
  line_ += static_cast<char>(byte);
  if (byte == '\n' || line_.size() >= kLongLine) WriteOut();
}

void FirmwareLog::Restart() {
  const MutexLock lock(mutex_);
  WriteOut();
  bytes_ = 0;
}

void FirmwareLog::WriteOut() {
  const std::string text = std::exchange(line_, {});
  if (text.empty() || failed_) return;
  ssize_t written;
  do {
    written = ::write(fd_.get(), text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written >= 0 || errno == EAGAIN) return;  // Nobody reads a pipe: that is lost, and no fault.
  failed_ = true;
  LogWarning("%s", ErrnoStatus(errno, path_).message());
}

}  // namespace vireo
