// The whole machine on this host's own KVM, of whatever kind, with a guest that needs a few
// instructions only.
#include "vmm/local_vm_controller.h"

#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <future>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/console_text.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using ::testing::HasSubstr;

std::string Runfile(const std::string& path) {
  return std::string(std::getenv("TEST_SRCDIR")) + "/" + std::getenv("TEST_WORKSPACE") + "/" + path;
}
std::string GuestPath() { return Runfile("tests/guest/modes/modes.elf"); }

class Watcher final : public EventWatcher {
 public:
  void OnEvent(const VmEvent& event) override {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    changed_.notify_all();
  }
  void OnClosed() override {}
  void WaitFor(VmEventKind kind, VmCause cause, VmState state) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return std::any_of(events_.begin(), events_.end(), [&](const VmEvent& e) {
        return e.kind == kind && e.cause == cause && e.state == state;
      });
    });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<VmEvent> events_;
};

class LocalVmControllerTest : public testing::Test {
 protected:
  void SetUp() override {
    const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) GTEST_SKIP() << "no usable /dev/kvm on this machine";
    close(kvm);
    vm_ = *LocalVmController::Start({});
    vm_->AddConsoleReader(screen_);
    vm_->AddEventWatcher(watcher_, 0);
  }

  static VmConfig Config(const std::string& mode) {
    VmConfig config;
    config.memory.size_bytes = uint64_t{32} << 20;
    config.boot.kernel = GuestPath();
    config.boot.cmdline = mode;
    return config;
  }

  template <typename Call>
  absl::Status Do(Call call) {
    std::promise<absl::Status> result;
    call([&result](absl::Status status) { result.set_value(std::move(status)); });
    return result.get_future().get();
  }
  absl::Status Create(VmConfig config) {
    return Do([&](VmController::Done done) { vm_->Create(std::move(config), std::move(done)); });
  }
  absl::Status Do(void (VmController::*call)(VmController::Done)) {
    return Do([&](VmController::Done done) { ((*vm_).*call)(std::move(done)); });
  }

  std::shared_ptr<ConsoleText> screen_ = std::make_shared<ConsoleText>();
  std::shared_ptr<Watcher> watcher_ = std::make_shared<Watcher>();
  std::unique_ptr<LocalVmController> vm_;
};

TEST_F(LocalVmControllerTest, AGuestThatPowersOffEndsTheMachine) {
  ASSERT_EQ(Create(Config("p")), absl::OkStatus());
  EXPECT_EQ(vm_->Describe().state, VmState::kCreated);
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  EXPECT_EQ(vm_->WaitUntilStopped().cause, VmCause::kGuestPowerOff);
  EXPECT_EQ(vm_->Describe().state, VmState::kStopped);
  screen_->WaitFor("mode p\n");
}

// tests/guest/firmware/firmware.S tells what each word means.
TEST_F(LocalVmControllerTest, FirmwareFindsItsPlaceAgainAfterAReset) {
  VmConfig config;
  config.memory.size_bytes = uint64_t{32} << 20;
  config.boot.firmware = Runfile("tests/guest/firmware/firmware.rom");
  ASSERT_EQ(Create(config), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  EXPECT_EQ(vm_->WaitUntilStopped().cause, VmCause::kGuestPowerOff);
  EXPECT_EQ(vm_->Describe().resets, 1u);
  constexpr std::string_view kRun = "QEMU rom below ram lock etc/e820 ";
  screen_->WaitFor(std::string(kRun) + std::string(kRun) + "end ");
}

// Over a reset, and over the end of the machine in the file.
TEST_F(LocalVmControllerTest, FlashBelowTheFirmwareKeepsWhatIsProgrammed) {
  TempDir folder;
  const std::string path = folder.File("vars.fd");
  std::string blank(8192, '\0');
  blank.replace(0, 4096, std::string(4096, '\xff'));
  blank.replace(40, 4, "_FVH");
  std::ofstream(path, std::ios::binary) << blank;
  VmConfig config;
  config.memory.size_bytes = uint64_t{32} << 20;
  config.boot.firmware = Runfile("tests/guest/firmware/firmware.rom");
  config.boot.variables = path;
  ASSERT_EQ(Create(config), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  EXPECT_EQ(vm_->WaitUntilStopped().cause, VmCause::kGuestPowerOff);
  screen_->WaitFor("lock etc/e820 flash QEMU rom below ram lock etc/e820 kept flash end ");
  std::ostringstream kept;
  kept << std::ifstream(path, std::ios::binary).rdbuf();
  std::string wanted = blank;
  wanted[100] = 0x42;
  wanted.replace(4096, 4096, std::string(4096, '\xff'));
  EXPECT_EQ(kept.str(), wanted);
}

TEST_F(LocalVmControllerTest, FirmwareThatIsNoneIsRefusedByName) {
  VmConfig config;
  config.boot.firmware = "/nowhere/bios.bin";
  const absl::Status missing = Create(config);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("boot.firmware: /nowhere/bios.bin"));
  config.boot.firmware = GuestPath();
  const absl::Status kernel = Create(config);
  EXPECT_EQ(kernel.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(kernel.message()), HasSubstr("modes.elf is no firmware: it has"));
}

TEST_F(LocalVmControllerTest, MediaComeAndGo) {
  TempDir folder;
  const std::string one = folder.File("one.iso"), two = folder.File("two.iso");
  for (const std::string& path : {one, two}) {
    std::ofstream(path, std::ios::binary) << std::string(64 << 10, 'm');
  }
  VmConfig config = Config("h");
  config.cdroms = {{.path = one}};
  ASSERT_EQ(Create(config), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  const auto set = [&](std::string drive, std::string path) {
    return Do([&](VmController::Done done) {
      vm_->SetMedium(std::move(drive), std::move(path), EjectMode::kAsk, std::move(done));
    });
  };
  const auto medium = [&] { return vm_->Describe().cdroms.at(0).path; };
  EXPECT_EQ(medium(), one);
  EXPECT_EQ(set("cdrom0", two), absl::OkStatus());
  EXPECT_EQ(medium(), two);
  EXPECT_EQ(set("cdrom0", folder.File("nowhere.iso")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(medium(), two);
  EXPECT_EQ(set("cdrom0", ""), absl::OkStatus());
  EXPECT_EQ(medium(), "");
  EXPECT_EQ(set("cdrom0", "").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(set("cdrom1", two).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(set("cdrom0", one), absl::OkStatus());
  EXPECT_EQ(vm_->Describe().config.cdroms.at(0).path, one);
  EXPECT_EQ(Do(&VmController::Stop), absl::OkStatus());
  EXPECT_EQ(set("cdrom0", two).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(LocalVmControllerTest, AResetThroughPort0xcf9StartsTheGuestAgain) {
  ASSERT_EQ(Create(Config("r")), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  screen_->WaitFor("mode r\n", 20);
  EXPECT_EQ(Do(&VmController::Stop), absl::OkStatus());
  EXPECT_GE(vm_->Describe().resets, 19u);
}

TEST_F(LocalVmControllerTest, AResetByTheKeyboardControllerIsNamed) {
  ASSERT_EQ(Create(Config("k")), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  watcher_->WaitFor(VmEventKind::kReset, VmCause::kGuestReset, VmState::kRunning);
  screen_->WaitFor("mode k\n", 2);
}

struct Crash {
  std::string mode;
  VmCause cause;
};
class CrashTest : public LocalVmControllerTest, public testing::WithParamInterface<Crash> {};

TEST_P(CrashTest, StopsTheMachineWhenOnCrashSaysStop) {
  VmConfig config = Config(GetParam().mode);
  config.on_crash = OnCrash::kStop;
  ASSERT_EQ(Create(config), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  EXPECT_EQ(vm_->WaitUntilStopped().cause, GetParam().cause);
}

TEST_P(CrashTest, ResetsTheMachineWhenOnCrashSaysReset) {
  ASSERT_EQ(Create(Config(GetParam().mode)), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  watcher_->WaitFor(VmEventKind::kReset, GetParam().cause, VmState::kRunning);
  screen_->WaitFor("mode " + GetParam().mode + "\n", 3);
}

TEST_P(CrashTest, HoldsTheMachineWhenOnCrashSaysPause) {
  VmConfig config = Config(GetParam().mode);
  config.on_crash = OnCrash::kPause;
  ASSERT_EQ(Create(config), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  watcher_->WaitFor(VmEventKind::kStateChanged, GetParam().cause, VmState::kPaused);
  EXPECT_EQ(Do(&VmController::Resume).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Do(&VmController::Reset), absl::OkStatus());
  EXPECT_EQ(vm_->Describe().state, VmState::kPaused);
}

INSTANTIATE_TEST_SUITE_P(All, CrashTest,
                         testing::Values(Crash{"c", VmCause::kGuestPanic},
                                         Crash{"t", VmCause::kTripleFault}),
                         [](const testing::TestParamInfo<Crash>& info) {
                           return info.param.mode == "c" ? "Panic" : "TripleFault";
                         });

TEST_F(LocalVmControllerTest, WhatIsTypedReachesTheGuest) {
  ASSERT_EQ(Create(Config("e")), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  screen_->WaitFor("mode e\n");
  EXPECT_EQ(vm_->WriteConsole("hello there, q"), 14u);
  EXPECT_EQ(vm_->WaitUntilStopped().cause, VmCause::kGuestPowerOff);
  screen_->WaitFor("hello there, q");
}

TEST_F(LocalVmControllerTest, APausedGuestRunsNothingAndGoesOnAfterwards) {
  ASSERT_EQ(Create(Config("e")), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  screen_->WaitFor("mode e\n");
  ASSERT_EQ(Do(&VmController::Pause), absl::OkStatus());
  EXPECT_EQ(Do(&VmController::Pause), absl::OkStatus()) << "a retry";
  const uint64_t exits = vm_->Stats().vcpus.at(0).exits;
  vm_->WriteConsole("abc");
  EXPECT_EQ(vm_->Stats().vcpus.at(0).exits, exits);
  ASSERT_EQ(Do(&VmController::Resume), absl::OkStatus());
  screen_->WaitFor("abc");
  EXPECT_EQ(Do(&VmController::Stop), absl::OkStatus());
}

TEST_F(LocalVmControllerTest, AHaltedGuestCanBePausedResetAndStopped) {
  VmConfig config = Config("h");
  config.cpus.boot = config.cpus.max = 4;
  ASSERT_EQ(Create(config), absl::OkStatus());
  ASSERT_EQ(Do(&VmController::Boot), absl::OkStatus());
  screen_->WaitFor("mode h\n");
  EXPECT_EQ(Do(&VmController::Pause), absl::OkStatus());
  EXPECT_EQ(Do(&VmController::Resume), absl::OkStatus());
  EXPECT_EQ(Do(&VmController::Reset), absl::OkStatus());
  screen_->WaitFor("mode h\n", 2);
  EXPECT_EQ(Do(&VmController::Stop), absl::OkStatus());
  EXPECT_EQ(Do(&VmController::Stop), absl::OkStatus()) << "a retry";
  EXPECT_EQ(vm_->Describe().last_cause, VmCause::kStopRequested);
}

TEST_F(LocalVmControllerTest, OperationsOutOfOrderSayWhatIsMissing) {
  EXPECT_THAT(std::string(Do(&VmController::Boot).message()), HasSubstr("Create"));
  EXPECT_EQ(Do(&VmController::Pause).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Do(&VmController::Shutdown).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(Create(Config("h")), absl::OkStatus());
  EXPECT_EQ(Create(Config("p")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(LocalVmControllerTest, ARepeatedCreateOfTheSameMachineSucceeds) {
  VmConfig config = Config("h");
  config.uuid.clear();  // Made up once, not compared.
  ASSERT_EQ(Create(config), absl::OkStatus());
  const std::string uuid = vm_->Describe().config.uuid;
  EXPECT_EQ(Create(config), absl::OkStatus());
  EXPECT_EQ(vm_->Describe().config.uuid, uuid);
  ++config.cpus.boot;
  EXPECT_EQ(Create(config).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(LocalVmControllerTest, ABadConfigurationIsRefusedAndAnotherMayFollow) {
  VmConfig missing = Config("h");
  missing.boot.kernel = "/nonexistent/vmlinuz";
  EXPECT_THAT(std::string(Create(missing).message()),
              HasSubstr("boot.kernel: /nonexistent/vmlinuz"));
  VmConfig disk = Config("h");
  disk.disks.push_back({.path = "/nonexistent/disk.raw", .format = DiskFormat::kRaw});
  EXPECT_THAT(std::string(Create(disk).message()), HasSubstr("/nonexistent/disk.raw"));
  EXPECT_EQ(Create(Config("h")), absl::OkStatus());
}

}  // namespace
}  // namespace vireo
