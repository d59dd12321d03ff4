#include "api/unix_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "tests/support/temp_dir.h"

namespace vireo::api {
namespace {

using testing::HasSubstr;

class UnixSocket : public testing::Test {
 protected:
  // A socket file that its process left behind: bound, never removed, no longer open.
  void LeaveStaleSocket() {
    absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
    ASSERT_TRUE(listener.ok()) << listener.status();
    ASSERT_EQ(::rename(path_.c_str(), directory_.File("kept").c_str()), 0);
    listener = absl::CancelledError();  // Closes it; what it finds at the path is not its own.
    ASSERT_EQ(::rename(directory_.File("kept").c_str(), path_.c_str()), 0);
  }
  bool Exists() const { return ::access(path_.c_str(), F_OK) == 0; }

  TempDir directory_;
  const std::string path_ = directory_.File("vm.sock");
  const std::string address_ = "unix:" + path_;
};

TEST_F(UnixSocket, IsForItsOwnerAloneWhateverTheUmask) {
  const mode_t umask_before = ::umask(0);
  const absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
  ::umask(umask_before);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat info = {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST_F(UnixSocket, ConnectsToAListener) {
  const absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  const absl::StatusOr<UniqueFd> client = ConnectUnix(address_);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(::fcntl(client->get(), F_GETFL) & O_NONBLOCK);
  const UniqueFd served(::accept(listener->fd(), nullptr, nullptr));
  EXPECT_TRUE(served.valid());
}

TEST_F(UnixSocket, GoesWithItsListener) {
  {
    const absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
    ASSERT_TRUE(Exists());
  }
  EXPECT_FALSE(Exists());
}

TEST_F(UnixSocket, FileOfASuccessorIsLeftAlone) {
  absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  std::ofstream(path_) << "another's";
  listener = absl::CancelledError();
  EXPECT_TRUE(Exists());
}

TEST_F(UnixSocket, OfALiveVmIsRefused) {
  const absl::StatusOr<UnixListener> first = UnixListener::Bind(address_);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = UnixListener::Bind(address_).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  EXPECT_THAT(std::string(second.message()),
              HasSubstr(address_ + ": in use by a live VM (process " + std::to_string(::getpid())));
  EXPECT_TRUE(ConnectUnix(address_).ok());  // And the first one still stands.
}

TEST_F(UnixSocket, StaleOneIsReplaced) {
  LeaveStaleSocket();
  ASSERT_TRUE(Exists());
  const absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(ConnectUnix(address_).ok());
}

TEST_F(UnixSocket, OtherFilesAreNeverReplaced) {
  std::ofstream(path_) << "precious";
  const absl::Status status = UnixListener::Bind(address_).status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("exists and is not a socket"));
  EXPECT_TRUE(Exists());
}

TEST_F(UnixSocket, MissingDirectoryIsNamed) {
  const absl::Status status = UnixListener::Bind("unix:" + directory_.File("no/vm.sock")).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("directory " + directory_.File("no")));
}

TEST_F(UnixSocket, LongestPathFitsAndOneMoreByteDoesNot) {
  const std::string longest =
      directory_.path() + "/" + std::string(107 - directory_.path().size() - 1, 's');
  EXPECT_TRUE(UnixListener::Bind("unix:" + longest).ok());
  const absl::Status status = UnixListener::Bind("unix:" + longest + "s").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 107 bytes, this one has 108"));
}

TEST_F(UnixSocket, InheritedListenerIsUsedAndItsFileKept) {
  const absl::StatusOr<UnixListener> owner = UnixListener::Bind(address_);
  ASSERT_TRUE(owner.ok()) << owner.status();
  {
    const absl::StatusOr<UnixListener> inherited =
        UnixListener::Bind("fd=" + std::to_string(owner->fd()));
    ASSERT_TRUE(inherited.ok()) << inherited.status();
    const absl::StatusOr<UniqueFd> client = ConnectUnix(address_);
    EXPECT_TRUE(UniqueFd(::accept(inherited->fd(), nullptr, nullptr)).valid());
  }
  EXPECT_TRUE(Exists());
}

TEST_F(UnixSocket, InheritedDescriptorMustListen) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const UniqueFd one(pair[0]), other(pair[1]);
  const std::string address = "fd:" + std::to_string(one.get());
  EXPECT_EQ(UnixListener::Bind(address).status(),
            absl::InvalidArgumentError(address + ": the socket does not listen"));
  EXPECT_TRUE(ConnectUnix(address).ok());  // As a client's end it is right.
}

TEST_F(UnixSocket, NobodyListensIsSaidPlainly) {
  EXPECT_EQ(ConnectUnix(address_).status(),
            absl::UnavailableError(address_ + ": no VM listens there"));
  LeaveStaleSocket();
  EXPECT_EQ(ConnectUnix(address_).status(),
            absl::UnavailableError(address_ + ": no VM listens there"));
}

class BadAddress : public testing::TestWithParam<std::string> {};

TEST_P(BadAddress, IsRefusedByBothEnds) {
  EXPECT_TRUE(absl::IsInvalidArgument(UnixListener::Bind(GetParam()).status())) << GetParam();
  EXPECT_TRUE(absl::IsInvalidArgument(ConnectUnix(GetParam()).status())) << GetParam();
}

INSTANTIATE_TEST_SUITE_P(UnixSocket, BadAddress,
                         testing::Values("", "unix:", "/run/vm.sock", "tcp:1234", "fd:", "fd:-1",
                                         "fd:x", "fd:1048575", "fd:0x3"));

}  // namespace
}  // namespace vireo::api
