// A session against a fake machine: pipes for the terminal, a real signalfd, and a loop on this
// thread.
#include "cmd/vm_session.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "cmd/terminal.h"
#include "tests/support/fake_vm_controller.h"

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read_end.Reset(fds[0]);
    write_end.Reset(fds[1]);
  }
  void Write(const std::string& text) {
    EXPECT_EQ(::write(write_end.get(), text.data(), text.size()),
              static_cast<ssize_t>(text.size()));
  }
  // Until the other end is closed.
  std::string ReadAll() {
    std::string text;
    char buffer[4096];
    for (ssize_t got; (got = ::read(read_end.get(), buffer, sizeof buffer)) > 0;) {
      text.append(buffer, got);
    }
    return text;
  }
  UniqueFd read_end, write_end;
};

class VmSessionTest : public testing::Test {
 protected:
  void SetUp() override {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    signal_fd_.Reset(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({.entries = 16});
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
  }
  void StartSession(VmSession::Options options = {}) {
    options.signal_fd = signal_fd_.get();
    session_ = std::make_unique<VmSession>(*loop_, controller_, std::move(options));
  }
  void StartSessionWithConsole() {
    VmSession::Options options;
    options.console = {.in_fd = in_.read_end.get(),
                       .out_fd = out_.write_end.get(),
                       .escape_key = kEscapeKey,
                       .on_escape = [this] { session_->RequestEnd(); }};
    StartSession(std::move(options));
  }
  absl::Status Boot(uint32_t shutdown_timeout_ms = 90'000) {
    VmConfig config;
    config.shutdown_timeout_ms = shutdown_timeout_ms;
    return loop_->RunTask(session_->CreateAndBoot(config));
  }
  void WaitUntilStopped() { loop_->RunTask(session_->WaitUntilStopped()); }
  void EndMachine(VmCause cause) {
    controller_.StopBecause(cause, "");
    controller_.Close();
  }

  UniqueFd signal_fd_;
  FakeVmController controller_;
  std::unique_ptr<EventLoop> loop_;
  Pipe in_, out_;
  std::unique_ptr<VmSession> session_;
};

TEST_F(VmSessionTest, EndsWithTheMachine) {
  StartSession();
  ASSERT_EQ(Boot(), absl::OkStatus());
  EndMachine(VmCause::kGuestPowerOff);
  WaitUntilStopped();
  EXPECT_THAT(controller_.calls(), ElementsAre("Create", "Boot"));
}

TEST_F(VmSessionTest, CreateThatFailsIsNotBooted) {
  StartSession();
  controller_.FailNext(absl::NotFoundError("vmlinuz: No such file"));
  EXPECT_EQ(Boot(), absl::NotFoundError("vmlinuz: No such file"));
  EXPECT_THAT(controller_.calls(), ElementsAre("Create"));
  EndMachine(VmCause::kStopRequested);
  WaitUntilStopped();
}

TEST_F(VmSessionTest, FirstSignalPressesThePowerButtonSecondStops) {
  StartSession();
  ASSERT_EQ(Boot(), absl::OkStatus());
  ::raise(SIGTERM);
  loop_->RunUntilIdle();
  EXPECT_THAT(controller_.calls(), ElementsAre("Create", "Boot", "Shutdown"));
  ::raise(SIGTERM);
  WaitUntilStopped();
  EXPECT_THAT(controller_.calls(), ElementsAre("Create", "Boot", "Shutdown", "Stop"));
}

TEST_F(VmSessionTest, GuestThatDoesNotShutDownIsStopped) {
  StartSession();
  ASSERT_EQ(Boot(/*shutdown_timeout_ms=*/1), absl::OkStatus());
  ::raise(SIGTERM);
  WaitUntilStopped();
  EXPECT_THAT(controller_.calls(), ElementsAre("Create", "Boot", "Shutdown", "Stop"));
}

TEST_F(VmSessionTest, MachineThatCannotShutDownIsStoppedAtOnce) {
  StartSession();
  ::raise(SIGTERM);  // Nothing has been created.
  WaitUntilStopped();
  EXPECT_THAT(controller_.calls(), ElementsAre("Shutdown", "Stop"));
}

TEST_F(VmSessionTest, ConsoleCarriesBothWaysAndWritesEverythingBeforeTheEnd) {
  StartSessionWithConsole();
  ASSERT_EQ(Boot(), absl::OkStatus());
  in_.Write("root\n");
  const std::string boot(100'000, '.');  // More than a pipe holds.
  std::string shown;
  std::thread terminal([&] { shown = out_.ReadAll(); });
  loop_->RunUntilIdle();
  controller_.Print("login: ");
  controller_.Print(boot);
  controller_.Print("Power down\r\n");
  EndMachine(VmCause::kGuestPowerOff);
  WaitUntilStopped();
  session_.reset();
  out_.write_end.Reset();
  terminal.join();
  EXPECT_EQ(controller_.input(), "root\n");
  EXPECT_EQ(shown, "login: " + boot + "Power down\r\n");
}

TEST_F(VmSessionTest, EndOfInputIsNotTheEndOfTheMachine) {
  StartSessionWithConsole();
  ASSERT_EQ(Boot(), absl::OkStatus());
  in_.Write("x");
  in_.write_end.Reset();
  loop_->RunUntilIdle();
  EXPECT_EQ(controller_.input(), "x");
  EXPECT_THAT(controller_.calls(), ElementsAre("Create", "Boot"));
  EndMachine(VmCause::kGuestPowerOff);
  WaitUntilStopped();
}

TEST_F(VmSessionTest, EscapeKeyAsksForTheEndAndIsNotTyped) {
  StartSessionWithConsole();
  ASSERT_EQ(Boot(), absl::OkStatus());
  in_.Write(
      "a\x1d"
      "b\x1d");
  WaitUntilStopped();
  EXPECT_EQ(controller_.input(), "ab");
  EXPECT_THAT(controller_.calls(), ElementsAre("Create", "Boot", "Shutdown", "Stop"));
}

TEST_F(VmSessionTest, InputWaitsUntilTheGuestTakesIt) {
  controller_.SetInputRoom(2);
  StartSessionWithConsole();
  ASSERT_EQ(Boot(), absl::OkStatus());
  in_.Write("abcdef");
  loop_->RunUntilIdle();
  EXPECT_EQ(controller_.input(), "ab");
  controller_.SetInputRoom(SIZE_MAX);
  std::thread guest([this] {
    controller_.WaitForInput("abcdef");
    EndMachine(VmCause::kGuestPowerOff);
  });
  WaitUntilStopped();
  guest.join();
}

TEST_F(VmSessionTest, OutputThatNobodyReadsDoesNotHoldTheEndUp) {
  VmSession::Options options;
  options.console = {.in_fd = in_.read_end.get(), .out_fd = out_.write_end.get()};
  options.output_limit = absl::Milliseconds(1);
  StartSession(std::move(options));
  ASSERT_EQ(Boot(), absl::OkStatus());
  controller_.Print(std::string(300'000, 'x'));
  EndMachine(VmCause::kGuestPowerOff);
  WaitUntilStopped();
}

TEST_F(VmSessionTest, OutputThatFallsBehindIsToldWhatItLost) {
  StartSessionWithConsole();
  ASSERT_EQ(Boot(), absl::OkStatus());
  controller_.Print(std::string(3 << 20, 'x'));
  controller_.Print("the end");
  EndMachine(VmCause::kGuestPowerOff);
  std::string shown;
  std::thread terminal([&] { shown = out_.ReadAll(); });
  WaitUntilStopped();
  session_.reset();
  out_.write_end.Reset();
  terminal.join();
  EXPECT_THAT(shown, HasSubstr("bytes lost]"));
  EXPECT_THAT(shown, EndsWith("the end"));
}

}  // namespace
}  // namespace vireo
