// The verbs of vireoctl through a real server on a socket, against a fake machine.
#include "cmd/ctl.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "api/server.h"
#include "base/unique_fd.h"
#include "tests/support/fake_vm_controller.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = ::read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, got);
  return text;
}

class CtlTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<api::UnixListener> listener = api::UnixListener::Bind(address_);
    ASSERT_TRUE(listener.ok()) << listener.status();
    absl::StatusOr<std::unique_ptr<api::Server>> server =
        api::Server::Start(*std::move(listener), controller_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    int fds[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    in_read_.Reset(fds[0]);
    in_write_.Reset(fds[1]);
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    out_read_.Reset(fds[0]);
    out_write_.Reset(fds[1]);
  }

  absl::Status Ctl(std::vector<std::string> args) { return CtlOn(std::move(args), in_read_.get()); }
  absl::Status CtlOn(std::vector<std::string> args, int in_fd) {
    args.insert(args.begin(), "--api=" + address_);
    const absl::StatusOr<CtlCommand> command = ParseCtlArgs(args, "");
    if (!command.ok()) return command.status();
    return RunCtl(
        std::get<CtlOptions>(*command),
        {.in_fd = in_fd, .out_fd = out_write_.get(), .print = [this](const std::string& text) {
           printed_ += text;
           return true;
         }});
  }
  std::string Printed() { return std::exchange(printed_, ""); }
  void Type(const std::string& text) {
    ASSERT_EQ(::write(in_write_.get(), text.data(), text.size()),
              static_cast<ssize_t>(text.size()));
  }
  std::string Shown() {
    out_write_.Reset();
    return ReadAll(out_read_.get());
  }
  void WriteConfig(const std::string& json) { std::ofstream(config_) << json; }

  TempDir directory_;
  const std::string config_ = directory_.File("vm.json");
  const std::string address_ = "unix:" + directory_.File("vm.sock");
  FakeVmController controller_;
  std::unique_ptr<api::Server> server_;
  UniqueFd in_read_, in_write_, out_read_, out_write_;
  std::string printed_;
};

TEST_F(CtlTest, EveryVerbReachesTheMachine) {
  WriteConfig(R"({"name": "web1", "boot": {"kernel": "vmlinuz"}})");
  EXPECT_EQ(Ctl({"create", "--config", config_}), absl::OkStatus());
  EXPECT_EQ(Printed(), "created\n");
  EXPECT_EQ(Ctl({"boot"}), absl::OkStatus());
  EXPECT_EQ(Printed(), "running\n");
  EXPECT_EQ(Ctl({"pause"}), absl::OkStatus());
  EXPECT_EQ(Printed(), "paused\n");
  EXPECT_EQ(Ctl({"resume"}), absl::OkStatus());
  EXPECT_EQ(Ctl({"shutdown"}), absl::OkStatus());
  EXPECT_EQ(Ctl({"reset"}), absl::OkStatus());
  EXPECT_EQ(Printed(), "running\nrunning\nrunning\n");
  EXPECT_EQ(Ctl({"stop"}), absl::OkStatus());
  EXPECT_EQ(Printed(), "stopped\n");
  EXPECT_THAT(controller_.calls(),
              ElementsAre("Create", "Boot", "Pause", "Resume", "Shutdown", "Reset", "Stop"));
  EXPECT_EQ(controller_.Describe().config.boot.kernel, "vmlinuz");
}

TEST_F(CtlTest, InfoAndStatsInBothForms) {
  EXPECT_EQ(Ctl({"info"}), absl::OkStatus());
  EXPECT_THAT(Printed(), StartsWith("state    empty\n"));
  EXPECT_EQ(Ctl({"info", "--json"}), absl::OkStatus());
  EXPECT_THAT(Printed(), HasSubstr("\"state\": \"EMPTY\""));
  EXPECT_EQ(Ctl({"stats"}), absl::OkStatus());
  EXPECT_THAT(Printed(), StartsWith("uptime"));
  EXPECT_EQ(Ctl({"stats", "--json"}), absl::OkStatus());
  EXPECT_THAT(Printed(), HasSubstr("\"guest_memory_bytes\": \"0\""));
}

TEST_F(CtlTest, VersionNamesBothPrograms) {
  EXPECT_EQ(Ctl({"version"}), absl::OkStatus());
  EXPECT_THAT(Printed(), HasSubstr("vireo 0."));
}

TEST_F(CtlTest, RefusalsAreStatusOneAndSilenceIsStatusTwo) {
  const absl::Status refused = Ctl({"boot"});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(CtlExitStatus(refused), 1);
  server_->Stop(absl::ZeroDuration());
  const absl::Status silent = Ctl({"info"});
  EXPECT_EQ(silent, absl::UnavailableError(address_ + ": no VM listens there"));
  EXPECT_EQ(CtlExitStatus(silent), 2);
  EXPECT_EQ(CtlExitStatus(absl::OkStatus()), 0);
  EXPECT_EQ(CtlExitStatus(absl::InvalidArgumentError("")), 1);
  EXPECT_EQ(CtlExitStatus(absl::DeadlineExceededError("")), 2);
}

TEST_F(CtlTest, CreateNamesTheFileThatIsWrong) {
  WriteConfig(R"({"nmae": "x"})");
  const absl::Status status = Ctl({"create", "--config", config_});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith(config_ + ": "));
  EXPECT_THAT(controller_.calls(), ElementsAre());
}

TEST_F(CtlTest, OperationIdIsPassedOn) {
  WriteConfig("{}");
  ASSERT_EQ(Ctl({"create", "--config", config_}), absl::OkStatus());
  ASSERT_EQ(Ctl({"boot"}), absl::OkStatus());
  EXPECT_EQ(Ctl({"reset", "--operation-id=r1"}), absl::OkStatus());
  EXPECT_EQ(Ctl({"reset", "--operation-id=r1"}), absl::OkStatus());
  EXPECT_EQ(controller_.Describe().resets, 1u);
}

TEST_F(CtlTest, ShutdownWaitsForTheEnd) {
  WriteConfig("{}");
  ASSERT_EQ(Ctl({"create", "--config", config_}), absl::OkStatus());
  ASSERT_EQ(Ctl({"boot"}), absl::OkStatus());
  Printed();
  std::thread guest([this] {
    controller_.WaitForCalls(3);
    controller_.StopBecause(VmCause::kGuestPowerOff, "S5");
  });
  EXPECT_EQ(Ctl({"shutdown", "--wait"}), absl::OkStatus());
  guest.join();
  EXPECT_EQ(Printed(), "stopped\n");
}

TEST_F(CtlTest, WaitingHasALimit) {
  WriteConfig("{}");
  ASSERT_EQ(Ctl({"create", "--config", config_}), absl::OkStatus());
  ASSERT_EQ(Ctl({"boot"}), absl::OkStatus());
  const absl::Status status = Ctl({"shutdown", "--wait", "--timeout=300ms"});
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(CtlTest, EventsAreShownUntilTheStateAskedFor) {
  WriteConfig("{}");
  ASSERT_EQ(Ctl({"create", "--config", config_}), absl::OkStatus());
  ASSERT_EQ(Ctl({"boot"}), absl::OkStatus());
  Printed();
  EXPECT_EQ(Ctl({"events", "--until=running"}), absl::OkStatus());
  const std::string events = Printed();
  EXPECT_THAT(events, HasSubstr("#1  state changed: created"));
  EXPECT_THAT(events, HasSubstr("#2  state changed: running"));
  EXPECT_EQ(Ctl({"events", "--after=1", "--until=running", "--json"}), absl::OkStatus());
  EXPECT_THAT(Printed(), StartsWith("{\"sequence\":\"2\""));
}

TEST_F(CtlTest, EventsEndWithTheMachine) {
  std::thread machine([this] {
    controller_.WaitForWatchers(1);
    controller_.StopBecause(VmCause::kTripleFault, "");
    controller_.Close();
  });
  EXPECT_EQ(Ctl({"events"}), absl::OkStatus());
  machine.join();
  EXPECT_THAT(Printed(), HasSubstr("triple fault"));
}

TEST_F(CtlTest, ConsoleShowsTheBootAndEndsAtTheText) {
  controller_.Print("Linux version 6.1\r\n");
  std::thread guest([this] {
    controller_.WaitForReaders(1);
    controller_.Print("debian log");
    controller_.Print("in: ");
  });
  EXPECT_EQ(Ctl({"console", "--until=login:"}), absl::OkStatus());
  guest.join();
  EXPECT_THAT(Shown(), StartsWith("Linux version 6.1\r\n"));
}

TEST_F(CtlTest, ConsoleTypesWhatIsPiped) {
  Type("root\nuname\n");
  in_write_.Reset();
  std::thread guest([this] {
    controller_.WaitForInput("root\nuname\n");
    controller_.Print("Linux\n");
    controller_.Close();
  });
  EXPECT_EQ(Ctl({"console"}), absl::OkStatus());  // Output goes on after the input's end.
  guest.join();
  EXPECT_EQ(Shown(), "Linux\n");
}

TEST_F(CtlTest, ConsoleMayEndWithItsInput) {
  Type("halt\n");
  in_write_.Reset();
  EXPECT_EQ(Ctl({"console", "--until-eof"}), absl::OkStatus());
  EXPECT_EQ(controller_.input(), "halt\n");
}

TEST_F(CtlTest, ConsoleWithoutAnyInputMayEndAtOnce) {
  in_write_.Reset();
  EXPECT_EQ(Ctl({"console", "--until-eof"}), absl::OkStatus());
}

TEST_F(CtlTest, ConsoleThatEndsWithoutTheTextIsAFailure) {
  std::thread machine([this] {
    controller_.WaitForReaders(1);
    controller_.Close();
  });
  const absl::Status status = Ctl({"console", "--until=login:"});
  machine.join();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST_F(CtlTest, ConsoleWaitsNoLongerThanAsked) {
  const absl::Status status = Ctl({"console", "--until=login:", "--timeout=100ms"});
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(CtlExitStatus(status), 2);
}

TEST_F(CtlTest, EscapeKeyDetachesATerminal) {
  int master = -1, slave = -1;
  ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  const UniqueFd keyboard(master), terminal(slave);
  termios before = {}, after = {};
  ASSERT_EQ(::tcgetattr(terminal.get(), &before), 0);
  std::thread person([&] {
    controller_.WaitForReaders(1);
    EXPECT_EQ(::write(keyboard.get(), "ls\r", 3), 3);
    controller_.WaitForInput("ls\r");  // Raw: the terminal does not turn it into a newline.
    EXPECT_EQ(::write(keyboard.get(), "\x1d", 1), 1);
  });
  EXPECT_EQ(CtlOn({"console"}, terminal.get()), absl::OkStatus());
  person.join();
  EXPECT_EQ(controller_.input(), "ls\r");
  ASSERT_EQ(::tcgetattr(terminal.get(), &after), 0);
  EXPECT_EQ(before.c_lflag, after.c_lflag);
}

}  // namespace
}  // namespace vireo
