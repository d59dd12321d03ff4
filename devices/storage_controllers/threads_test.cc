// The one test of this folder with threads: registers, commands, aborts and resets from vCPU
// threads against a loop that really runs beside them. It waits for events, never for time; a
// command that is lost shows as a test that does not end.

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ahci.h"
#include "devices/storage_controllers/ahci_fixture.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/mmc_spec.h"
#include "gtest/gtest.h"
#include "tests/support/ahci_driver.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

Task<void> Nothing() { co_return; }

// Reads what a guest may read at any time, and switches what changes no command.
void PokeRegisters(AhciDriver& driver, const std::atomic<bool>& stop) {
  while (!stop.load()) {
    for (uint32_t offset = 0; offset < ahci::kPorts + ahci::kPortBytes; offset += 4) {
      driver.ReadHba(offset);
    }
    driver.Write(ahci::kPxIe, 0);
    driver.Write(ahci::kPxIe, 0xffffffff);
    driver.Write(ahci::kPxIs, ahci::kIsDps);
    std::this_thread::yield();
  }
}

void WaitForCommands(AhciDriver& driver) {
  while (driver.Read(ahci::kPxCi) != 0) std::this_thread::yield();
}

TEST(ThreadsTest, NoCommandIsLostAndEveryAbortEnds) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  ASSERT_TRUE(guest.memory().dirty_log().Start().ok());
  AhciHost host(*loop, guest, {});
  AhciDriver driver({.ahci = *host.ahci, .space = host.space, .loop = *loop, .guest = guest});
  driver.EnableFunction();
  std::thread io([&loop] { loop->Run(); });
  std::atomic<bool> stop = false;
  std::thread other_vcpu([&driver, &stop] { PokeRegisters(driver, stop); });
  for (uint32_t slot = 0; slot < 4; ++slot) {
    driver.Prepare(driver.PacketCommand({mmc::kRead10, 0, 0, 0, 0, 1, 0, 0, 16}, 16 * 2048, slot));
  }
  driver.Prepare(driver.PacketCommand({mmc::kRequestSense, 0, 0, 0, 18}, 18, 4));
  for (int round = 0; round < 50; ++round) {
    driver.EnablePort();
    driver.StartEngine();
    driver.Issue(1 << 4);  // Takes the unit attention.
    WaitForCommands(driver);
    for (int i = 0; i < 20; ++i) {
      driver.Issue(0x3);
      driver.Issue(0xc);
      WaitForCommands(driver);
    }
    driver.Issue(0xf);
    switch (round % 4) {
      case 0:
        break;
      case 1:
        driver.WriteCommandRegister(pci::kCommandMemory);
        driver.WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
        WaitForCommands(driver);
        break;
      case 2:
        loop->RunOn([&host] { return host.ahci->Quiesce(); });
        loop->RunOn([&host]() -> Task<void> {
          host.ahci->Resume();
          return Nothing();
        });
        WaitForCommands(driver);
        break;
      default:
        driver.WriteHba(ahci::kGhc, ahci::kGhcReset);
        break;
    }
    driver.StopEngine();
    while ((driver.Read(ahci::kPxCmd) & ahci::kCmdCr) != 0) std::this_thread::yield();
    driver.Comreset();
  }
  stop.store(true);
  other_vcpu.join();
  loop->Stop();
  io.join();
}

}  // namespace
}  // namespace vireo
