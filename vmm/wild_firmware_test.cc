// Firmware that writes nonsense to everything (tests/guest/firmware/wild.S), on this host's own KVM
// of whatever kind: the machine can always be asked, reset and stopped.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <future>
#include <memory>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/console_text.h"
#include "tests/support/temp_dir.h"
#include "vmm/local_vm_controller.h"

namespace vireo {
namespace {

constexpr int kRounds = 40;
// How long nonsense is let go on before the host resets the machine, should the firmware have led
// itself to where it does not come back from.
constexpr std::chrono::milliseconds kRound{200};

template <typename Call>
absl::Status Wait(Call call) {
  std::promise<absl::Status> result;
  call([&result](absl::Status status) { result.set_value(std::move(status)); });
  return result.get_future().get();
}

std::string Contents(const std::string& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

TEST(WildFirmwareTest, HarmsOnlyItsOwnMachine) {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) GTEST_SKIP() << "no usable /dev/kvm on this machine";
  close(kvm);
  TempDir folder;
  const std::string disk = folder.File("disk.raw");
  const std::string iso = folder.File("cd.iso");
  std::ofstream(disk, std::ios::binary) << std::string(1 << 20, 'd');
  std::ofstream(iso, std::ios::binary) << std::string(1 << 20, 'c');

  VmConfig config;
  config.cpus.boot = 2;
  config.memory.size_bytes = uint64_t{32} << 20;
  config.boot.firmware = std::string(std::getenv("TEST_SRCDIR")) + "/" +
                         std::getenv("TEST_WORKSPACE") + "/tests/guest/firmware/wild.rom";
  config.disks = {{.path = disk, .format = DiskFormat::kRaw}};
  config.cdroms = {{.path = iso}};

  int resets = 0;
  for (int round = 0; round < kRounds;) {
    const std::unique_ptr<LocalVmController> vm = *LocalVmController::Start({});
    const auto console = std::make_shared<ConsoleText>();
    vm->AddConsoleReader(console);
    ASSERT_EQ(Wait([&](VmController::Done done) { vm->Create(config, std::move(done)); }),
              absl::OkStatus());
    ASSERT_EQ(Wait([&](VmController::Done done) { vm->Boot(std::move(done)); }), absl::OkStatus());
    console->WaitFor("wild ");
    for (; round < kRounds; ++round) {
      const int times = console->CountOf("wild ");
      console->WaitFor("wild ", times + 2, kRound);
      if (!Wait([&](VmController::Done done) { vm->Reset(std::move(done)); }).ok()) break;
      // From here it begins again, whatever state it had brought itself into.
      console->WaitFor("wild ", times + 1);
    }
    const VmDescription description = vm->Describe();
    resets += static_cast<int>(description.resets);
    if (round < kRounds) {
      // It has powered itself off, by chance: with another machine it goes on.
      ASSERT_EQ(description.state, VmState::kStopped);
      ++round;
    }
    EXPECT_EQ(Wait([&](VmController::Done done) { vm->Stop(std::move(done)); }), absl::OkStatus());
    EXPECT_EQ(vm->Describe().state, VmState::kStopped);
  }
  EXPECT_GE(resets, kRounds / 2);
  EXPECT_EQ(Contents(iso), std::string(1 << 20, 'c'));
  EXPECT_EQ(Contents(disk).size(), size_t{1} << 20);
}

}  // namespace
}  // namespace vireo
