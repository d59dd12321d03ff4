#include "base/unique_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/status.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
UniqueFd OpenNull() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

TEST(UniqueFdTest, ClosesOnce) {
  int number = -1;
  {
    UniqueFd fd = OpenNull();
    ASSERT_TRUE(fd.valid());
    number = fd.get();
    UniqueFd moved = std::move(fd);
    EXPECT_FALSE(fd.valid());  // NOLINT(bugprone-use-after-move): what is left is specified.
    EXPECT_EQ(moved.get(), number);
    EXPECT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFdTest, ReleaseGivesUpOwnership) {
  UniqueFd fd = OpenNull();
  const UniqueFd taken(fd.Release());
  EXPECT_FALSE(fd.valid());
  EXPECT_TRUE(IsOpen(taken.get()));
}

TEST(UniqueFdTest, ResetClosesAndKeepsErrno) {
  UniqueFd fd = OpenNull();
  const int number = fd.get();
  errno = EXDEV;
  fd.Reset();
  EXPECT_EQ(errno, EXDEV);
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFdTest, DuplicatesAreCloseOnExec) {
  const UniqueFd fd = OpenNull();
  const absl::StatusOr<UniqueFd> copy = fd.Duplicate();
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_NE(copy->get(), fd.get());
  EXPECT_NE(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(StatusErrno(UniqueFd().Duplicate().status()), EBADF);
}

TEST(UniqueFdDeathTest, ADescriptorClosedBehindItsOwnersBackIsOurBug) {
  EXPECT_DEATH(
      {
        UniqueFd fd = OpenNull();
        ::close(fd.get());
      },
      "closed once");
}

}  // namespace
}  // namespace vireo
