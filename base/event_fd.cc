#include "base/event_fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"
#include "base/status.h"

namespace vireo {

absl::StatusOr<EventFd> EventFd::Create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "eventfd");
  return EventFd(std::move(fd));
}

void EventFd::Signal() const {
  const int saved_errno = errno;
  const uint64_t one = 1;
  ssize_t written;
  do {
    written = ::write(fd_.get(), &one, sizeof(one));
  } while (written < 0 && errno == EINTR);
  VIREO_CHECK(written == sizeof(one) || errno == EAGAIN, "an eventfd takes a signal");
  errno = saved_errno;
}

uint64_t EventFd::Drain() const {
  uint64_t count = 0;
  ssize_t got;
  do {
    got = ::read(fd_.get(), &count, sizeof(count));
  } while (got < 0 && errno == EINTR);
  VIREO_CHECK(got == sizeof(count) || errno == EAGAIN, "an eventfd can be read");
  return got == sizeof(count) ? count : 0;
}

}  // namespace vireo
