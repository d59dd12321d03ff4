#include "devices/storage_controllers/atapi_cdrom.h"

#include <errno.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/iovecs.h"
#include "base/state.h"
#include "base/status.h"
#include "devices/storage_controllers/ata_spec.h"
#include "devices/storage_controllers/mmc_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/block_backend.h"

namespace vireo {
namespace {

using testing::Each;
using testing::ElementsAre;
using Bytes = std::vector<uint8_t>;

// A medium that says what became of it.
class TestMedium final : public BlockBackend {
 public:
  struct Log {
    std::vector<std::pair<uint64_t, uint64_t>> reads;  // Offset and length.
    int closes = 0;
    absl::Status read_error;
    absl::Status close_error;
    std::vector<bool> hurries;
  };

  // Byte i is i / 512, more or less. `log` outlives it.
  TestMedium(uint64_t size_bytes, uint32_t block_size, Log& log)
      : geometry_{.size_bytes = size_bytes, .block_size = block_size, .read_only = true},
        log_(log) {}

  static uint8_t ByteAt(uint64_t offset) { return static_cast<uint8_t>(offset / 512 + offset); }

  const Geometry& geometry() const override { return geometry_; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override {
    const uint64_t length = TotalSize(dst);
    log_.reads.emplace_back(offset, length);
    if (!log_.read_error.ok()) co_return log_.read_error;
    EXPECT_EQ(offset % geometry_.block_size, 0u);
    EXPECT_EQ(length % geometry_.block_size, 0u);
    EXPECT_LE(offset + length, geometry_.size_bytes);
    Bytes bytes(length);
    for (uint64_t i = 0; i < length; ++i) bytes[i] = ByteAt(offset + i);
    CopyToIoVecs(bytes, dst);
    co_return absl::OkStatus();
  }
  Task<absl::Status> Write(uint64_t, IoVecs, WriteFlags) override { return Refuse(); }
  Task<absl::Status> Flush() override { return Refuse(); }
  Task<absl::Status> Discard(uint64_t, uint64_t) override { return Refuse(); }
  Task<absl::Status> WriteZeroes(uint64_t, uint64_t, ZeroFlags) override { return Refuse(); }
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t, uint64_t length) override {
    co_return RangeStatus{.kind = RangeKind::kData, .length = length};
  }
  Task<absl::Status> Resize(uint64_t) override { return Refuse(); }
  void SetHurry(bool hurry) override { log_.hurries.push_back(hurry); }
  Task<absl::Status> Close() override {
    ++log_.closes;
    co_return log_.close_error;
  }

 private:
  Task<absl::Status> Refuse() {
    ADD_FAILURE() << "a CD is only read";
    co_return absl::FailedPreconditionError("a CD is only read");
  }

  const Geometry geometry_;
  Log& log_;
};

constexpr uint64_t kBlock = mmc::kBlockBytes;

struct Fixture {
  explicit Fixture(uint64_t size_bytes = 100 * kBlock, uint32_t block_size = 512)
      : Fixture(std::make_unique<TestMedium>(size_bytes, block_size, log)) {}
  explicit Fixture(std::unique_ptr<BlockBackend> medium)
      : drive(std::move(medium),
              {.name = "cd", .serial = "VR0001", .on_eject = [this] { ++ejections; }}) {
    Packet({mmc::kTestUnitReady});  // Hears of the power-on.
  }
  ~Fixture() { EXPECT_TRUE(loop->RunTask(drive.Close()).ok()); }

  AtaResult Send(const AtaCommand& command) { return loop->RunTask(Execute(command)); }
  AtaResult Packet(std::initializer_list<uint8_t> bytes, uint8_t features = ata::kPacketDma) {
    AtaCommand command = {.command = ata::kPacket, .features = features};
    command.packet.emplace();
    command.packet->fill(0);
    std::copy(bytes.begin(), bytes.end(), command.packet->begin());
    return Send(command);
  }
  // Key, code and qualifier.
  Bytes Sense() {
    const AtaResult result = Packet({mmc::kRequestSense, 0, 0, 0, 18});
    return {result.data[2], result.data[12], result.data[13]};
  }
  absl::StatusOr<Bytes> Read(uint32_t first, uint32_t count) {
    return loop->RunTask(ReadCopy(first, count));
  }
  std::unique_ptr<BlockBackend> NewMedium(uint64_t size_bytes = 50 * kBlock) {
    return std::make_unique<TestMedium>(size_bytes, 512, other_log);
  }
  absl::Status Insert(std::unique_ptr<BlockBackend> medium) {
    return loop->RunTask(drive.Insert(std::move(medium)));
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> Eject(AtapiCdrom::EjectMode mode) {
    return loop->RunTask(drive.Eject(mode));
  }

  Task<AtaResult> Execute(AtaCommand command) {
    const AsyncMutex::Guard guard = co_await drive.Hold();
    AtaResult result = co_await drive.Execute(command);
    co_return result;
  }
  Task<absl::StatusOr<Bytes>> ReadCopy(uint32_t first, uint32_t count) {
    const AsyncMutex::Guard guard = co_await drive.Hold();
    CO_ASSIGN_OR_RETURN(const std::span<const uint8_t> bytes, co_await drive.Read(first, count));
    co_return Bytes(bytes.begin(), bytes.end());
  }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  TestMedium::Log log;
  TestMedium::Log other_log;
  int ejections = 0;
  AtapiCdrom drive;
};

struct EmptyFixture : Fixture {
  EmptyFixture() : Fixture(std::unique_ptr<BlockBackend>()) {}
};

constexpr uint8_t kGood = ata::kStatusReady | ata::kStatusSeekDone;
constexpr uint8_t kBad = kGood | ata::kStatusError;

uint16_t Word(const Bytes& identify, int word) {
  return static_cast<uint16_t>(identify[2 * word] | identify[2 * word + 1] << 8);
}

std::string Text(const Bytes& identify, int first_word, int words) {
  std::string text;
  for (int i = 0; i < 2 * words; ++i) {
    text.push_back(static_cast<char>(identify[2 * first_word + (i ^ 1)]));
  }
  return text;
}

// ---- ATA commands ----

TEST(AtapiCdromTest, IdentifiesItself) {
  Fixture f;
  const AtaResult result = f.Send({.command = ata::kIdentifyPacketDevice});
  EXPECT_EQ(result.protocol, AtaResult::Protocol::kPioIn);
  EXPECT_EQ(result.task_file.status, kGood);
  ASSERT_EQ(result.data.size(), 512u);
  EXPECT_EQ(Word(result.data, 0), 0x85c0);
  EXPECT_EQ(Text(result.data, 10, 10), "VR0001              ");
  EXPECT_EQ(Text(result.data, 27, 20), "VIREO CD-ROM                            ");
  EXPECT_EQ(Word(result.data, 49) & 0x0300, 0x0300);
  EXPECT_EQ(Word(result.data, 88), 0x203f);
  EXPECT_EQ(std::accumulate(result.data.begin(), result.data.end(), 0) & 0xff, 0);
}

TEST(AtapiCdromTest, IsNoDisk) {
  Fixture f;
  for (const uint8_t command : {ata::kIdentifyDevice, ata::kReadSectors}) {
    const AtaResult result = f.Send({.command = command});
    EXPECT_EQ(result.task_file.status, kBad);
    EXPECT_EQ(result.task_file.error, ata::kErrorAbort);
    EXPECT_EQ(result.task_file.count, 1);
    EXPECT_THAT(result.task_file.lba, ElementsAre(0x01, 0x14, 0xeb));
  }
}

TEST(AtapiCdromTest, AResetGivesTheSignature) {
  Fixture f;
  f.Packet({0xff});
  for (const uint8_t command : {ata::kDeviceReset, ata::kExecuteDiagnostic}) {
    const AtaResult result = f.Send({.command = command});
    EXPECT_EQ(result.task_file.status, 0);
    EXPECT_EQ(result.task_file.error, ata::kDiagnosticsPassed);
    EXPECT_THAT(result.task_file.lba, ElementsAre(0x01, 0x14, 0xeb));
  }
  EXPECT_THAT(f.Sense(), ElementsAre(0, 0, 0));
}

TEST(AtapiCdromTest, PowerCommandsSucceed) {
  Fixture f;
  for (const uint8_t command : {ata::kStandbyImmediate, ata::kIdleImmediate, ata::kStandby,
                                ata::kIdle, ata::kSleep, ata::kFlushCache}) {
    EXPECT_EQ(f.Send({.command = command}).task_file.status, kGood) << int{command};
  }
  EXPECT_EQ(f.Send({.command = ata::kCheckPowerMode}).task_file.count, 0xff);
}

TEST(AtapiCdromTest, TransferModesAreRemembered) {
  Fixture f;
  const auto set = [&f](uint8_t mode) {
    return f.Send({.command = ata::kSetFeatures, .features = ata::kSetTransferMode, .count = mode})
        .task_file.status;
  };
  const auto word = [&f](int number) {
    return Word(f.Send({.command = ata::kIdentifyPacketDevice}).data, number);
  };
  EXPECT_EQ(set(0x42), kGood);
  EXPECT_EQ(word(88), 0x043f);
  EXPECT_EQ(set(0x0c), kGood);  // PIO: the DMA mode stays.
  EXPECT_EQ(word(88), 0x043f);
  EXPECT_EQ(set(0x21), kGood);
  EXPECT_EQ(word(63), 0x0207);
  EXPECT_EQ(word(88), 0x003f);
  for (const uint8_t mode : {0x02, 0x0d, 0x10, 0x23, 0x46, 0xff}) EXPECT_EQ(set(mode), kBad);
  f.drive.HardReset();
  EXPECT_EQ(word(88), 0x203f);
}

TEST(AtapiCdromTest, EverythingElseAborts) {
  Fixture f;
  EXPECT_EQ(f.Send({.command = ata::kSetFeatures, .features = 0x66}).task_file.status, kGood);
  EXPECT_EQ(f.Send({.command = ata::kSetFeatures, .features = 0x02}).task_file.status, kBad);
  EXPECT_EQ(f.Send({.command = ata::kPacket}).task_file.status, kBad);  // With no packet.
  for (const uint8_t command : {0x00, 0x25, 0x35, 0x60, 0xb0, 0xca, 0xea, 0xff}) {
    const AtaResult result = f.Send({.command = command, .count = 7});
    EXPECT_EQ(result.task_file.status, kBad) << int{command};
    EXPECT_EQ(result.task_file.error, ata::kErrorAbort);
    EXPECT_EQ(result.task_file.count, 7);
    EXPECT_TRUE(result.data.empty());
  }
}

// ---- Packets ----

TEST(AtapiCdromTest, APacketAnswersWithItsData) {
  Fixture f;
  const AtaResult dma = f.Packet({mmc::kInquiry, 0, 0, 0, 36});
  EXPECT_EQ(dma.protocol, AtaResult::Protocol::kPacketDma);
  EXPECT_EQ(dma.data.size(), 36u);
  EXPECT_EQ(dma.task_file.status, kGood);
  EXPECT_EQ(dma.task_file.count, ata::kReasonCommand | ata::kReasonToHost);
  const AtaResult pio = f.Packet({mmc::kInquiry, 0, 0, 0, 36}, 0);
  EXPECT_EQ(pio.protocol, AtaResult::Protocol::kPacketPio);
  EXPECT_EQ(f.Packet({mmc::kTestUnitReady}).protocol, AtaResult::Protocol::kNoData);
}

TEST(AtapiCdromTest, AFailedPacketHasTheSenseKeyInTheErrorRegister) {
  Fixture f;
  AtaResult result = f.Packet({0xff});
  EXPECT_EQ(result.task_file.status, kBad);
  EXPECT_EQ(result.task_file.error, 0x54);  // Illegal request, aborted.
  f.drive.HardReset();
  result = f.Packet({mmc::kTestUnitReady});
  EXPECT_EQ(result.task_file.error, 0x60);  // Unit attention.
}

TEST(AtapiCdromTest, AReadNamesBlocks) {
  Fixture f;
  const AtaResult result = f.Packet({mmc::kRead10, 0, 0, 0, 0, 90, 0, 0, 10});
  EXPECT_EQ(result.protocol, AtaResult::Protocol::kPacketDma);
  EXPECT_EQ(result.blocks.first, 90u);
  EXPECT_EQ(result.blocks.count, 10u);
  EXPECT_TRUE(f.log.reads.empty());
}

// ---- Reading the medium ----

struct ReadCase {
  const char* name;
  uint64_t size_bytes;
  uint32_t block_size;
  uint32_t first;
  uint32_t count;
  uint32_t want_blocks;
  std::pair<uint64_t, uint64_t> want_read;
};
class CdromReadTest : public testing::TestWithParam<ReadCase> {};

TEST_P(CdromReadTest, ReadsWholeBlocksOfTheBackend) {
  const ReadCase& param = GetParam();
  Fixture f(param.size_bytes, param.block_size);
  const absl::StatusOr<Bytes> bytes = f.Read(param.first, param.count);
  ASSERT_TRUE(bytes.ok());
  ASSERT_EQ(bytes->size(), param.want_blocks * kBlock);
  for (uint64_t i = 0; i < bytes->size(); ++i) {
    const uint64_t offset = param.first * kBlock + i;
    const uint8_t want = offset < param.size_bytes ? TestMedium::ByteAt(offset) : uint8_t{0};
    ASSERT_EQ((*bytes)[i], want) << offset;
  }
  EXPECT_THAT(f.log.reads, ElementsAre(param.want_read));
}
INSTANTIATE_TEST_SUITE_P(
    Media, CdromReadTest,
    testing::Values(
        ReadCase{"Some", 100 * kBlock, 512, 3, 2, 2, {3 * kBlock, 2 * kBlock}},
        ReadCase{"AsMuchAsFits", 1000 * kBlock, 512, 2, 900, 128, {2 * kBlock, 262144}},
        ReadCase{"OddOfLargeBlocks", 1000 * kBlock, 4096, 3, 1, 1, {2 * kBlock, 4096}},
        ReadCase{"ManyOddOfLargeBlocks", 1000 * kBlock, 4096, 3, 900, 127, {2 * kBlock, 262144}},
        ReadCase{"HalfOfALargeBlock", 100 * kBlock, 4096, 4, 1, 1, {4 * kBlock, 4096}},
        ReadCase{"EndsWithinABlock", 99 * kBlock + 512, 512, 98, 2, 2, {98 * kBlock, kBlock + 512}},
        ReadCase{"OnlyPartOfABlock", 512, 512, 0, 1, 1, {0, 512}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(AtapiCdromTest, ALastPartCountsAsABlock) {
  Fixture f(99 * kBlock + 512);
  EXPECT_EQ(f.drive.facts().blocks, 100u);
}

// A second read does not show what the first one left in the memory.
TEST(AtapiCdromTest, PaddingIsZerosEachTime) {
  Fixture f(2 * kBlock + 512);
  ASSERT_TRUE(f.Read(0, 2).ok());
  const absl::StatusOr<Bytes> bytes = f.Read(2, 1);
  ASSERT_TRUE(bytes.ok());
  EXPECT_THAT(Bytes(bytes->begin() + 512, bytes->end()), Each(0));
}

TEST(AtapiCdromTest, AMediumTheHostCannotReadFailsThePacket) {
  Fixture f;
  f.log.read_error = ErrnoStatus(EIO, "cd.iso");
  f.Packet({mmc::kRead10, 0, 0, 0, 0, 0, 0, 0, 1});
  EXPECT_FALSE(f.Read(0, 1).ok());
  const AtaResult result = f.drive.FailRead();
  EXPECT_EQ(result.task_file.status, kBad);
  EXPECT_EQ(result.task_file.error, 0x30);
  EXPECT_EQ(result.protocol, AtaResult::Protocol::kNoData);
  EXPECT_THAT(f.Sense(), ElementsAre(3, 0x11, 0));
}

// ---- The medium comes and goes ----

TEST(AtapiCdromTest, TheGuestEjects) {
  Fixture f;
  EXPECT_EQ(f.Packet({mmc::kStartStopUnit, 0, 0, 0, 2}).task_file.status, kGood);
  EXPECT_EQ(f.log.closes, 1);
  EXPECT_EQ(f.ejections, 1);
  EXPECT_TRUE(f.drive.facts().tray_open);
  EXPECT_EQ(f.Packet({mmc::kStartStopUnit, 0, 0, 0, 2}).task_file.status, kGood);
  EXPECT_EQ(f.ejections, 1);
}

TEST(AtapiCdromTest, AnEjectionIsOneEvenIfClosingFails) {
  Fixture f;
  f.log.close_error = ErrnoStatus(EIO, "cd.iso");
  EXPECT_EQ(f.Packet({mmc::kStartStopUnit, 0, 0, 0, 2}).task_file.status, kGood);
  EXPECT_EQ(f.ejections, 1);
}

TEST(AtapiCdromTest, TheHostInsertsAndEjects) {
  EmptyFixture f;
  ASSERT_TRUE(f.Insert(f.NewMedium()).ok());
  EXPECT_EQ(f.drive.facts().blocks, 50u);
  f.Packet({mmc::kTestUnitReady});
  EXPECT_THAT(f.Sense(), ElementsAre(6, 0x28, 0));
  EXPECT_TRUE(f.Read(49, 1).ok());
  absl::StatusOr<std::unique_ptr<BlockBackend>> medium = f.Eject(AtapiCdrom::EjectMode::kAsk);
  ASSERT_TRUE(medium.ok());
  EXPECT_EQ((*medium)->geometry().size_bytes, 50 * kBlock);
  EXPECT_EQ(f.other_log.closes, 1);
  EXPECT_EQ(f.ejections, 0);  // Whoever did it knows.
  f.Packet({mmc::kTestUnitReady});
  EXPECT_THAT(f.Sense(), ElementsAre(2, 0x3a, 2));
  EXPECT_TRUE(absl::IsFailedPrecondition(f.Eject(AtapiCdrom::EjectMode::kForce).status()));
}

TEST(AtapiCdromTest, OneMediumAtATime) {
  Fixture f;
  EXPECT_TRUE(absl::IsFailedPrecondition(f.Insert(f.NewMedium())));
  EXPECT_EQ(f.other_log.closes, 1);
  EXPECT_EQ(f.drive.facts().blocks, 100u);
  EXPECT_TRUE(f.Read(0, 1).ok());
}

TEST(AtapiCdromTest, ALockedTrayIsAskedForAndForced) {
  Fixture f;
  f.Packet({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  EXPECT_TRUE(absl::IsFailedPrecondition(f.Eject(AtapiCdrom::EjectMode::kAsk).status()));
  EXPECT_EQ(f.log.closes, 0);
  const AtaResult event = f.Packet({mmc::kGetEventStatus, 1, 0, 0, 0x10, 0, 0, 0, 8});
  EXPECT_EQ(event.data[4], mmc::kMediaEjectRequest);
  EXPECT_TRUE(f.Eject(AtapiCdrom::EjectMode::kForce).ok());
  EXPECT_EQ(f.log.closes, 1);
  EXPECT_FALSE(f.drive.facts().locked);
}

TEST(AtapiCdromTest, ACommandEndsBeforeTheMediumChanges) {
  Fixture f;
  TaskScope scope(*f.loop);
  std::optional<AsyncMutex::Guard> guard = f.loop->RunTask(f.drive.Hold());
  bool ejected = false;
  struct Ejection {
    static Task<void> Run(AtapiCdrom& drive, bool* ejected) {
      const absl::StatusOr<std::unique_ptr<BlockBackend>> medium =
          co_await drive.Eject(AtapiCdrom::EjectMode::kForce);
      *ejected = medium.ok();
    }
  };
  scope.Spawn(Ejection::Run(f.drive, &ejected));
  f.loop->RunUntilIdle();
  EXPECT_FALSE(ejected);
  EXPECT_TRUE(f.drive.facts().blocks.has_value());
  guard.reset();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(ejected);
  EXPECT_FALSE(f.drive.facts().blocks.has_value());
}

TEST(AtapiCdromTest, HurryReachesTheMedium) {
  Fixture f;
  f.drive.SetHurry(true);
  f.drive.SetHurry(false);
  EXPECT_THAT(f.log.hurries, ElementsAre(true, false));
  EmptyFixture empty;
  empty.drive.SetHurry(true);
}

// ---- State ----

Bytes Save(const AtapiCdrom& drive) {
  StateWriter writer;
  drive.Save(writer);
  return writer.Finish();
}

TEST(AtapiCdromTest, StateIsRestored) {
  Fixture f;
  f.Send({.command = ata::kSetFeatures, .features = ata::kSetTransferMode, .count = 0x41});
  f.Packet({mmc::kPreventAllowRemoval, 0, 0, 0, 1});
  Fixture fresh;
  const Bytes state = Save(f.drive);
  StateReader reader(state);
  ASSERT_TRUE(fresh.drive.Restore(reader).ok());
  EXPECT_TRUE(reader.Finish().ok());
  EXPECT_EQ(Save(fresh.drive), state);
  EXPECT_TRUE(fresh.drive.facts().locked);
  EXPECT_EQ(Word(fresh.Send({.command = ata::kIdentifyPacketDevice}).data, 88), 0x023f);
}

TEST(AtapiCdromTest, RefusesAStateWithAnImpossibleMode) {
  Fixture f;
  Bytes state = Save(f.drive);
  state[0] = 0x47;
  StateReader reader(state);
  EXPECT_TRUE(absl::IsDataLoss(f.drive.Restore(reader)));
}

}  // namespace
}  // namespace vireo
