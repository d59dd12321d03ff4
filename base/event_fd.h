// An eventfd: a counter that any thread adds to and one reader consumes. KVM ioeventfds, irqfds and
// the event loop's waits all use it.

#ifndef VIREO_BASE_EVENT_FD_H_
#define VIREO_BASE_EVENT_FD_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace vireo {

class EventFd {
 public:
  // Nonblocking, close-on-exec, counter 0.
  static absl::StatusOr<EventFd> Create();
  EventFd(EventFd&&) = default;
  EventFd& operator=(EventFd&&) = default;

  // Adds one. Any thread, async-signal-safe, never blocks (a full counter is already a signal).
  void Signal() const;
  // Takes the counter and leaves 0; 0 when nothing was signalled. Never blocks.
  uint64_t Drain() const;
  int fd() const { return fd_.get(); }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace vireo

#endif  // VIREO_BASE_EVENT_FD_H_
