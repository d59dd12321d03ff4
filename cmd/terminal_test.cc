#include "cmd/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <string>

#include "base/unique_fd.h"

namespace vireo {
namespace {

class Terminal : public testing::Test {
 protected:
  void SetUp() override {
    int master = -1, slave = -1;
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    master_.Reset(master);
    slave_.Reset(slave);
  }
  bool IsRaw() const {
    termios settings = {};
    EXPECT_EQ(::tcgetattr(slave_.get(), &settings), 0);
    return (settings.c_lflag & (ICANON | ECHO | ISIG)) == 0;
  }
  // Runs `body` in a child process; how it ended.
  template <typename Body>
  int InChild(Body body) {
    const pid_t child = ::fork();
    if (child == 0) {
      body();
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
  }

  UniqueFd master_, slave_;
};

TEST_F(Terminal, IsRawForAsLongAsTheObjectLives) {
  EXPECT_FALSE(IsRaw());
  {
    const absl::StatusOr<RawTerminal> raw = RawTerminal::Enter(slave_.get());
    ASSERT_TRUE(raw.ok()) << raw.status();
    EXPECT_TRUE(IsRaw());
  }
  EXPECT_FALSE(IsRaw());
}

TEST_F(Terminal, KeepsNewlineTranslationForLogs) {
  const absl::StatusOr<RawTerminal> raw = RawTerminal::Enter(slave_.get());
  termios settings = {};
  ASSERT_EQ(::tcgetattr(slave_.get(), &settings), 0);
  EXPECT_TRUE(settings.c_oflag & OPOST);
}

TEST_F(Terminal, IsGivenBackOnExit) {
  InChild([this] {
    const auto raw = new absl::StatusOr<RawTerminal>(RawTerminal::Enter(slave_.get()));
    if (!raw->ok() || !IsRaw()) ::_exit(1);
    ::exit(0);
  });
  EXPECT_FALSE(IsRaw());
}

class DeadlySignal : public Terminal, public testing::WithParamInterface<int> {};

TEST_P(DeadlySignal, GivesTheTerminalBackAndStillKills) {
  const int status = InChild([this] {
    for (const int signal : {SIGSEGV, SIGABRT, SIGTERM, SIGINT, SIGHUP}) ::signal(signal, SIG_DFL);
    const absl::StatusOr<RawTerminal> raw = RawTerminal::Enter(slave_.get());
    if (!raw.ok() || !IsRaw()) ::_exit(1);
    ::raise(GetParam());
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), GetParam());
  EXPECT_FALSE(IsRaw());
}

INSTANTIATE_TEST_SUITE_P(Signals, DeadlySignal,
                         testing::Values(SIGSEGV, SIGABRT, SIGTERM, SIGINT, SIGHUP));

TEST(RawTerminal, PipesAreNoTerminals) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  EXPECT_TRUE(absl::IsFailedPrecondition(RawTerminal::Enter(read_end.get()).status()));
}

TEST(SplitAtEscape, FindsTheKeyAnywhere) {
  const TypedKeys keys = SplitAtEscape(
      "ab\x1d"
      "cd\x1d",
      kEscapeKey);
  EXPECT_EQ(keys.before, "ab");
  EXPECT_TRUE(keys.escape);
  EXPECT_EQ(keys.rest, "cd\x1d");
  EXPECT_EQ(SplitAtEscape("abc", kEscapeKey).before, "abc");
  EXPECT_FALSE(SplitAtEscape("abc", kEscapeKey).escape);
}

TEST(SplitAtEscape, KeyZeroIsNeverFound) {
  const TypedKeys keys = SplitAtEscape(std::string_view("a\0b", 3), 0);
  EXPECT_EQ(keys.before.size(), 3u);
  EXPECT_FALSE(keys.escape);
}

TEST(ParseEscapeKey, TakesCaretsAndCharacters) {
  EXPECT_EQ(*ParseEscapeKey("^]"), 0x1d);
  EXPECT_EQ(*ParseEscapeKey("^a"), 1);
  EXPECT_EQ(*ParseEscapeKey("^A"), 1);
  EXPECT_EQ(*ParseEscapeKey("~"), '~');
  EXPECT_EQ(*ParseEscapeKey("none"), 0);
  EXPECT_EQ(*ParseEscapeKey("^"), '^');
  for (const char* bad : {"", "^1", "^@", "escape"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseEscapeKey(bad).status())) << bad;
  }
}

}  // namespace
}  // namespace vireo
