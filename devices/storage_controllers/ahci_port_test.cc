// Ports: the link and its resets, commands from their header to their frames, what a hostile driver
// gets, and commands that the guest takes back.

#include "devices/storage_controllers/ahci_port.h"

#include <errno.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/async/task_scope.h"
#include "base/endian.h"
#include "base/status.h"
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
constexpr uint32_t kFailed = ahci::kIsTfes | ahci::kIsDhrs;

// A drive that has told of the power-on.
struct ReadyFixture : AhciFixture {
  explicit ReadyFixture(AhciHost::Options options = {}) : AhciFixture(options) {
    driver().Start();
    driver().Send({mmc::kTestUnitReady});
    host.line.TakeEdges();
  }

  AhciDriver::Command ReadCommand(uint8_t first, uint8_t count, uint32_t slot = 0) {
    return driver().PacketCommand({mmc::kRead10, 0, 0, 0, 0, first, 0, 0, count}, count * 2048u,
                                  slot);
  }
  D2hFis Received() { return driver().ReceivedFis<D2hFis>(ahci::kFisD2h); }
  void ClearFisArea() { guest.Write(driver().fis_area(), Bytes(256, 0xee)); }
};

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
  ReadyFixture f;
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
  ReadyFixture f;
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
  ReadyFixture f;
  f.driver().Comreset();
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kTestUnitReady})).ci, 1u);
  f.driver().StopEngine();
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).ci, 0x1u);  // The unit attention.
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).ci, 0u);
}

TEST(AhciPortTest, ASoftwareResetEndsInTheSignature) {
  ReadyFixture f;
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
  ReadyFixture f;
  const auto srst = AhciDriver::Command{.fis = AhciDriver::ControlFis(ahci::kControlSrst)};
  EXPECT_EQ(f.driver().Run(srst).status & ata::kStatusBusy, ata::kStatusBusy);
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kTestUnitReady}, 0, 5)).ci, 1u << 5);
  f.driver().StopEngine();
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Run({.fis = AhciDriver::ControlFis(0)}).status, 0);
  EXPECT_EQ(f.driver().Send({mmc::kTestUnitReady}).ci, 0u);
}

TEST(AhciPortTest, CloClearsWhatABusyDriveLeft) {
  ReadyFixture f;
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
  ReadyFixture f;
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
  ReadyFixture f;
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
  ReadyFixture f;
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
  ReadyFixture f;
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
  ReadyFixture f;
  const AhciDriver::Outcome outcome =
      f.driver().Send({mmc::kRead12, 0, 0, 0, 0, 1, 0, 0, 1, 0x2c}, 300 * 2048);
  EXPECT_EQ(outcome.prdbc, 300 * 2048u);
  EXPECT_EQ(f.host.memory_of(0).requests(), 3u);
  for (size_t i = 0; i < outcome.data.size(); ++i) {
    ASSERT_EQ(outcome.data[i], AhciHost::ByteAt(2048 + i)) << i;
  }
}

TEST(AhciPortTest, SlotsTakeTurns) {
  ReadyFixture f;
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
  ReadyFixture f;
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
  ReadyFixture f;
  f.driver().Prepare(f.ReadCommand(3, 1));
  for (int i = 0; i < 1000; ++i) f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.host.memory_of(0).requests(), 1u);
}

TEST(AhciPortTest, CommandsAreNotTakenByAnEngineThatStands) {
  ReadyFixture f;
  f.driver().StopEngine();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kTestUnitReady}));
  f.driver().Issue(1);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, 0u);
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, ahci::kCmdCr);
}

TEST(AhciPortTest, NothingIsFetchedWithoutTheBusMasterBit) {
  ReadyFixture f;
  f.driver().WriteCommandRegister(pci::kCommandMemory);
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36)).ci, 1u);
  f.driver().WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], 5);
}

TEST(AhciPortTest, FramesThatAreNotWantedAreNotSent) {
  ReadyFixture f;
  f.ClearFisArea();
  f.driver().Write(ahci::kPxCmd, ahci::kCmdSt);
  EXPECT_EQ(f.driver().Send({mmc::kInquiry, 0, 0, 0, 36}, 36).prdbc, 36u);
  EXPECT_THAT(f.guest.Read(f.driver().fis_area(), 256), Each(0xee));
}

TEST(AhciPortTest, ADescriptorMayAskForAnInterrupt) {
  ReadyFixture f;
  AhciDriver::Command command = f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36});
  command.prds = {AhciDriver::Prd(f.driver().buffer(), 36, ahci::kPrdInterrupt)};
  EXPECT_EQ(f.driver().Run(command).is, ahci::kIsDhrs | ahci::kIsDps);
}

// ---- Failures ----

TEST(AhciPortTest, AFailedCommandStopsTheEngine) {
  ReadyFixture f;
  f.driver().Prepare(f.driver().PacketCommand({0xff}, 0, 3));
  f.driver().Prepare(f.driver().PacketCommand({mmc::kTestUnitReady}, 0, 4));
  f.driver().Issue(1 << 3 | 1 << 4);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), kFailed);
  EXPECT_TRUE(f.host.line.asserted());
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd), 0x5400u | kBad);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 1u << 3 | 1u << 4);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) >> ahci::kCmdCcsShift & 0x1f, 3u);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, ahci::kCmdCr);
  EXPECT_EQ(f.Received().status, kBad);
  EXPECT_EQ(f.Received().error, 0x54);
  f.driver().Issue(1 << 4);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 1u << 3 | 1u << 4);
  f.driver().StopEngine();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, 0u);
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Send({mmc::kRequestSense, 0, 0, 0, 18}).data[12], 0x20);
}

TEST(AhciPortTest, AnAtaCommandThatAbortsIsAFailure) {
  ReadyFixture f;
  const AhciDriver::Outcome outcome =
      f.driver().Run({.fis = AhciDriver::Fis(ata::kIdentifyDevice)});
  EXPECT_EQ(outcome.is, kFailed);
  EXPECT_EQ(outcome.status, kBad);
  EXPECT_EQ(outcome.error, ata::kErrorAbort);
  EXPECT_THAT(f.Received().lba, ElementsAre(1, 0x14, 0xeb));
}

TEST(AhciPortTest, AMediumTheHostCannotReadIsTold) {
  ReadyFixture f;
  f.host.media[0]->FailAfter(1, ErrnoStatus(EIO, "cd.iso"));
  AhciDriver::Outcome outcome = f.driver().Send({mmc::kRead10, 0, 0, 0, 0, 0, 0, 1, 0}, 256 * 2048);
  EXPECT_EQ(outcome.is, kFailed);
  EXPECT_EQ(outcome.error, 0x30);
  EXPECT_EQ(outcome.prdbc, 128 * 2048u);  // What could be read.
  const Bytes sense = f.driver().Send({mmc::kRequestSense, 0, 0, 0, 18}).data;
  EXPECT_THAT((Bytes{sense[2], sense[12], sense[13]}), ElementsAre(3, 0x11, 0));
  EXPECT_EQ(f.driver().Run(f.ReadCommand(0, 1)).status, kGood);
}

TEST(AhciPortTest, DataThatDoesNotFitIsThrownAway) {
  ReadyFixture f;
  AhciDriver::Command command = f.ReadCommand(0, 200);
  command.prds = {AhciDriver::Prd(f.driver().buffer(), 4096)};
  const AhciDriver::Outcome outcome = f.driver().Run(command);
  EXPECT_EQ(outcome.is, ahci::kIsDhrs | ahci::kIsOfs);
  EXPECT_EQ(outcome.ci, 0u);
  EXPECT_EQ(outcome.status, kGood);
  EXPECT_EQ(outcome.prdbc, 4096u);
  EXPECT_THAT(f.guest.Read(GuestAddress(f.driver().buffer().value() + 4096), 2048), Each(0));
  EXPECT_EQ(f.host.memory_of(0).requests(), 1u);  // Nor is it read.
  EXPECT_EQ(f.driver().Run(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36})).is,
            ahci::kIsDhrs | ahci::kIsOfs);
}

struct Fault {
  const char* name;
  // Breaks slot 0, which holds a read of two blocks.
  std::function<void(ReadyFixture&)> damage;
  uint32_t want_is;
};
class AhciFaultTest : public testing::TestWithParam<Fault> {};

TEST_P(AhciFaultTest, StopsThePortUntilItIsStartedAgain) {
  ReadyFixture f;
  f.driver().Prepare(f.ReadCommand(0, 2));
  GetParam().damage(f);
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), GetParam().want_is);
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 1u);
  EXPECT_TRUE(f.host.line.asserted());
  f.driver().Issue(2);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 3u);
  f.driver().StopEngine();
  f.driver().EnablePort();
  f.driver().StartEngine();
  EXPECT_EQ(f.driver().Run(f.ReadCommand(0, 2)).status, kGood);
}

void SetHeader(ReadyFixture& f, std::function<void(ahci::CommandHeader&)> change) {
  auto header = f.guest.ReadObject<ahci::CommandHeader>(f.driver().header(0));
  change(header);
  f.guest.WriteObject(f.driver().header(0), header);
}
constexpr uint64_t kNoRam = FakeGuestMemory::kNoRam.value();
INSTANTIATE_TEST_SUITE_P(
    Damages, AhciFaultTest,
    testing::Values(
        Fault{
            "ListIsNotRam",
            [](ReadyFixture& f) { f.driver().Write(ahci::kPxClb, static_cast<uint32_t>(kNoRam)); },
            ahci::kIsHbfs},
        Fault{"ListIsAtTheEndOfAddresses",
              [](ReadyFixture& f) {
                f.driver().Write(ahci::kPxClb, 0xffffffff);
                f.driver().Write(ahci::kPxClbu, 0xffffffff);
              },
              ahci::kIsHbfs},
        Fault{"TableIsNotRam",
              [](ReadyFixture& f) {
                SetHeader(f, [](ahci::CommandHeader& header) { header.ctba = kNoRam; });
              },
              ahci::kIsHbfs},
        Fault{"TableIsAtTheEndOfAddresses",
              [](ReadyFixture& f) {
                SetHeader(f, [](ahci::CommandHeader& header) { header.ctba = ~uint64_t{0}; });
              },
              ahci::kIsHbfs},
        Fault{"DescriptorsAreNotRam",
              [](ReadyFixture& f) {
                const uint64_t last = FakeGuestMemory::kLowBytes - ahci::kTablePrdt;
                f.guest.Write(GuestAddress(last), f.guest.Read(f.driver().table(0), 0x80));
                SetHeader(f, [last](ahci::CommandHeader& header) { header.ctba = last; });
              },
              ahci::kIsHbfs},
        Fault{"FramesAreNotReceived",
              [](ReadyFixture& f) { f.driver().Write(ahci::kPxFb, static_cast<uint32_t>(kNoRam)); },
              ahci::kIsHbfs},
        Fault{"DataIsNotRam",
              [](ReadyFixture& f) {
                AhciDriver::Command command = f.ReadCommand(0, 2);
                command.prds = {AhciDriver::Prd(f.driver().buffer(), 2),
                                AhciDriver::Prd(FakeGuestMemory::kNoRam, 4096)};
                f.driver().Prepare(command);
              },
              ahci::kIsHbfs},
        Fault{"FrameIsTooShort",
              [](ReadyFixture& f) {
                SetHeader(f, [](ahci::CommandHeader& header) {
                  header.flags = static_cast<uint16_t>(header.flags & ~0x1f) | uint16_t{4};
                });
              },
              ahci::kIsIfs},
        Fault{"FrameIsOfAnotherKind",
              [](ReadyFixture& f) { f.guest.WriteObject(f.driver().table(0), uint8_t{0x46}); },
              ahci::kIsIfs}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AhciPortTest, AHugeTableIsWalkedToItsEnd) {
  ReadyFixture f;
  f.driver().Prepare(f.ReadCommand(0, 100));
  // The same two bytes, as often as a table can say so.
  const uint64_t table = f.guest.Allocate(ahci::kTablePrdt + 0xffff * 16, 128).value();
  f.guest.Write(GuestAddress(table), f.guest.Read(f.driver().table(0), ahci::kTablePrdt));
  for (uint64_t i = 0; i < 0xffff; ++i) {
    f.guest.WriteObject(GuestAddress(table + ahci::kTablePrdt + 16 * i),
                        AhciDriver::Prd(f.driver().buffer(), 2));
  }
  SetHeader(f, [table](ahci::CommandHeader& header) {
    header.ctba = table;
    header.prdtl = uint16_t{0xffff};
  });
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), ahci::kIsDhrs | ahci::kIsOfs);
  EXPECT_EQ(f.guest.ReadObject<ahci::CommandHeader>(f.driver().header(0)).prdbc, 2u * 0xffff);
  EXPECT_THAT(f.guest.Read(f.driver().buffer(), 3),
              ElementsAre(AhciHost::ByteAt(131068), AhciHost::ByteAt(131069), 0));
}

// ---- Commands that the guest takes back ----

struct Abandonment {
  const char* name;
  std::function<void(ReadyFixture&)> act;
};
class AhciAbandonTest : public testing::TestWithParam<Abandonment> {};

TEST_P(AhciAbandonTest, NothingReachesTheGuestWhenTheHostIsDone) {
  ReadyFixture f;
  f.host.memory_of(0).Hold();
  f.driver().Prepare(f.ReadCommand(3, 2));
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & ata::kStatusBusy, ata::kStatusBusy);
  GetParam().act(f);
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, ahci::kCmdCr);
  const uint32_t is = f.driver().Read(ahci::kPxIs);
  const bool asserted = f.host.line.asserted();
  const auto header = f.guest.Read(f.driver().header(0), 32);
  f.ClearFisArea();
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.guest.Read(f.driver().buffer(), 4096), Each(0));
  EXPECT_THAT(f.guest.Read(f.driver().fis_area(), 256), Each(0xee));
  EXPECT_EQ(f.guest.Read(f.driver().header(0), 32), header);
  EXPECT_EQ(f.driver().Read(ahci::kPxIs), is);
  EXPECT_EQ(f.host.line.asserted(), asserted);
  // And the drive is good for the next one.
  f.driver().StopEngine();
  EXPECT_EQ(f.driver().Read(ahci::kPxCmd) & ahci::kCmdCr, 0u);
  f.driver().Start();
  f.driver().Send({mmc::kTestUnitReady});
  EXPECT_EQ(f.driver().Run(f.ReadCommand(3, 2)).status, kGood);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], AhciHost::ByteAt(3 * 2048));
}
INSTANTIATE_TEST_SUITE_P(
    Ways, AhciAbandonTest,
    testing::Values(
        Abandonment{"StopOfTheEngine", [](ReadyFixture& f) { f.driver().StopEngine(); }},
        Abandonment{"Comreset", [](ReadyFixture& f) { f.driver().Comreset(); }},
        Abandonment{"ComresetAfterAStop",
                    [](ReadyFixture& f) {
                      f.driver().StopEngine();
                      f.driver().Comreset();
                    }},
        Abandonment{"ResetOfTheController",
                    [](ReadyFixture& f) { f.driver().WriteHba(ahci::kGhc, ahci::kGhcReset); }},
        Abandonment{"BusMasterOff",
                    [](ReadyFixture& f) { f.driver().WriteCommandRegister(pci::kCommandMemory); }}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AhciPortTest, ANewCommandWaitsForTheHostToFinishTheOldOne) {
  ReadyFixture f;
  f.host.memory_of(0).Hold();
  f.driver().Prepare(f.ReadCommand(3, 1));
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  f.driver().StopEngine();
  EXPECT_EQ(f.driver().Read(ahci::kPxTfd) & ata::kStatusBusy, 0u);
  f.driver().StartEngine();
  f.driver().Prepare(f.driver().PacketCommand({mmc::kInquiry, 0, 0, 0, 36}, 36));
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 1u);
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_THAT(f.guest.Read(f.driver().buffer(), 2), ElementsAre(5, 0x80));
}

TEST(AhciPortTest, ACommandWhoseDmaWasForbiddenBeginsAnew) {
  ReadyFixture f;
  f.host.memory_of(0).Hold();
  f.driver().Prepare(f.ReadCommand(3, 1));
  f.driver().Issue(1);
  f.loop->RunUntilIdle();
  f.driver().WriteCommandRegister(pci::kCommandMemory);
  f.driver().WriteCommandRegister(pci::kCommandMemory | pci::kCommandBusMaster);
  f.host.memory_of(0).Release();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver().Read(ahci::kPxCi), 0u);
  EXPECT_EQ(f.host.memory_of(0).requests(), 2u);
  EXPECT_EQ(f.guest.Read(f.driver().buffer(), 1)[0], AhciHost::ByteAt(3 * 2048));
}

// ---- Media ----

Task<void> EjectByForce(AtapiCdrom& drive, bool* done) {
  const absl::StatusOr<std::unique_ptr<BlockBackend>> medium =
      co_await drive.Eject(AtapiCdrom::EjectMode::kForce);
  *done = medium.ok();
}

TEST(AhciPortTest, AMediumStaysForTheCommandThatReadsIt) {
  ReadyFixture f;
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
