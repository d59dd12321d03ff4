// The controller: what it is, its registers and interrupts, and its lifecycle. Commands are
// ahci_port_test.cc's.

#include "devices/storage_controllers/ahci.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/state.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ahci_fixture.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/ata_spec.h"
#include "devices/storage_controllers/mmc_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/ahci_driver.h"
#include "tests/support/memory_backend.h"

namespace vireo {
namespace {

using testing::Each;
using testing::ElementsAre;
using Bytes = std::vector<uint8_t>;

Bytes ReadConfig(Ahci& ahci, uint16_t offset, size_t bytes) {
  Bytes data(bytes);
  ahci.ReadConfig(offset, data);
  return data;
}

Bytes ReadAbar(Ahci& ahci, uint64_t offset, size_t bytes) {
  Bytes data(bytes, 0x5a);
  ahci.Read(offset, data);
  return data;
}

Task<void> NoteEnd(Task<void> task, bool* ended) {
  co_await std::move(task);
  *ended = true;
}

// ---- Configuration space ----

TEST(AhciTest, IsTheControllerOfAnIch9) {
  AhciFixture f;
  EXPECT_THAT(ReadConfig(f.ahci(), pci::kVendorId, 4), ElementsAre(0x86, 0x80, 0x22, 0x29));
  EXPECT_THAT(ReadConfig(f.ahci(), pci::kRevisionId, 4), ElementsAre(0x02, 0x01, 0x06, 0x01));
  EXPECT_THAT(ReadConfig(f.ahci(), pci::kSubsystemVendorId, 4),
              ElementsAre(0xf4, 0x1a, 0x00, 0x11));
  EXPECT_THAT(ReadConfig(f.ahci(), pci::kInterruptPin, 1), ElementsAre(1));
  EXPECT_THAT(ReadConfig(f.ahci(), pci::kCapabilityPointer, 1), ElementsAre(0));
  const Bytes ones(4, 0xff);
  f.ahci().WriteConfig(pci::kBar0 + 20, ones);
  EXPECT_THAT(ReadConfig(f.ahci(), pci::kBar0 + 20, 4), ElementsAre(0x00, 0xf0, 0xff, 0xff));
  ASSERT_EQ(f.ahci().bars().size(), 1u);
}

TEST(AhciTest, TheAbarIsWhereTheBarSays) {
  AhciFixture f;
  EXPECT_EQ(f.driver().ReadHba(ahci::kVs), 0xffffffffu);
  f.driver().EnableFunction();
  EXPECT_EQ(f.driver().ReadHba(ahci::kVs), ahci::kVersion);
}

// ---- As it is found ----

// SeaBIOS: no interrupts, and statuses from the received frames, whichever came.
TEST(AhciTest, FirmwareFindsTheDrive) {
  AhciFixture f;
  AhciDriver& driver = f.driver();
  driver.EnableFunction();
  driver.WriteHba(ahci::kGhc, ahci::kGhcAhci);
  driver.Write(ahci::kPxClb, static_cast<uint32_t>(driver.list().value()));
  driver.Write(ahci::kPxFb, static_cast<uint32_t>(driver.fis_area().value()));
  ASSERT_EQ(
      driver.Read(ahci::kPxCmd) & (ahci::kCmdSt | ahci::kCmdFre | ahci::kCmdCr | ahci::kCmdFr), 0u);
  driver.Write(ahci::kPxIe, 0);
  driver.Write(ahci::kPxIs, driver.Read(ahci::kPxIs));
  driver.Write(ahci::kPxCmd, driver.Read(ahci::kPxCmd) | ahci::kCmdFre);
  ASSERT_EQ(driver.Read(ahci::kPxSsts) & 0x7, 0x3u);
  driver.Write(ahci::kPxSerr, driver.Read(ahci::kPxSerr));
  ASSERT_EQ(driver.Read(ahci::kPxTfd) & (ata::kStatusBusy | ata::kStatusDrq), 0u);
  driver.Write(ahci::kPxCmd, driver.Read(ahci::kPxCmd) | ahci::kCmdSt);

  const AhciDriver::Outcome identity =
      driver.Run({.fis = AhciDriver::Fis(ata::kIdentifyPacketDevice),
                  .prds = {AhciDriver::Prd(driver.buffer(), 512)}});
  ASSERT_EQ(identity.is, ahci::kIsPss);
  const auto setup = driver.ReceivedFis<ahci::PioSetupFis>(ahci::kFisPioSetup);
  EXPECT_EQ(setup.status & (ata::kStatusBusy | ata::kStatusReady | ata::kStatusError),
            ata::kStatusReady);
  EXPECT_EQ(identity.data[1] >> 6, 2);  // A packet device.

  // It asks until the drive is ready, and waits for a frame each time.
  const AhciDriver::Outcome attention = driver.Send({mmc::kTestUnitReady});
  EXPECT_EQ(attention.is & ahci::kIsDhrs, ahci::kIsDhrs);
  EXPECT_EQ(driver.ReceivedFis<ahci::D2hFis>(ahci::kFisD2h).status & ata::kStatusError,
            ata::kStatusError);
  EXPECT_EQ(driver.Send({mmc::kTestUnitReady}).is, ahci::kIsDhrs);
  EXPECT_EQ(driver.Send({mmc::kRead10, 0, 0, 0, 0, 16, 0, 0, 1}, 2048).data[0],
            AhciHost::ByteAt(16 * 2048));
  EXPECT_EQ(f.host.line.TakeEdges(), 0);
}

// Linux: a reset of the controller, a COMRESET whose end is seen in the received frame, and packets
// by PIO where their length is no multiple of 16.
TEST(AhciTest, LinuxProbesThePort) {
  AhciFixture f;
  AhciDriver& driver = f.driver();
  driver.EnableFunction();
  driver.WriteHba(ahci::kGhc, driver.ReadHba(ahci::kGhc) | ahci::kGhcReset);
  ASSERT_EQ(driver.ReadHba(ahci::kGhc) & ahci::kGhcReset, 0u);
  driver.EnablePort();
  const GuestAddress frame(driver.fis_area().value() + ahci::kFisD2h);
  ahci::D2hFis busy = {};
  busy.status = ata::kStatusBusy;
  f.guest.WriteObject(frame, busy);
  driver.Comreset();
  EXPECT_EQ(driver.Read(ahci::kPxSctl) & 0xf0f, 0x300u);
  EXPECT_EQ(driver.Read(ahci::kPxSsts) & 0xf0f, 0x103u);
  EXPECT_EQ(driver.Read(ahci::kPxTfd) & ata::kStatusBusy, 0u);
  EXPECT_EQ(driver.Read(ahci::kPxSig), ahci::kSignatureAtapi);
  EXPECT_EQ(f.guest.ReadObject<ahci::D2hFis>(frame).status, 0);
  driver.Write(ahci::kPxSerr, driver.Read(ahci::kPxSerr));
  driver.Write(ahci::kPxIs, driver.Read(ahci::kPxIs));
  EXPECT_EQ(driver.Read(ahci::kPxIs), 0u);
  driver.StartEngine();

  const AhciDriver::Outcome identity =
      driver.Run({.fis = AhciDriver::Fis(ata::kIdentifyPacketDevice),
                  .prds = {AhciDriver::Prd(driver.buffer(), 512)}});
  EXPECT_EQ(identity.ci, 0u);
  EXPECT_EQ(driver.ReceivedFis<ahci::PioSetupFis>(ahci::kFisPioSetup).end_status &
                (ata::kStatusBusy | ata::kStatusReady | ata::kStatusDrq | ata::kStatusError),
            ata::kStatusReady);
  EXPECT_EQ(driver.Run({.fis = AhciDriver::Fis(ata::kSetFeatures, ata::kSetTransferMode, 0x45)}).is,
            ahci::kIsDhrs);

  EXPECT_EQ(driver.Send({mmc::kTestUnitReady}).error >> 4, mmc::kKeyUnitAttention);
  AhciDriver::Command sense = driver.PacketCommand({mmc::kRequestSense, 0, 0, 0, 18}, 18);
  sense.fis.features = 0;
  const AhciDriver::Outcome told = driver.Run(sense);
  EXPECT_EQ(told.ci, 0u);
  EXPECT_EQ(told.data[2], mmc::kKeyUnitAttention);
  EXPECT_EQ(told.data[12], 0x29);
  EXPECT_EQ(driver.Send({mmc::kTestUnitReady}).error, 0);
}

// ---- Generic registers ----

TEST(AhciTest, SaysWhatItCanDo) {
  AhciFixture f({.drives = 3});
  f.driver().EnableFunction();
  // 64-bit addresses, CLO, AHCI only, generation 2, 32 slots, three ports.
  EXPECT_EQ(f.driver().ReadHba(ahci::kCap), 0x81241f02u);
  EXPECT_EQ(f.driver().ReadHba(ahci::kPi), 0x7u);
  EXPECT_EQ(f.driver().ReadHba(ahci::kVs), 0x00010301u);
  EXPECT_EQ(f.driver().ReadHba(ahci::kCap2), 0u);
  EXPECT_EQ(f.driver().ReadHba(ahci::kBohc), 0u);
  f.driver().WriteHba(ahci::kCap, 0);
  f.driver().WriteHba(ahci::kPi, 0);
  EXPECT_EQ(f.driver().ReadHba(ahci::kCap), 0x81241f02u);
  EXPECT_EQ(f.driver().ReadHba(ahci::kPi), 0x7u);
}

TEST(AhciTest, AhciCannotBeSwitchedOff) {
  AhciFixture f;
  f.driver().EnableFunction();
  EXPECT_EQ(f.driver().ReadHba(ahci::kGhc), ahci::kGhcAhci);
  f.driver().WriteHba(ahci::kGhc, ahci::kGhcInterrupts);
  EXPECT_EQ(f.driver().ReadHba(ahci::kGhc), ahci::kGhcAhci | ahci::kGhcInterrupts);
  f.driver().WriteHba(ahci::kGhc, 0);
  EXPECT_EQ(f.driver().ReadHba(ahci::kGhc), ahci::kGhcAhci);
}

TEST(AhciTest, ThereIsNothingPastTheLastPort) {
  AhciFixture f({.drives = 2});
  f.driver().EnableFunction();
  EXPECT_EQ(f.driver(1).Read(ahci::kPxSsts), ahci::kSstsPresent);
  for (uint32_t offset = 0x200; offset < Ahci::kBarBytes; offset += 4) {
    f.driver().WriteHba(offset, 0xffffffff);
    EXPECT_EQ(f.driver().ReadHba(offset), 0u) << offset;
  }
}

TEST(AhciTest, OddAccessesGiveTheBytesOfTheRegisters) {
  AhciFixture f;
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kVs, 8), ElementsAre(1, 3, 1, 0, 0, 0, 0, 0));
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kVs + 1, 2), ElementsAre(3, 1));
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kVs - 1, 3), ElementsAre(0, 1, 3));
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kPorts + ahci::kPxSig + 3, 7),
              ElementsAre(0xeb, 0x23, 0x01, 0, 0, 0, 0));
  f.ahci().Write(ahci::kPorts + ahci::kPxClb + 1, Bytes{0xff, 0x12, 0x34, 0x56, 0x78});
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kPorts + ahci::kPxClb, 8),
              ElementsAre(0, 0xfc, 0x12, 0x34, 0x56, 0x78, 0, 0));
  // A byte that clears does not clear its neighbours.
  f.ahci().Write(ahci::kPorts + ahci::kPxSerr, Bytes{0xff, 0xff, 0xff});
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kPorts + ahci::kPxSerr, 4), ElementsAre(0, 0, 0, 4));
  f.ahci().Write(ahci::kPorts + ahci::kPxSerr + 3, Bytes{0xff});
  EXPECT_THAT(ReadAbar(f.ahci(), ahci::kPorts + ahci::kPxSerr, 4), ElementsAre(0, 0, 0, 0));
}

// ---- Interrupts ----

TEST(AhciTest, ThePinFollowsWhatIsEnabledAndPending) {
  AhciFixture f({.drives = 2});
  f.driver(0).EnableFunction();
  // A device that came is pending on each port from the start.
  EXPECT_EQ(f.driver(1).Read(ahci::kPxIs), ahci::kIsPcs);
  EXPECT_EQ(f.driver(0).ReadHba(ahci::kIs), 0u);
  f.driver(1).Write(ahci::kPxIe, ahci::kIsPcs);
  EXPECT_EQ(f.driver(0).ReadHba(ahci::kIs), 0x2u);
  EXPECT_FALSE(f.host.line.asserted());
  f.driver(0).WriteHba(ahci::kGhc, ahci::kGhcInterrupts);
  EXPECT_TRUE(f.host.line.asserted());
  f.driver(0).WriteHba(ahci::kIs, 0x2);  // Without its cause being gone.
  EXPECT_TRUE(f.host.line.asserted());
  f.driver(1).Write(ahci::kPxIs, 0xffffffff);
  EXPECT_TRUE(f.host.line.asserted());
  f.driver(1).Write(ahci::kPxSerr, ahci::kSerrDiagX);
  EXPECT_FALSE(f.host.line.asserted());
  EXPECT_EQ(f.driver(0).ReadHba(ahci::kIs), 0u);
  EXPECT_EQ(f.host.line.TakeEdges(), 1);
}

TEST(AhciTest, APinThatIsSwitchedOffStaysLow) {
  AhciFixture f;
  f.driver().Start();
  f.driver().WriteCommandRegister(f.driver().ReadCommandRegister() | pci::kCommandIntxDisable);
  f.driver().Prepare(f.driver().PacketCommand({mmc::kRequestSense, 0, 0, 0, 18}, 18));
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(f.host.line.asserted());
  EXPECT_EQ(ReadConfig(f.ahci(), pci::kStatus, 1)[0] & pci::kStatusInterrupt,
            pci::kStatusInterrupt);
  f.driver().WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
  EXPECT_TRUE(f.host.line.asserted());
}

TEST(AhciTest, EachPortHasItsDrive) {
  AhciFixture f({.drives = 6});
  for (size_t port = 0; port < 6; ++port) {
    f.driver(port).Start();
    const AhciDriver::Outcome outcome = f.driver(port).Send({mmc::kInquiry, 1, 0x80, 0, 255}, 256);
    ASSERT_EQ(outcome.data.size(), 10u) << port;
    EXPECT_EQ(outcome.data[9], '0' + port);
  }
}

// ---- Reset by the guest ----

TEST(AhciTest, AResetOfTheControllerKeepsTheListsOnly) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  f.driver().Send({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  EXPECT_TRUE(f.ahci().drive(0).facts().locked);
  f.driver().Write(ahci::kPxSctl, 0x300);
  f.driver().WriteHba(ahci::kGhc, ahci::kGhcReset);
  EXPECT_EQ(f.driver().ReadHba(ahci::kGhc), ahci::kGhcAhci);
  EXPECT_EQ(f.driver().Read(ahci::kPxClb), f.driver().list().value());
  EXPECT_EQ(f.driver().Read(ahci::kPxFb), f.driver().fis_area().value());
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd), ahci::kCmdSud | ahci::kCmdPod);
  EXPECT_EQ(f.driver().Read(ahci::kPxIe), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxSctl), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxSerr), ahci::kSerrDiagX);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x0100u);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(f.ahci().drive(0).facts().locked);
  f.driver().Start();
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).error, 0x60);
}

// ---- Lifecycle ----

TEST(AhciTest, APauseWaitsForTheCommandThatIsRunning) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.host.memory_of(0).Hold();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, 1, 0, 0, 1}, 2048, 0));
  f.driver().Prepare(f.driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, 2, 0, 0, 1}, 2048, 1));
  f.driver().Issue(0x3);
  f.loop->RunUntilIdle();
  TaskScope scope(*f.loop);
  bool quiet = false;
  scope.Spawn(NoteEnd(f.ahci().Quiesce(), &quiet));
  f.loop->RunUntilIdle();
  EXPECT_FALSE(quiet);
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(quiet);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0x2u);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], AhciHost::ByteAt(2048));
  f.driver().Issue(0x4);  // Heard, and not begun.
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0x6u);
  f.driver().Prepare(f.driver().PacketCommand({mmc::kTestUnitReady}, 0, 2));
  f.ahci().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], AhciHost::ByteAt(4096));
}

TEST(AhciTest, APauseDoesNotWaitForAllOfALongRead) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.host.memory_of(0).Hold();
  // 400 blocks: four reads of the medium.
  f.driver().Prepare(
      f.driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, 0, 0, 1, 0x90}, 400 * 2048));
  f.driver().Issue(0x1);
  f.loop->RunUntilIdle();
  TaskScope scope(*f.loop);
  bool quiet = false;
  scope.Spawn(NoteEnd(f.ahci().Quiesce(), &quiet));
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(quiet);
  EXPECT_EQ(f.host.memory_of(0).requests(), 1u);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0x1u);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & ata::kStatusBusy, ata::kStatusBusy);
  f.ahci().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.host.memory_of(0).requests(), 5u);
  const Bytes data = f.guest.Read(f.driver().buffer(), 400 * 2048);
  for (size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], AhciHost::ByteAt(i)) << i;
}

TEST(AhciTest, APauseThatIsCalledOffEnds) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.host.memory_of(0).Hold();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, 1, 0, 0, 1}, 2048));
  f.driver().Issue(0x1);
  f.loop->RunUntilIdle();
  TaskScope scope(*f.loop);
  bool quiet = false;
  scope.Spawn(NoteEnd(f.ahci().Quiesce(), &quiet));
  f.ahci().Resume();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(quiet);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0x1u);
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
}

TEST(AhciTest, APowerOnIsAFreshController) {
  AhciFixture f({.drives = 2});
  const EncodedState fresh = f.ahci().Save();
  f.driver(0).Start();
  f.driver(1).Start();
  f.driver(1).Send({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  f.driver(1).Send({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  f.driver(0).Prepare(f.driver(0).PacketCommand({mmc::kTestUnitReady}));
  f.driver(0).Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_TRUE(f.host.line.asserted());
  f.loop->RunTask(f.ahci().Reset());
  EXPECT_FALSE(f.host.line.asserted());
  EXPECT_FALSE(f.ahci().bar_address(Ahci::kBarIndex).has_value());
  EXPECT_EQ(f.ahci().Save().bytes, fresh.bytes);
  f.driver(0).Start();  // It runs, as it did before.
  EXPECT_EQ(f.driver(0).Send({mmc::kTestUnitReady}).error, 0x60);
  EXPECT_EQ(f.driver(0).Send({mmc::kTestUnitReady}).error, 0);
}

TEST(AhciTest, AResetDrainsAndStaysQuiet) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.loop->RunTask(f.ahci().Quiesce());
  f.loop->RunTask(f.ahci().Reset());
  f.driver().Start();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36));
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 1u);
  f.ahci().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
}

TEST(AhciTest, AResetWaitsForTheHostsRead) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.host.memory_of(0).Hold();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, 1, 0, 0, 1}, 2048));
  f.driver().Issue(0x1);
  f.loop->RunUntilIdle();
  TaskScope scope(*f.loop);
  bool reset = false;
  scope.Spawn(NoteEnd(f.ahci().Reset(), &reset));
  f.loop->RunUntilIdle();
  EXPECT_FALSE(reset);
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(reset);
}

// ---- State ----

TEST(AhciTest, AFreshControllerGoesOnWhereTheOldOneStopped) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.driver().Run(f.driver().PacketCommand({0xff}));  // Has failed, and the engine stands.
  f.driver().StopEngine();
  f.driver().StartEngine();
  f.driver().Run(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36, 7));
  f.loop->RunTask(f.ahci().Quiesce());
  f.driver().Prepare(f.driver().PacketCommand({mmc::kReadCapacity}, 8, 4));
  f.driver().Issue(1 << 4);
  f.loop->RunUntilIdle();
  const EncodedState state = f.ahci().Save();

  AhciHost other(*f.loop, f.guest, {});
  ASSERT_TRUE(other.ahci->Restore(state).ok());
  EXPECT_EQ(other.ahci->Save().bytes, state.bytes);
  EXPECT_EQ(other.ahci->bar_address(Ahci::kBarIndex), AhciDriver::kAbar);
  AhciDriver driver({.ahci = *other.ahci, .space = other.space, .loop = *f.loop, .guest = f.guest});
  EXPECT_EQ(driver.Read(ahci::kPxCi), 1u << 4);
  EXPECT_FALSE(other.line.asserted());
  other.ahci->Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(driver.Read(ahci::kPxCi), 0u);
  EXPECT_TRUE(other.line.asserted());
  EXPECT_THAT(f.guest.Read(f.driver().buffer(), 8), ElementsAre(0, 0, 3, 0xe7, 0, 0, 8, 0));
}

TEST(AhciTest, AnErrorAndItsInterruptAreRestored) {
  AhciFixture f;
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  f.driver().Prepare(f.driver().PacketCommand({0xff}, 0, 3));
  f.driver().Issue(1 << 3);
  f.loop->RunUntilIdle();
  f.loop->RunTask(f.ahci().Quiesce());
  AhciHost other(*f.loop, f.guest, {});
  ASSERT_TRUE(other.ahci->Restore(f.ahci().Save()).ok());
  EXPECT_TRUE(other.line.asserted());
  AhciDriver driver({.ahci = *other.ahci, .space = other.space, .loop = *f.loop, .guest = f.guest});
  other.ahci->Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(driver.Read(ahci::kPxCi), 1u << 3);
  EXPECT_EQ(driver.Read(ahci::kPxIs), ahci::kIsTfes | ahci::kIsDhrs);
  EXPECT_EQ(driver.Read(ahci::kPxCmd) >> ahci::kCmdCcsShift & 0x1f, 3u);
}

TEST(AhciTest, RefusesStatesThatAreNotItsOwn) {
  AhciFixture f;
  const EncodedState state = f.ahci().Save();
  AhciFixture two({.drives = 2});
  EXPECT_TRUE(absl::IsInvalidArgument(two.ahci().Restore(state)));
  EXPECT_FALSE(f.ahci().Restore(two.ahci().Save()).ok());
  EncodedState other = state;
  other.type = "pci-function";
  EXPECT_TRUE(absl::IsInvalidArgument(f.ahci().Restore(other)));
  other = state;
  other.version = 2;
  EXPECT_TRUE(absl::IsInvalidArgument(f.ahci().Restore(other)));
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(f.ahci().Restore(cut).ok()) << length;
  }
  EncodedState longer = state;
  longer.bytes.push_back(0);
  EXPECT_TRUE(absl::IsDataLoss(f.ahci().Restore(longer)));
}

// A register of the port, from the end of the state of a controller with one.
struct Damage {
  const char* name;
  size_t from_end;
  uint8_t value;
};
class AhciDamageTest : public testing::TestWithParam<Damage> {};

TEST_P(AhciDamageTest, IsRefused) {
  AhciFixture f;
  EncodedState state = f.ahci().Save();
  state.bytes.at(state.bytes.size() - GetParam().from_end) = GetParam().value;
  EXPECT_TRUE(absl::IsDataLoss(f.ahci().Restore(state)));
}
// The drive's part has 16 bytes, flags of the port 3, its registers 10 * 4, its addresses 2 * 8.
constexpr size_t kFlags = 16 + 3;
constexpr size_t kRegisters = kFlags + 40;
constexpr size_t kAddresses = kRegisters + 16;
INSTANTIATE_TEST_SUITE_P(States, AhciDamageTest,
                         testing::Values(Damage{"ListNotAligned", kAddresses, 1},
                                         Damage{"FisNotAligned", kAddresses - 8, 1},
                                         Damage{"Pcs", kRegisters, 0x40},
                                         Damage{"Enables", kRegisters - 6, 0x04},
                                         Damage{"CommandRegister", kRegisters - 8, 0x02},
                                         Damage{"CurrentSlot", kRegisters - 12, 32},
                                         Damage{"TaskFile", kRegisters - 18, 1},
                                         Damage{"SataControl", kRegisters - 26, 1},
                                         Damage{"SataError", kRegisters - 28, 1},
                                         Damage{"CommandsOfAStoppedEngine", kRegisters - 32, 1},
                                         Damage{"LastSlot", kRegisters - 36, 32},
                                         Damage{"Halted", kFlags, 2}, Damage{"TransferMode", 16, 0},
                                         Damage{"Event", 1, 2}),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- Media ----

TEST(AhciTest, MediaComeAndGoWhileItRuns) {
  AhciFixture f({.media = false});
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  EXPECT_EQ(f.driver().Send({mmc::kReadCapacity}).error, 0x20);
  ASSERT_TRUE(f.loop->RunTask(f.ahci().drive(0).Insert(AhciHost::MakeMedium(10))).ok());
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).error, 0x60);
  EXPECT_EQ(f.driver().Send({mmc::kReadCapacity}).data, (Bytes{0, 0, 0, 9, 0, 0, 8, 0}));
  EXPECT_EQ(f.driver().Send({mmc::kStartStopUnit, 0, 0, 0, 2}).error, 0);
  EXPECT_EQ(f.host.ejections, 1);
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).error, 0x20);
}

TEST(AhciTest, EndsNoProcessWhateverIsAccessed) {
  AhciFixture f({.drives = 2});
  f.driver(0).Start();
  f.driver(1).Start();
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    Bytes data(1 + random() % 8);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    const uint64_t offset = random() % 0x220;
    if (random() % 2 == 0) {
      f.ahci().Read(offset, data);
    } else {
      f.ahci().Write(offset, data);
    }
    if (i % 64 == 0) f.loop->RunUntilIdle();
  }
  Bytes last(8);
  f.ahci().Read(Ahci::kBarBytes - 8, last);
  EXPECT_THAT(last, Each(0));
}

}  // namespace
}  // namespace vireo
