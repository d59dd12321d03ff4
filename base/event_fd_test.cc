#include "base/event_fd.h"

#include <poll.h>

#include "gtest/gtest.h"

namespace vireo {
namespace {

bool IsReadable(const EventFd& event) {
  pollfd poll_fd = {.fd = event.fd(), .events = POLLIN, .revents = 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

TEST(EventFdTest, CountsSignalsUntilDrained) {
  const absl::StatusOr<EventFd> event = EventFd::Create();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_FALSE(IsReadable(*event));
  EXPECT_EQ(event->Drain(), 0u);
  event->Signal();
  event->Signal();
  EXPECT_TRUE(IsReadable(*event));
  EXPECT_EQ(event->Drain(), 2u);
  EXPECT_FALSE(IsReadable(*event));
}

}  // namespace
}  // namespace vireo
