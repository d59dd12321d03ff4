// Ports: the link and its resets, commands from their header to their frames, media.

#include "devices/storage_controllers/ahci_port.h"

#include <cstdint>
#include <string>
#include <vector>

#include "base/async/task_scope.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ahci_fixture.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/ata_spec.h"
#include "devices/storage_controllers/mmc_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/ahci_driver.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/memory_backend.h"

namespace vireo {
namespace {

using ahci::D2hFis;
using ahci::PioSetupFis;
using testing::Each;
using testing::ElementsAre;
using Bytes = std::vector<uint8_t>;

constexpr uint8_t kGood = ata::kStatusReady | ata::kStatusSeekDone;
constexpr uint8_t kBad = kGood | ata::kStatusError;

// ---- The link ----

TEST(AhciPortTest, ADriveIsThereFromTheStart) {
  AhciFixture f;
  f.driver().EnableFunction();
  EXPECT_EQ(f.driver().Read(ahci::kPxSsts), 0x123u);
  EXPECT_EQ(f.driver().Read(ahci::kPxSig), 0xeb140101u);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x0100u);
  EXPECT_EQ(f.driver().Read(ahci::kPxSerr), ahci::kSerrDiagX);
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), ahci::kIsPcs);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd), ahci::kCmdSud | ahci::kCmdPod);
  EXPECT_EQ(f.driver().Read(ahci::kPxSact), 0u);
}

TEST(AhciPortTest, TheSignatureComesWhenItCanBeReceived) {
  AhciFixture f;
  f.guest.Write(f.driver().fis_area(), Bytes(256, 0xee));
  f.driver().EnableFunction();
  f.driver().WriteCommandRegister(pci::kCommandMemory);
  f.driver().EnablePort();
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdFr, ahci::kCmdFr);
  EXPECT_THAT(f.guest.Read(f.driver().fis_area(), 256), Each(0xee));  // No DMA yet.
  f.driver().WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
  EXPECT_THAT(f.guest.Read(GuestAddress(f.driver().fis_area().value() + ahci::kFisD2h), 20),
              ElementsAre(0x34, 0, 0, 1, 1, 0x14, 0xeb, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), 0u);
  // Once.
  f.guest.Write(f.driver().fis_area(), Bytes(256, 0xee));
  f.driver().Write(ahci::kPxCmd, 0);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdFr, 0u);
  f.driver().Write(ahci::kPxCmd, ahci::kCmdFre);
  EXPECT_THAT(f.guest.Read(f.driver().fis_area(), 256), Each(0xee));
}

TEST(AhciPortTest, ASignatureThatHasNoPlaceIsAFault) {
  AhciFixture f;
  f.driver().EnableFunction();
  f.driver().Write(ahci::kPxFb, static_cast<uint32_t>(FakeGuestMemory::kNoRam.value()));
  f.driver().Write(ahci::kPxCmd, ahci::kCmdFre);
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), ahci::kIsHbfs | ahci::kIsPcs);
}

TEST(AhciPortTest, AComresetBringsTheDriveBack) {
  ReadyAhciFixture f;
  f.driver().Send({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  f.driver().StopEngine();
  f.ClearFisArea();
  f.driver().Write(ahci::kPxSctl, 0x301);
  EXPECT_EQ(f.driver().Read(ahci::kPxSsts), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x7fu);
  EXPECT_EQ(f.driver().Read(ahci::kPxSig), 0xffffffffu);
  EXPECT_FALSE(f.host.line.asserted());
  f.driver().Write(ahci::kPxSctl, 0x300);
  EXPECT_EQ(f.driver().Read(ahci::kPxSsts), 0x123u);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x100u);
  EXPECT_EQ(f.driver().Read(ahci::kPxSig), 0xeb140101u);
  EXPECT_EQ(f.driver().Read(ahci::kPxSerr), ahci::kSerrDiagX);
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), ahci::kIsPcs);
  EXPECT_EQ(f.driver().Read(ahci::kPxSctl), 0x300u);
  EXPECT_TRUE(f.host.line.asserted());
  EXPECT_EQ(f.Received().type, ahci::kFisTypeD2h);
  EXPECT_EQ(f.Received().error, 1);
  f.driver().Write(ahci::kPxSerr, 0xffffffff);
  EXPECT_FALSE(f.host.line.asserted());
  f.loop->RunUntilIdle();
  EXPECT_FALSE(f.ahci().drive(0).facts().locked);
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).error, 0x60);
}

TEST(AhciPortTest, AnInterfaceThatIsOffServesNothing) {
  ReadyAhciFixture f;
  f.driver().Write(ahci::kPxSctl, ahci::kSctlDetOffline);
  EXPECT_EQ(f.driver().Read(ahci::kPxSsts), 4u);
  f.driver().StopEngine();
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kTestUnitReady})).ci, 1u);
  f.driver().StopEngine();
  f.driver().Write(ahci::kPxSctl, 0);
  EXPECT_EQ(f.driver().Read(ahci::kPxSsts), 0x123u);
}

TEST(AhciPortTest, AComresetUnderARunningEngineStopsIt) {
  ReadyAhciFixture f;
  f.driver().Comreset();
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kTestUnitReady})).ci, 1u);
  f.driver().StopEngine();
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).ci, 0x1u);  // The unit attention.
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).ci, 0u);
}

TEST(AhciPortTest, ASoftwareResetEndsInTheSignature) {
  ReadyAhciFixture f;
  f.driver().Send({0xff});
  f.ClearFisArea();
  f.driver().Prepare({.slot = 0,
                      .fis = AhciDriver::ControlFis(ahci::kControlSrst),
                      .flags = ahci::kHeaderClearBusy});
  f.driver().Prepare({.slot = 1, .fis = AhciDriver::ControlFis(0)});
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & ata::kStatusBusy, 0u);
  EXPECT_THAT(f.guest.Read(f.driver().fis_area(), 256), Each(0xee));
  f.driver().Issue(2);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x100u);
  EXPECT_EQ(f.Received().type, ahci::kFisTypeD2h);
  EXPECT_EQ(f.Received().flags, 0);
  EXPECT_THAT(f.Received().lba, ElementsAre(1, 0x14, 0xeb));
  // The drive has forgotten the error, and has nothing new to tell.
  EXPECT_EQ(f.driver().Send({mmc::kRequestSense, 0, 0, 0, 18}).data[2], 0);
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).status, kGood);
}

TEST(AhciPortTest, ADriveThatIsHeldInResetAnswersNothing) {
  ReadyAhciFixture f;
  const auto srst = AhciDriver::Command{.fis = AhciDriver::ControlFis(ahci::kControlSrst)};
  EXPECT_EQ(f.driver().Run(srst).status & ata::kStatusBusy, ata::kStatusBusy);
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kTestUnitReady}, 0, 5)).ci, 1u << 5);
  f.driver().StopEngine();
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Run({.fis = AhciDriver::ControlFis(0)}).status, 0);
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).ci, 0u);
}

TEST(AhciPortTest, CloClearsWhatABusyDriveLeft) {
  ReadyAhciFixture f;
  f.driver().Run({.fis = AhciDriver::ControlFis(ahci::kControlSrst)});
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & 0x80, 0x80u);
  f.driver().Write(ahci::kPxCmd, f.driver().Read(ahci::kPxCmd) | ahci::kCmdClo);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & 0x80, 0x80u);  // Not while the engine runs.
  f.driver().StopEngine();
  f.driver().Write(ahci::kPxCmd, f.driver().Read(ahci::kPxCmd) | ahci::kCmdClo);
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & 0x80, 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdClo, 0u);
}

// ---- Commands ----

TEST(AhciPortTest, IdentifyComesByPio) {
  ReadyAhciFixture f;
  f.ClearFisArea();
  const AhciDriver::Outcome outcome =
      f.driver().Run({.fis = AhciDriver::Fis(ata::kIdentifyPacketDevice),
                      .prds = {AhciDriver::Prd(f.driver().buffer(), 512)}});
  EXPECT_EQ(outcome.is, ahci::kIsPss);
  EXPECT_EQ(outcome.ci, 0u);
  EXPECT_EQ(outcome.status, kGood);
  ASSERT_EQ(outcome.prdbc, 512u);
  EXPECT_EQ(outcome.data[1], 0x85);
  EXPECT_EQ(outcome.data[0], 0xc0);
  const auto setup = f.driver().ReceivedFis<PioSetupFis>(ahci::kFisPioSetup);
  EXPECT_EQ(setup.type, 0x5f);
  EXPECT_EQ(setup.flags, ahci::kFisInterrupt | ahci::kFisToHost);
  EXPECT_EQ(setup.status, kGood | ata::kStatusDrq);
  EXPECT_EQ(setup.end_status, kGood);
  EXPECT_EQ(setup.transfer_count, 512);
  EXPECT_EQ(f.Received().type, 0xee);  // No registers.
  EXPECT_EQ(f.host.line.TakeEdges(), 1);
}

TEST(AhciPortTest, APacketEndsWithTheRegisters) {
  ReadyAhciFixture f;
  f.ClearFisArea();
  const AhciDriver::Outcome outcome = f.driver().Send({mmc::kInquiry, 0, 0, 0, 36}, 36);
  EXPECT_EQ(outcome.is, ahci::kIsDhrs);
  EXPECT_EQ(outcome.status, kGood);
  EXPECT_EQ(outcome.prdbc, 36u);
  EXPECT_EQ(std::string(outcome.data.begin() + 8, outcome.data.begin() + 22), "VIREO   CD-ROM");
  EXPECT_EQ(f.Received().flags, ahci::kFisInterrupt);
  EXPECT_EQ(f.Received().status, kGood);
  EXPECT_EQ(f.Received().count, 3);
  EXPECT_EQ(f.driver().ReceivedFis<PioSetupFis>(ahci::kFisPioSetup).type, 0xee);
}

TEST(AhciPortTest, APacketByPioHasItsSetupToo) {
  ReadyAhciFixture f;
  AhciDriver::Command command = f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36);
  command.fis.features = 0;
  const AhciDriver::Outcome outcome = f.driver().Run(command);
  EXPECT_EQ(outcome.is, ahci::kIsDhrs | ahci::kIsPss);
  EXPECT_EQ(outcome.prdbc, 36u);
  const auto setup = f.driver().ReceivedFis<PioSetupFis>(ahci::kFisPioSetup);
  EXPECT_EQ(setup.transfer_count, 36);
  EXPECT_EQ(setup.count, ata::kReasonToHost);
  EXPECT_THAT(setup.lba, ElementsAre(0, 36, 0));
  EXPECT_EQ(f.Received().count, 3);
}

TEST(AhciPortTest, AReadIsScatteredOverTheTable) {
  ReadyAhciFixture f;
  AhciDriver::Command command = f.ReadCommand(7, 3);
  const uint64_t buffer = f.driver().buffer().value();
  command.prds = {AhciDriver::Prd(GuestAddress(buffer + 0x4000), 2),
                  AhciDriver::Prd(GuestAddress(FakeGuestMemory::kHighBase + 4094), 4096),
                  AhciDriver::Prd(GuestAddress(buffer), 2046)};
  ASSERT_TRUE(f.guest.memory().dirty_log().Start().ok());
  EXPECT_EQ(f.driver().Run(command).prdbc, 6144u);
  EXPECT_NE(f.guest.memory().dirty_log().FetchAndClear(1).at(0) & 0x7, 0u);
  const uint64_t start = 7 * 2048;
  EXPECT_THAT(f.guest.Read(GuestAddress(buffer + 0x4000), 3),
              ElementsAre(AhciHost::ByteAt(start), AhciHost::ByteAt(start + 1), 0));
  const Bytes middle = f.guest.Read(GuestAddress(FakeGuestMemory::kHighBase + 4094), 4096);
  for (size_t i = 0; i < middle.size(); ++i) {
    ASSERT_EQ(middle[i], AhciHost::ByteAt(start + 2 + i)) << i;
  }
  const Bytes end = f.guest.Read(GuestAddress(buffer), 2047);
  EXPECT_EQ(end[0], AhciHost::ByteAt(start + 4098));
  EXPECT_EQ(end[2045], AhciHost::ByteAt(start + 6143));
  EXPECT_EQ(end[2046], 0);
}

TEST(AhciPortTest, ALongReadTakesSeveralOfTheMedium) {
  ReadyAhciFixture f;
  const AhciDriver::Outcome outcome =
      f.driver().Send({mmc::kRead12, 0, 0, 0, 0, 1, 0, 0, 1, 0x2c}, 300 * 2048);
  EXPECT_EQ(outcome.prdbc, 300 * 2048u);
  EXPECT_EQ(f.host.memory_of(0).requests(), 3u);
  for (size_t i = 0; i < outcome.data.size(); ++i) {
    ASSERT_EQ(outcome.data[i], AhciHost::ByteAt(2048 + i)) << i;
  }
}

TEST(AhciPortTest, SlotsTakeTurns) {
  ReadyAhciFixture f;
  f.driver().Prepare(f.driver().PacketCommand({mmc::kTestUnitReady}, 0, 5));
  f.driver().Issue(1 << 5);
  f.loop->RunUntilIdle();
  // After 5 comes 7, which locks the tray, then 2, which sees it locked.
  f.driver().Prepare(f.driver().PacketCommand({mmc::kPreventAllowRemoval, 0, 0, 0, 1}, 0, 7));
  f.driver().Prepare(
      f.driver().PacketCommand({mmc::kModeSense10, 0, 0x2a, 0, 0, 0, 0, 0, 28}, 28, 2));
  f.driver().Issue(1 << 2 | 1 << 7);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 28)[14] & 0x02, 0x02);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) >> ahci::kCmdCcsShift & 0x1f, 2u);
}

TEST(AhciPortTest, EverySlotServes) {
  ReadyAhciFixture f;
  for (uint32_t slot = 0; slot < ahci::kSlots; ++slot) {
    f.driver().Prepare(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36, slot));
  }
  f.driver().Issue(0xffffffff);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  for (uint32_t slot = 0; slot < ahci::kSlots; ++slot) {
    EXPECT_EQ(f.guest.ReadObject<ahci::CommandHeader>(f.driver().header(slot)).prdbc, 36u);
  }
}

TEST(AhciPortTest, HoweverOftenItIsIssuedACommandRunsOnce) {
  ReadyAhciFixture f;
  f.driver().Prepare(f.ReadCommand(3, 1));
  for (int i = 0; i < 1000; ++i) f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.host.memory_of(0).requests(), 1u);
}

TEST(AhciPortTest, CommandsAreNotTakenByAnEngineThatStands) {
  ReadyAhciFixture f;
  f.driver().StopEngine();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kTestUnitReady}));
  f.driver().Issue(1);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, 0u);
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, ahci::kCmdCr);
}

TEST(AhciPortTest, NothingIsFetchedWithoutTheBusMasterBit) {
  ReadyAhciFixture f;
  f.driver().WriteCommandRegister(pci::kCommandMemory);
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36)).ci, 1u);
  f.driver().WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], 5);
}

TEST(AhciPortTest, FramesThatAreNotWantedAreNotSent) {
  ReadyAhciFixture f;
  f.ClearFisArea();
  f.driver().Write(ahci::kPxCmd, ahci::kCmdSt);
  EXPECT_EQ(f.driver().Send({mmc::kInquiry, 0, 0, 0, 36}, 36).prdbc, 36u);
  EXPECT_THAT(f.guest.Read(f.driver().fis_area(), 256), Each(0xee));
}

TEST(AhciPortTest, ADescriptorMayAskForAnInterrupt) {
  ReadyAhciFixture f;
  AhciDriver::Command command = f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36});
  command.prds = {AhciDriver::Prd(f.driver().buffer(), 36, ahci::kPrdInterrupt)};
  EXPECT_EQ(f.driver().Run(command).is, ahci::kIsDhrs | ahci::kIsDps);
}

// ---- Media ----

Task<void> EjectByForce(AtapiCdrom& drive, bool* done) {
  const absl::StatusOr<std::unique_ptr<BlockBackend>> medium =
      co_await drive.Eject(AtapiCdrom::EjectMode::kForce);
  *done = medium.ok();
}

TEST(AhciPortTest, AMediumStaysForTheCommandThatReadsIt) {
  ReadyAhciFixture f;
  MemoryBackend& memory = f.host.memory_of(0);
  memory.Hold();
  f.driver().Prepare(f.ReadCommand(3, 1, 0));
  f.driver().Prepare(f.ReadCommand(4, 1, 1));
  f.driver().Issue(3);
  f.loop->RunUntilIdle();
  TaskScope scope(*f.loop);
  bool ejected = false;
  scope.Spawn(EjectByForce(f.ahci().drive(0), &ejected));
  f.loop->RunUntilIdle();
  EXPECT_FALSE(ejected);
  memory.Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(ejected);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 2u);  // The second one found nothing.
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x2000u | kBad);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], AhciHost::ByteAt(3 * 2048));
}

}  // namespace
}  // namespace vireo
