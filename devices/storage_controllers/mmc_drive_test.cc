#include "devices/storage_controllers/mmc_drive.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/state.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo::mmc {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint32_t kCdBlocks = 1000;
constexpr uint32_t kDvdBlocks = 2'000'000;
constexpr Sense kWell = {};

Packet MakePacket(std::initializer_list<uint8_t> bytes) {
  Packet packet = {};
  std::copy(bytes.begin(), bytes.end(), packet.begin());
  return packet;
}

// Kinds of answers, as tests ask for them.
Sense SenseOf(const Answer& answer) {
  const auto* failed = std::get_if<CheckCondition>(&answer);
  return failed == nullptr ? kWell : failed->sense;
}

Bytes BytesOf(const Answer& answer) {
  const auto* reply = std::get_if<Reply>(&answer);
  return reply == nullptr ? Bytes{} : reply->bytes;
}

std::pair<uint32_t, uint32_t> BlocksOf(const Answer& answer) {
  const auto* blocks = std::get_if<ReadBlocks>(&answer);
  return blocks == nullptr ? std::pair<uint32_t, uint32_t>()
                           : std::pair(blocks->first, blocks->count);
}

bool IsDone(const Answer& answer) { return std::holds_alternative<Done>(answer); }

std::string TextOf(const Bytes& bytes, size_t at, size_t length) {
  return std::string(bytes.begin() + at, bytes.begin() + at + length);
}

constexpr std::initializer_list<uint8_t> kTestReady = {kTestUnitReady};
constexpr std::initializer_list<uint8_t> kEject = {kStartStopUnit, 0, 0, 0, 0x02};
constexpr std::initializer_list<uint8_t> kLoad = {kStartStopUnit, 0, 0, 0, 0x03};
constexpr std::initializer_list<uint8_t> kLock = {kPreventAllowRemoval, 0, 0, 0, 1};
constexpr std::initializer_list<uint8_t> kUnlock = {kPreventAllowRemoval, 0, 0, 0, 0};
constexpr std::initializer_list<uint8_t> kGetMediaEvent = {
    kGetEventStatus, 1, 0, 0, 1 << kEventClassMedia, 0, 0, 0, 8};

// A drive whose guest has heard of the power-on.
class Drive {
 public:
  explicit Drive(std::optional<uint32_t> blocks = kCdBlocks) : drive({.serial = "QM00007"}) {
    if (blocks.has_value()) drive.StartWithMedium(*blocks);
    Send(kTestReady);
  }

  Answer Send(std::initializer_list<uint8_t> packet) { return drive.Execute(MakePacket(packet)); }
  Sense Fails(std::initializer_list<uint8_t> packet) { return SenseOf(Send(packet)); }
  Bytes Asks(std::initializer_list<uint8_t> packet) { return BytesOf(Send(packet)); }

  // Key, code and qualifier that REQUEST SENSE tells.
  Sense TellsSense() {
    const Bytes bytes = Asks({kRequestSense, 0, 0, 0, 18});
    EXPECT_EQ(bytes.size(), 18u);
    EXPECT_EQ(bytes[0], 0x70);
    EXPECT_EQ(bytes[7], 10);
    return {bytes[2], bytes[12], bytes[13]};
  }
  // The event, and the status of medium and tray.
  std::pair<int, int> TellsEvent() {
    const Bytes bytes = Asks(kGetMediaEvent);
    EXPECT_EQ(bytes.size(), 8u);
    return {bytes[4], bytes[5]};
  }

  MmcDrive drive;
};

// ---- Readiness, sense and unit attentions ----

TEST(MmcDriveTest, TellsOfThePowerOnOnce) {
  MmcDrive drive({});
  drive.StartWithMedium(kCdBlocks);
  EXPECT_EQ(SenseOf(drive.Execute(MakePacket(kTestReady))), kPowerOnOrReset);
  EXPECT_TRUE(IsDone(drive.Execute(MakePacket(kTestReady))));
}

TEST(MmcDriveTest, RequestSenseTellsWhatFailedOnce) {
  Drive f(std::nullopt);
  EXPECT_EQ(f.Fails(kTestReady), kNoMediumTrayClosed);
  EXPECT_EQ(f.TellsSense(), kNoMediumTrayClosed);
  EXPECT_EQ(f.TellsSense(), kWell);
}

TEST(MmcDriveTest, TheNextCommandForgetsTheSense) {
  Drive f;
  EXPECT_EQ(f.Fails({0xff}), kInvalidOpcode);
  EXPECT_TRUE(IsDone(f.Send(kTestReady)));
  EXPECT_EQ(f.TellsSense(), kWell);
}

TEST(MmcDriveTest, RequestSenseTakesAUnitAttention) {
  Drive f;
  f.drive.PowerOn();
  EXPECT_EQ(f.TellsSense(), kPowerOnOrReset);
  EXPECT_TRUE(IsDone(f.Send(kTestReady)));
}

TEST(MmcDriveTest, SenseIsCutToWhatWasAskedFor) {
  Drive f(std::nullopt);
  f.Send(kTestReady);
  EXPECT_THAT(f.Asks({kRequestSense, 0, 0, 0, 3}), ElementsAre(0x70, 0, kKeyNotReady));
  EXPECT_TRUE(IsDone(f.Send({kRequestSense, 0, 0, 0, 0})));
  EXPECT_EQ(f.Fails({kRequestSense, 1, 0, 0, 18}), kInvalidField);  // Descriptor format.
}

struct Asking {
  const char* name;
  std::initializer_list<uint8_t> packet;
};
class AskingTest : public testing::TestWithParam<Asking> {};

TEST_P(AskingTest, IsAnsweredBeforeAUnitAttention) {
  Drive f;
  f.drive.PowerOn();
  EXPECT_EQ(f.Fails(GetParam().packet), kWell);
  EXPECT_EQ(f.Fails(kTestReady), kPowerOnOrReset);
}
constexpr std::initializer_list<uint8_t> kAskInquiry = {kInquiry, 0, 0, 0, 36};
constexpr std::initializer_list<uint8_t> kAskConfiguration = {
    kGetConfiguration, 0, 0, 0, 0, 0, 0, 0, 8};
INSTANTIATE_TEST_SUITE_P(Commands, AskingTest,
                         testing::Values(Asking{"Inquiry", kAskInquiry},
                                         Asking{"Configuration", kAskConfiguration},
                                         Asking{"Events", kGetMediaEvent}),
                         [](const auto& info) { return std::string(info.param.name); });

class MediumCommandTest : public testing::TestWithParam<uint8_t> {};

TEST_P(MediumCommandTest, FailsWithoutOne) {
  Drive f(std::nullopt);
  EXPECT_EQ(f.Fails({GetParam()}), kNoMediumTrayClosed);
  f.Send(kEject);
  EXPECT_EQ(f.Fails({GetParam()}), kNoMediumTrayOpen);
  f.drive.InsertMedium(0);  // An empty image.
  f.Send(kTestReady);
  EXPECT_EQ(f.Fails({GetParam()}), kIncompatibleMedium);
}
INSTANTIATE_TEST_SUITE_P(Commands, MediumCommandTest,
                         testing::Values(kTestUnitReady, kReadCapacity, kRead10, kRead12, kReadCd,
                                         kSeek10, kReadToc, kReadDiscInformation,
                                         kReadDvdStructure));

TEST(MmcDriveTest, UnknownCommandsAreRefused) {
  Drive f;
  const std::vector<uint8_t> writes = {0x04, 0x15, 0x1a, 0x2a, 0x35, 0x55, 0xa1, 0xaa, 0xff};
  for (const uint8_t opcode : writes) EXPECT_EQ(f.Fails({opcode}), kInvalidOpcode) << int{opcode};
}

// ---- Who it is ----

TEST(MmcDriveTest, InquirySaysWhatItIs) {
  Drive f;
  const Bytes bytes = f.Asks({kInquiry, 0, 0, 0, 255});
  ASSERT_EQ(bytes.size(), 36u);
  EXPECT_EQ(bytes[0], 0x05);  // CD/DVD,
  EXPECT_EQ(bytes[1], 0x80);  // removable.
  EXPECT_EQ(bytes[4], 31);
  EXPECT_EQ(TextOf(bytes, 8, 28), "VIREO   CD-ROM          1.0 ");
  EXPECT_EQ(f.Asks({kInquiry, 0, 0, 0, 5}).size(), 5u);
  EXPECT_EQ(f.Fails({kInquiry, 0, 1, 0, 255}), kInvalidField);
}

TEST(MmcDriveTest, InquiryHasVitalProductData) {
  Drive f;
  EXPECT_THAT(f.Asks({kInquiry, 1, 0x00, 0, 255}), ElementsAre(5, 0, 0, 3, 0x00, 0x80, 0x83));
  const Bytes serial = f.Asks({kInquiry, 1, 0x80, 0, 255});
  EXPECT_EQ(serial[3], 7);
  EXPECT_EQ(TextOf(serial, 4, serial.size() - 4), "QM00007");
  const Bytes id = f.Asks({kInquiry, 1, 0x83, 0, 255});
  EXPECT_EQ(id[3], id.size() - 4);
  EXPECT_EQ(id[7], id.size() - 8);
  EXPECT_EQ(TextOf(id, 8, id.size() - 8), "VIREO   CD-ROM          QM00007");
  EXPECT_EQ(f.Fails({kInquiry, 1, 0xb0, 0, 255}), kInvalidField);
}

uint16_t ProfileOf(const Bytes& configuration) {
  return static_cast<uint16_t>(configuration[6] << 8 | configuration[7]);
}

// The features, by code, with their third byte (version, persistent, current).
std::vector<std::pair<int, int>> FeaturesOf(const Bytes& configuration) {
  std::vector<std::pair<int, int>> features;
  for (size_t at = 8; at < configuration.size(); at += 4 + configuration[at + 3]) {
    features.emplace_back(configuration[at] << 8 | configuration[at + 1], configuration[at + 2]);
  }
  return features;
}

TEST(MmcDriveTest, ConfigurationFollowsTheMedium) {
  Drive cd(kCdBlocks);
  Drive dvd(kDvdBlocks);
  Drive empty(std::nullopt);
  const std::initializer_list<uint8_t> ask = {kGetConfiguration, 0, 0, 0, 0, 0, 0, 2, 0};
  EXPECT_EQ(ProfileOf(cd.Asks(ask)), kProfileCdRom);
  EXPECT_EQ(ProfileOf(dvd.Asks(ask)), kProfileDvdRom);
  EXPECT_EQ(ProfileOf(empty.Asks(ask)), kProfileNone);
  const Bytes bytes = cd.Asks(ask);
  EXPECT_EQ(bytes[3], bytes.size() - 4);
  EXPECT_THAT(FeaturesOf(bytes),
              ElementsAre(std::pair(0x0000, 3), std::pair(0x0001, 3), std::pair(0x0002, 3),
                          std::pair(0x0003, 3), std::pair(0x0010, 1), std::pair(0x001d, 1),
                          std::pair(0x001e, 9), std::pair(0x001f, 0), std::pair(0x0100, 3),
                          std::pair(0x0105, 3)));
  EXPECT_THAT(FeaturesOf(dvd.Asks({kGetConfiguration, 1, 0, 0x10, 0, 0, 0, 2, 0})),
              ElementsAre(std::pair(0x0010, 1), std::pair(0x001f, 1), std::pair(0x0100, 3),
                          std::pair(0x0105, 3)));
  EXPECT_THAT(FeaturesOf(dvd.Asks({kGetConfiguration, 2, 0, 0x1e, 0, 0, 0, 2, 0})),
              ElementsAre(std::pair(0x001e, 8)));
  EXPECT_THAT(FeaturesOf(dvd.Asks({kGetConfiguration, 2, 0, 0x20, 0, 0, 0, 2, 0})), IsEmpty());
  EXPECT_EQ(cd.Fails({kGetConfiguration, 3, 0, 0, 0, 0, 0, 2, 0}), kInvalidField);
}

TEST(MmcDriveTest, ModeSenseGivesItsPages) {
  Drive f;
  f.Send(kLock);
  const Bytes capabilities = f.Asks({kModeSense10, 0, kPageCapabilities, 0, 0, 0, 0, 0, 255});
  ASSERT_EQ(capabilities.size(), 8u + 20u);
  EXPECT_EQ(capabilities[1], capabilities.size() - 2);
  EXPECT_EQ(capabilities[2], 0x01);
  EXPECT_THAT(Bytes(capabilities.begin() + 8, capabilities.begin() + 10), ElementsAre(0x2a, 18));
  EXPECT_EQ(capabilities[8 + 6] & 0x03, 0x03);  // Can be locked, and is.
  EXPECT_EQ(f.Asks({kModeSense10, 0, kPageErrorRecovery, 0, 0, 0, 0, 0, 255}).size(), 8u + 12u);
  EXPECT_EQ(f.Asks({kModeSense10, 0, kPageAudioControl, 0, 0, 0, 0, 0, 255}).size(), 8u + 16u);
  EXPECT_EQ(f.Asks({kModeSense10, 0, kPageAll, 0, 0, 0, 0, 0, 255}).size(), 8u + 12 + 16 + 20);
  const Bytes changeable = f.Asks({kModeSense10, 0, 0x40 | kPageCapabilities, 0, 0, 0, 0, 0, 255});
  EXPECT_THAT(Bytes(changeable.begin() + 10, changeable.end()), Each(0));
  EXPECT_EQ(f.Fails({kModeSense10, 0, 0xc0 | kPageAll, 0, 0, 0, 0, 0, 255}), kSavingNotSupported);
  EXPECT_EQ(f.Fails({kModeSense10, 0, 0x08, 0, 0, 0, 0, 0, 255}), kInvalidField);
  EXPECT_EQ(f.Fails({kModeSense10, 0, kPageAll, 1, 0, 0, 0, 0, 255}), kInvalidField);
}

TEST(MmcDriveTest, MechanismStatusShowsTheTray) {
  Drive f;
  EXPECT_THAT(f.Asks({kMechanismStatus, 0, 0, 0, 0, 0, 0, 0, 0, 8}),
              ElementsAre(0, 0, 0, 0, 0, 1, 0, 0));
  f.Send(kEject);
  EXPECT_EQ(f.Asks({kMechanismStatus, 0, 0, 0, 0, 0, 0, 0, 0, 8})[1], 0x10);
}

// ---- What is on the medium ----

TEST(MmcDriveTest, CapacityIsTheLastBlock) {
  Drive f;
  EXPECT_THAT(f.Asks({kReadCapacity}), ElementsAre(0, 0, 0x03, 0xe7, 0, 0, 8, 0));
}

TEST(MmcDriveTest, TocHasOneDataTrack) {
  Drive f;
  EXPECT_THAT(f.Asks({kReadToc, 0, 0, 0, 0, 0, 0, 0, 255}),
              ElementsAre(0, 18, 1, 1,                //
                          0, 0x14, 1, 0, 0, 0, 0, 0,  //
                          0, 0x14, 0xaa, 0, 0, 0, 3, 0xe8));
  // 1,000 blocks are 13 seconds and 25 frames.
  EXPECT_THAT(f.Asks({kReadToc, 2, 0, 0, 0, 0, 0xaa, 0, 255}),
              ElementsAre(0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 15, 25));
  EXPECT_EQ(f.Asks({kReadToc, 0, 0, 0, 0, 0, 0, 0, 12}).size(), 12u);
  EXPECT_EQ(f.Fails({kReadToc, 0, 0, 0, 0, 0, 2, 0, 255}), kInvalidField);
  EXPECT_EQ(f.Fails({kReadToc, 0, 5, 0, 0, 0, 0, 0, 255}), kInvalidField);
}

TEST(MmcDriveTest, TocHasOneSession) {
  Drive f;
  EXPECT_THAT(f.Asks({kReadToc, 0, 1, 0, 0, 0, 0, 0, 255}),
              ElementsAre(0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0));
  // As drivers of before MMC-2 ask for it.
  EXPECT_THAT(f.Asks({kReadToc, 2, 0, 0, 0, 0, 0, 0, 255, 0x40}),
              ElementsAre(0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0));
  const Bytes full = f.Asks({kReadToc, 0, 2, 0, 0, 0, 1, 0, 255});
  ASSERT_EQ(full.size(), 4u + 4 * 11);
  EXPECT_EQ(full[1], full.size() - 2);
  EXPECT_THAT(Bytes(full.begin() + 4 + 2 * 11, full.begin() + 4 + 3 * 11),
              ElementsAre(1, 0x14, 0, 0xa2, 0, 0, 0, 0, 0, 15, 25));
  EXPECT_EQ(f.Fails({kReadToc, 0, 2, 0, 0, 0, 2, 0, 255}), kInvalidField);
}

TEST(MmcDriveTest, TimesOfADvdStopWhereTheyEnd) {
  Drive f(kDvdBlocks);
  const Bytes bytes = f.Asks({kReadToc, 2, 0, 0, 0, 0, 0xaa, 0, 255});
  EXPECT_THAT(Bytes(bytes.begin() + 8, bytes.end()), ElementsAre(0, 255, 59, 74));
}

TEST(MmcDriveTest, DiscInformationIsOfACompleteDisc) {
  Drive f;
  const Bytes bytes = f.Asks({kReadDiscInformation, 0, 0, 0, 0, 0, 0, 0, 255});
  ASSERT_EQ(bytes.size(), 34u);
  EXPECT_THAT(Bytes(bytes.begin(), bytes.begin() + 7), ElementsAre(0, 32, 0x0e, 1, 1, 1, 1));
  EXPECT_EQ(f.Fails({kReadDiscInformation, 1, 0, 0, 0, 0, 0, 0, 255}), kInvalidField);
}

TEST(MmcDriveTest, DvdStructureIsOfADvd) {
  Drive dvd(kDvdBlocks);
  const std::initializer_list<uint8_t> ask = {kReadDvdStructure, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  const Bytes bytes = dvd.Asks(ask);
  ASSERT_EQ(bytes.size(), 2052u);
  EXPECT_EQ(bytes[0] << 8 | bytes[1], 2050);
  const uint32_t last = 0x030000 + kDvdBlocks - 1;
  EXPECT_THAT(Bytes(bytes.begin() + 8, bytes.begin() + 16),
              ElementsAre(0, 3, 0, 0, 0, last >> 16, last >> 8 & 0xff, last & 0xff));
  EXPECT_EQ(dvd.Fails({kReadDvdStructure, 0, 0, 0, 0, 0, 1, 0, 8, 0}), kInvalidField);
  EXPECT_EQ(dvd.Fails({kReadDvdStructure, 0, 0, 0, 0, 0, 0, 4, 8, 0}), kInvalidField);
  Drive cd;
  EXPECT_EQ(cd.Fails(ask), kCannotReadFormat);
}

// ---- Reads ----

struct ReadCase {
  const char* name;
  std::vector<uint8_t> packet;
  std::pair<uint32_t, uint32_t> blocks;
  Sense sense;
};
class ReadTest : public testing::TestWithParam<ReadCase> {};

TEST_P(ReadTest, NamesBlocksOrFails) {
  Drive f;
  Packet packet = {};
  std::ranges::copy(GetParam().packet, packet.begin());
  const Answer answer = f.drive.Execute(packet);
  EXPECT_EQ(SenseOf(answer), GetParam().sense);
  EXPECT_EQ(BlocksOf(answer), GetParam().blocks);
}

constexpr std::pair<uint32_t, uint32_t> kNothing = {};
INSTANTIATE_TEST_SUITE_P(
    Packets, ReadTest,
    testing::Values(
        ReadCase{"Read10", {kRead10, 0, 0, 0, 3, 0xe0, 0, 0, 8}, {0x3e0, 8}, kWell},
        ReadCase{"Read10OfNothing", {kRead10, 0, 0, 0, 0, 5, 0, 0, 0}, kNothing, kWell},
        ReadCase{"Read10OfNothingAtTheEnd", {kRead10, 0, 0, 0, 3, 0xe8}, kNothing, kWell},
        ReadCase{"Read10PastTheEnd", {kRead10, 0, 0, 0, 3, 0xe0, 0, 0, 9}, kNothing, kOutOfRange},
        ReadCase{
            "Read10FarOut", {kRead10, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1}, kNothing, kOutOfRange},
        ReadCase{"Read12", {kRead12, 0, 0, 0, 0, 1, 0, 0, 3, 0xe7}, {1, 999}, kWell},
        ReadCase{"Read12OfEverything",
                 {kRead12, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
                 kNothing,
                 kOutOfRange},
        ReadCase{"ReadCd", {kReadCd, 0, 0, 0, 0, 2, 0, 0, 3, 0x10}, {2, 3}, kWell},
        ReadCase{"ReadCdMode1", {kReadCd, 8, 0, 0, 0, 2, 0, 0, 3, 0x10}, {2, 3}, kWell},
        ReadCase{"ReadCdOfNoPart", {kReadCd, 0, 0, 0, 0, 2, 0, 0, 3, 0}, kNothing, kWell},
        ReadCase{"ReadCdRaw", {kReadCd, 0, 0, 0, 0, 2, 0, 0, 3, 0xf8}, kNothing, kInvalidField},
        ReadCase{"ReadCdSubChannel",
                 {kReadCd, 0, 0, 0, 0, 2, 0, 0, 3, 0x10, 1},
                 kNothing,
                 kInvalidField},
        ReadCase{
            "ReadCdAudio", {kReadCd, 4, 0, 0, 0, 2, 0, 0, 3, 0x10}, kNothing, kIllegalModeForTrack},
        ReadCase{
            "ReadCdPastTheEnd", {kReadCd, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0x10}, kNothing, kOutOfRange},
        ReadCase{"Seek", {kSeek10, 0, 0, 0, 3, 0xe7}, kNothing, kWell},
        ReadCase{"SeekPastTheEnd", {kSeek10, 0, 0, 0, 3, 0xe8}, kNothing, kOutOfRange},
        ReadCase{"SetCdSpeed", {kSetCdSpeed, 0, 0xff, 0xff}, kNothing, kWell}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(MmcDriveTest, AMediumThatCannotBeReadIsTold) {
  Drive f;
  f.Send({kRead10, 0, 0, 0, 0, 0, 0, 0, 1});
  EXPECT_EQ(f.drive.FailRead().sense, kUnrecoveredRead);
  EXPECT_EQ(f.TellsSense(), kUnrecoveredRead);
}

// ---- Media come and go ----

constexpr std::pair<int, int> Event(int event, int status) { return {event, status}; }

TEST(MmcDriveTest, AnInsertedMediumIsTold) {
  Drive f(std::nullopt);
  f.Send(kEject);
  EXPECT_EQ(f.TellsEvent(), Event(kMediaNoChange, kMediaTrayOpen));
  f.drive.InsertMedium(kCdBlocks);
  EXPECT_EQ(f.TellsEvent(), Event(kMediaNew, kMediaPresent));
  EXPECT_EQ(f.TellsEvent(), Event(kMediaNoChange, kMediaPresent));
  EXPECT_EQ(f.Fails(kTestReady), kMediumChanged);
  EXPECT_EQ(f.Fails(kTestReady), kWell);
}

TEST(MmcDriveTest, ARemovedMediumIsTold) {
  Drive f;
  f.drive.RemoveMedium();
  EXPECT_EQ(f.TellsEvent(), Event(kMediaRemoval, kMediaTrayOpen));
  EXPECT_EQ(f.Fails(kTestReady), kNoMediumTrayOpen);
}

TEST(MmcDriveTest, AMediumThatGoesUnseenIsNotTold) {
  Drive f(std::nullopt);
  f.drive.InsertMedium(kCdBlocks);
  f.drive.RemoveMedium();
  EXPECT_EQ(f.TellsEvent(), Event(kMediaRemoval, kMediaTrayOpen));
  EXPECT_EQ(f.TellsEvent(), Event(kMediaNoChange, kMediaTrayOpen));
  EXPECT_EQ(f.Fails(kTestReady), kNoMediumTrayOpen);
}

TEST(MmcDriveTest, AReplacedMediumIsToldInOrder) {
  Drive f;
  f.drive.RemoveMedium();
  f.drive.InsertMedium(kDvdBlocks);
  EXPECT_EQ(f.TellsEvent().first, kMediaRemoval);
  EXPECT_EQ(f.TellsEvent().first, kMediaNew);
  EXPECT_EQ(f.Fails(kTestReady), kMediumChanged);
}

TEST(MmcDriveTest, TheGuestEjectsAndLoads) {
  Drive f;
  EXPECT_TRUE(std::holds_alternative<EjectMedium>(f.Send(kEject)));
  EXPECT_TRUE(f.drive.facts().tray_open);
  EXPECT_FALSE(f.drive.facts().blocks.has_value());
  EXPECT_EQ(f.Fails(kTestReady), kNoMediumTrayOpen);
  EXPECT_TRUE(IsDone(f.Send(kEject)));  // Once more changes nothing.
  EXPECT_TRUE(IsDone(f.Send(kLoad)));
  EXPECT_EQ(f.Fails(kTestReady), kNoMediumTrayClosed);
  EXPECT_EQ(f.Fails({kStartStopUnit, 0, 0, 0, 1}), kNoMediumTrayClosed);
}

TEST(MmcDriveTest, StartingAndStoppingKeepsTheMedium) {
  Drive f;
  for (const uint8_t how : {0x00, 0x01, 0x03, 0x20, 0x30}) {
    EXPECT_TRUE(IsDone(f.Send({kStartStopUnit, 0, 0, 0, how}))) << int{how};
    EXPECT_TRUE(IsDone(f.Send(kTestReady)));
  }
}

TEST(MmcDriveTest, ALockedTrayStaysClosed) {
  Drive f;
  f.Send(kLock);
  EXPECT_EQ(f.Fails(kEject), kRemovalPrevented);
  EXPECT_TRUE(IsDone(f.Send(kTestReady)));
  f.Send(kUnlock);
  EXPECT_TRUE(std::holds_alternative<EjectMedium>(f.Send(kEject)));
}

TEST(MmcDriveTest, AnEjectRequestIsToldFirst) {
  Drive f;
  f.Send(kLock);
  f.drive.InsertMedium(kCdBlocks);
  f.drive.RequestEject();
  EXPECT_EQ(f.TellsEvent(), Event(kMediaEjectRequest, kMediaPresent));
  EXPECT_EQ(f.TellsEvent(), Event(kMediaNew, kMediaPresent));
}

TEST(MmcDriveTest, ARemovalEndsTheLock) {
  Drive f;
  f.Send(kLock);
  f.drive.RequestEject();
  f.drive.RemoveMedium();
  EXPECT_FALSE(f.drive.facts().locked);
  EXPECT_EQ(f.TellsEvent().first, kMediaRemoval);
}

TEST(MmcDriveTest, APowerOnEndsTheLockAndForgetsEvents) {
  Drive f;
  f.Send(kLock);
  f.drive.RequestEject();
  f.drive.PowerOn();
  EXPECT_FALSE(f.drive.facts().locked);
  EXPECT_EQ(f.TellsEvent(), Event(kMediaNoChange, kMediaPresent));
  EXPECT_EQ(f.Fails(kTestReady), kPowerOnOrReset);
}

TEST(MmcDriveTest, ASoftResetForgetsTheSenseOnly) {
  Drive f;
  f.Send(kLock);
  f.Send({0xff});
  f.drive.SoftReset();
  EXPECT_EQ(f.TellsSense(), kWell);
  EXPECT_TRUE(f.drive.facts().locked);
  EXPECT_TRUE(IsDone(f.Send(kTestReady)));
}

TEST(MmcDriveTest, EventsAreKeptForWhoReadsThem) {
  Drive f;
  f.drive.RequestEject();
  // The header alone, another class, and a drive that is to call back.
  EXPECT_THAT(f.Asks({kGetEventStatus, 1, 0, 0, 0x10, 0, 0, 0, 4}), ElementsAre(0, 6, 4, 0x10));
  EXPECT_THAT(f.Asks({kGetEventStatus, 1, 0, 0, 0x42, 0, 0, 0, 8}), ElementsAre(0, 2, 0x80, 0x10));
  EXPECT_EQ(f.Fails({kGetEventStatus, 0, 0, 0, 0x10, 0, 0, 0, 8}), kInvalidField);
  EXPECT_EQ(f.TellsEvent().first, kMediaEjectRequest);
}

// ---- State ----

Bytes Save(const MmcDrive& drive) {
  StateWriter writer;
  drive.Save(writer);
  return writer.Finish();
}

absl::Status Restore(MmcDrive& drive, const Bytes& state) {
  StateReader reader(state);
  absl::Status status = drive.Restore(reader);
  if (status.ok()) status = reader.Finish();
  return status;
}

TEST(MmcDriveTest, AFreshDriveTellsWhatTheOldOneHadToTell) {
  Drive f;
  f.drive.RemoveMedium();
  f.drive.InsertMedium(kCdBlocks);
  f.Send(kTestReady);  // Takes the attention.
  f.Send(kLock);
  f.drive.RequestEject();
  f.drive.PowerOn();
  f.Send(kLock);
  f.Send(kLock);
  f.drive.RequestEject();
  f.Send({0xff});
  Drive fresh;
  ASSERT_TRUE(Restore(fresh.drive, Save(f.drive)).ok());
  EXPECT_EQ(Save(fresh.drive), Save(f.drive));
  EXPECT_EQ(fresh.TellsSense(), kInvalidOpcode);
  EXPECT_EQ(fresh.TellsEvent().first, kMediaEjectRequest);
  EXPECT_EQ(fresh.Fails(kEject), kRemovalPrevented);
  EXPECT_EQ(fresh.Fails(kTestReady), kWell);
}

TEST(MmcDriveTest, AnotherMediumThanWasSavedIsAChange) {
  Drive f;
  f.Send(kLock);
  Drive other(kDvdBlocks);
  ASSERT_TRUE(Restore(other.drive, Save(f.drive)).ok());
  EXPECT_EQ(other.TellsEvent(), Event(kMediaRemoval, kMediaPresent));
  EXPECT_EQ(other.TellsEvent(), Event(kMediaNew, kMediaPresent));
  EXPECT_EQ(other.Fails(kTestReady), kMediumChanged);
  EXPECT_FALSE(other.drive.facts().locked);

  Drive empty(std::nullopt);
  ASSERT_TRUE(Restore(empty.drive, Save(f.drive)).ok());
  EXPECT_EQ(empty.TellsEvent(), Event(kMediaRemoval, 0));
  EXPECT_EQ(empty.Fails(kTestReady), kNoMediumTrayClosed);

  Drive ejected;
  ejected.Send(kEject);
  Drive filled;
  ASSERT_TRUE(Restore(filled.drive, Save(ejected.drive)).ok());
  EXPECT_EQ(filled.Fails(kTestReady), kMediumChanged);
  EXPECT_EQ(filled.Fails(kTestReady), kWell);
}

TEST(MmcDriveTest, RefusesStatesThatCannotBe) {
  Drive f;
  const Bytes state = Save(f.drive);
  for (size_t length = 0; length < state.size(); ++length) {
    Drive fresh;
    EXPECT_FALSE(Restore(fresh.drive, Bytes(state.begin(), state.begin() + length)).ok());
  }
  const std::vector<std::pair<size_t, uint8_t>> damages = {
      {0, 0},     // No medium, but it has blocks.
      {5, 1},     // A medium in an open tray.
      {5, 2},     // Neither open nor closed.
      {7, 0x10},  // A sense key that there is not.
  };
  for (const auto& [at, value] : damages) {
    Bytes damaged = state;
    damaged[at] = value;
    Drive fresh;
    EXPECT_TRUE(absl::IsDataLoss(Restore(fresh.drive, damaged))) << at;
  }
}

}  // namespace
}  // namespace vireo::mmc
