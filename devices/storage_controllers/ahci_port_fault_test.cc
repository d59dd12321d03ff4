// Ports: commands that fail, what a hostile driver gets, and commands that the guest takes back.

#include <errno.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "devices/pci/config_space.h"
#include "devices/storage_controllers/ahci_fixture.h"
#include "devices/storage_controllers/ahci_port.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "devices/storage_controllers/ata_spec.h"
#include "devices/storage_controllers/mmc_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/ahci_driver.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

using ahci::D2hFis;
using testing::Each;
using testing::ElementsAre;
using Bytes = std::vector<uint8_t>;

constexpr uint8_t kGood = ata::kStatusReady | ata::kStatusSeekDone;
constexpr uint8_t kBad = kGood | ata::kStatusError;
constexpr uint32_t kFailed = ahci::kIsTfes | ahci::kIsDhrs;

// ---- Failures ----

TEST(AhciPortFaultTest, AFailedCommandStopsTheEngine) {
  ReadyAhciFixture f;
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

TEST(AhciPortFaultTest, AnAtaCommandThatAbortsIsAFailure) {
  ReadyAhciFixture f;
  const AhciDriver::Outcome outcome =
      f.driver().Run({.fis = AhciDriver::Fis(ata::kIdentifyDevice)});
  EXPECT_EQ(outcome.is, kFailed);
  EXPECT_EQ(outcome.status, kBad);
  EXPECT_EQ(outcome.error, ata::kErrorAbort);
  EXPECT_THAT(f.Received().lba, ElementsAre(1, 0x14, 0xeb));
}

TEST(AhciPortFaultTest, AMediumTheHostCannotReadIsTold) {
  ReadyAhciFixture f;
  f.host.media[0]->FailAfter(1, ErrnoStatus(EIO, "cd.iso"));
  AhciDriver::Outcome outcome = f.driver().Send({mmc::kRead10, 0, 0, 0, 0, 0, 0, 1, 0}, 256 * 2048);
  EXPECT_EQ(outcome.is, kFailed);
  EXPECT_EQ(outcome.error, 0x30);
  EXPECT_EQ(outcome.prdbc, 128 * 2048u);  // What could be read.
  const Bytes sense = f.driver().Send({mmc::kRequestSense, 0, 0, 0, 18}).data;
  EXPECT_THAT((Bytes{sense[2], sense[12], sense[13]}), ElementsAre(3, 0x11, 0));
  EXPECT_EQ(f.driver().Run(f.ReadCommand(0, 1)).status, kGood);
}

TEST(AhciPortFaultTest, DataThatDoesNotFitIsThrownAway) {
  ReadyAhciFixture f;
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
  std::function<void(ReadyAhciFixture&)> damage;
  uint32_t want_is;
};
class AhciFaultTest : public testing::TestWithParam<Fault> {};

TEST_P(AhciFaultTest, StopsThePortUntilItIsStartedAgain) {
  ReadyAhciFixture f;
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

void SetHeader(ReadyAhciFixture& f, std::function<void(ahci::CommandHeader&)> change) {
  auto header = f.guest.ReadObject<ahci::CommandHeader>(f.driver().header(0));
  change(header);
  f.guest.WriteObject(f.driver().header(0), header);
}
constexpr uint64_t kNoRam = FakeGuestMemory::kNoRam.value();
INSTANTIATE_TEST_SUITE_P(
    Damages, AhciFaultTest,
    testing::Values(
        Fault{"ListIsNotRam",
              [](ReadyAhciFixture& f) {
                f.driver().Write(ahci::kPxClb, static_cast<uint32_t>(kNoRam));
              },
              ahci::kIsHbfs},
        Fault{"ListIsAtTheEndOfAddresses",
              [](ReadyAhciFixture& f) {
                f.driver().Write(ahci::kPxClb, 0xffffffff);
                f.driver().Write(ahci::kPxClbu, 0xffffffff);
              },
              ahci::kIsHbfs},
        Fault{"TableIsNotRam",
              [](ReadyAhciFixture& f) {
                SetHeader(f, [](ahci::CommandHeader& header) { header.ctba = kNoRam; });
              },
              ahci::kIsHbfs},
        Fault{"TableIsAtTheEndOfAddresses",
              [](ReadyAhciFixture& f) {
                SetHeader(f, [](ahci::CommandHeader& header) { header.ctba = ~uint64_t{0}; });
              },
              ahci::kIsHbfs},
        Fault{"DescriptorsAreNotRam",
              [](ReadyAhciFixture& f) {
                const uint64_t last = FakeGuestMemory::kLowBytes - ahci::kTablePrdt;
                f.guest.Write(GuestAddress(last), f.guest.Read(f.driver().table(0), 0x80));
                SetHeader(f, [last](ahci::CommandHeader& header) { header.ctba = last; });
              },
              ahci::kIsHbfs},
        Fault{"FramesAreNotReceived",
              [](ReadyAhciFixture& f) {
                f.driver().Write(ahci::kPxFb, static_cast<uint32_t>(kNoRam));
              },
              ahci::kIsHbfs},
        Fault{"DataIsNotRam",
              [](ReadyAhciFixture& f) {
                AhciDriver::Command command = f.ReadCommand(0, 2);
                command.prds = {AhciDriver::Prd(f.driver().buffer(), 2),
                                AhciDriver::Prd(FakeGuestMemory::kNoRam, 4096)};
                f.driver().Prepare(command);
              },
              ahci::kIsHbfs},
        Fault{"FrameIsTooShort",
              [](ReadyAhciFixture& f) {
                SetHeader(f, [](ahci::CommandHeader& header) {
                  header.flags = static_cast<uint16_t>(header.flags & ~0x1f) | uint16_t{4};
                });
              },
              ahci::kIsIfs},
        Fault{"FrameIsOfAnotherKind",
              [](ReadyAhciFixture& f) { f.guest.WriteObject(f.driver().table(0), uint8_t{0x46}); },
              ahci::kIsIfs}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AhciPortFaultTest, AHugeTableIsWalkedToItsEnd) {
  ReadyAhciFixture f;
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
  std::function<void(ReadyAhciFixture&)> act;
};
class AhciAbandonTest : public testing::TestWithParam<Abandonment> {};

TEST_P(AhciAbandonTest, NothingReachesTheGuestWhenTheHostIsDone) {
  ReadyAhciFixture f;
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
        Abandonment{"StopOfTheEngine", [](ReadyAhciFixture& f) { f.driver().StopEngine(); }},
        Abandonment{"Comreset", [](ReadyAhciFixture& f) { f.driver().Comreset(); }},
        Abandonment{"ComresetAfterAStop",
                    [](ReadyAhciFixture& f) {
                      f.driver().StopEngine();
                      f.driver().Comreset();
                    }},
        Abandonment{"ResetOfTheController",
                    [](ReadyAhciFixture& f) { f.driver().WriteHba(ahci::kGhc, ahci::kGhcReset); }},
        Abandonment{
            "BusMasterOff",
            [](ReadyAhciFixture& f) { f.driver().WriteCommandRegister(pci::kCommandMemory); }}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AhciPortFaultTest, ANewCommandWaitsForTheHostToFinishTheOldOne) {
  ReadyAhciFixture f;
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

TEST(AhciPortFaultTest, ACommandWhoseDmaWasForbiddenBeginsAnew) {
  ReadyAhciFixture f;
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

}  // namespace
}  // namespace vireo
