#include "devices/virtio/block.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/iovecs.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/block_backend.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::Each;
using testing::ElementsAre;

// A disk in memory whose requests can be held up and made to fail.
class TestBackend final : public BlockBackend {
 public:
  explicit TestBackend(Geometry geometry) : geometry_(geometry), bytes(geometry.size_bytes) {
    gate_.Set();
  }

  void Hold() { gate_.Reset(); }
  void Release() { gate_.Set(); }

  const Geometry& geometry() const override { return geometry_; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override {
    const absl::Status status = co_await Begin();
    if (status.ok()) {
      CopyToIoVecs(std::span<const uint8_t>(bytes).subspan(offset, TotalSize(dst)), dst);
    }
    --in_flight;
    co_return status;
  }
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override {
    fua_writes += flags.fua ? 1 : 0;
    const absl::Status status = co_await Begin();
    if (status.ok()) CopyFromIoVecs(src, std::span(bytes).subspan(offset, TotalSize(src)));
    --in_flight;
    co_return status;
  }
  Task<absl::Status> Flush() override {
    ++flushes;
    const absl::Status status = co_await Begin();
    --in_flight;
    co_return status;
  }
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override {
    discards.push_back({offset, length});
    const absl::Status status = co_await Begin();
    --in_flight;
    co_return status;
  }
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override {
    unmaps += flags.may_unmap ? 1 : 0;
    const absl::Status status = co_await Begin();
    if (status.ok()) std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(offset), length, 0);
    --in_flight;
    co_return status;
  }
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t, uint64_t length) override {
    co_return RangeStatus{.kind = RangeKind::kData, .length = length};
  }
  Task<absl::Status> Resize(uint64_t size_bytes) override {
    if (size_bytes < geometry_.size_bytes) co_return absl::FailedPreconditionError("shrinks");
    geometry_.size_bytes = size_bytes;
    bytes.resize(size_bytes);
    co_return absl::OkStatus();
  }
  Task<absl::Status> Close() override {
    closed = true;
    co_return absl::OkStatus();
  }

 private:
  Task<absl::Status> Begin() {
    ++in_flight;
    most_in_flight = std::max(most_in_flight, in_flight);
    co_await gate_.Wait();
    const absl::Status status = error;
    co_return status;
  }

  Geometry geometry_;
  AsyncEvent gate_;

 public:
  std::vector<uint8_t> bytes;
  absl::Status error;
  int in_flight = 0;
  int most_in_flight = 0;
  int flushes = 0;
  int fua_writes = 0;
  int unmaps = 0;
  std::vector<std::pair<uint64_t, uint64_t>> discards;
  bool closed = false;
};

constexpr uint64_t kAllFeatures = kBlkFeatureFlush | kBlkFeatureConfigWce | kBlkFeatureDiscard |
                                  kBlkFeatureWriteZeroes | kFeatureRingReset;

// One disk on one host.
struct Disk {
  Disk(EventLoop& loop, FakeGuestMemory& guest, Geometry geometry,
       VirtioBlock::Options options = {.serial = "vda"})
      : backend(new TestBackend(geometry)),
        device(loop, guest.memory(), std::unique_ptr<BlockBackend>(backend), options),
        host(device, loop) {}

  TestBackend* const backend;
  VirtioBlock device;
  VirtioHost host;
};

struct Fixture {
  explicit Fixture(Geometry geometry = {.size_bytes = 64 * 512, .discard_granularity = 4096},
                   VirtioBlock::Options options = {.serial = "vda"})
      : disk(*loop, guest, geometry, options), driver(disk.host, guest) {}
  ~Fixture() { disk.backend->Release(); }

  TestBackend& backend() { return *disk.backend; }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  Disk disk;
  VirtioDriver driver;
};

Segment Header(uint32_t type, uint64_t sector = 0) {
  BlkRequestHeader header;
  header.type = type;
  header.reserved = uint32_t{0};
  header.sector = sector;
  return ReadableObject(header);
}

std::vector<Segment> ReadSectors(uint64_t sector, uint32_t sectors) {
  return {Header(kBlkTypeIn, sector), Writable(sectors * 512), Writable(1)};
}

std::vector<Segment> WriteSectors(uint64_t sector, uint32_t sectors, uint8_t fill) {
  return {Header(kBlkTypeOut, sector), Readable(std::vector<uint8_t>(sectors * 512, fill)),
          Writable(1)};
}

std::vector<Segment> FlushDisk() { return {Header(kBlkTypeFlush), Writable(1)}; }

uint8_t StatusOf(const std::optional<UsedChain>& used) {
  return used.has_value() ? used->bytes.back() : uint8_t{0xff};
}

struct Kind {
  std::string name;
  VirtioDriver::Options options;
};

class RequestTest : public testing::TestWithParam<Kind> {};

TEST_P(RequestTest, ReadsBackWhatWasWritten) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start(GetParam().options));
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(5, 2, 0xab))), kBlkStatusOk);
  EXPECT_EQ(f.backend().bytes[5 * 512 - 1], 0);
  EXPECT_EQ(f.backend().bytes[5 * 512], 0xab);
  EXPECT_EQ(f.backend().bytes[7 * 512 - 1], 0xab);
  const std::optional<UsedChain> used = f.driver.Send(ReadSectors(6, 2));
  ASSERT_EQ(StatusOf(used), kBlkStatusOk);
  EXPECT_EQ(used->written, 1025u);
  EXPECT_EQ(used->bytes[0], 0xab);
  EXPECT_EQ(used->bytes[511], 0xab);
  EXPECT_EQ(used->bytes[512], 0);
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
  EXPECT_EQ(f.backend().flushes, 1);
}

TEST_P(RequestTest, EndsInTheOrderOfTheDiskNotOfTheRing) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start(GetParam().options));
  f.backend().Hold();
  for (int i = 0; i < 4; ++i) f.driver.ring().Add(ReadSectors(i, 1));
  f.driver.Run();
  EXPECT_EQ(f.backend().in_flight, 4);
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());
  // One that needs no disk passes them.
  EXPECT_EQ(StatusOf(f.driver.Send({Header(kBlkTypeGetId), Writable(20), Writable(1)})),
            kBlkStatusOk);
  f.backend().Release();
  f.loop->RunUntilIdle();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
}

INSTANTIATE_TEST_SUITE_P(
    Rings, RequestTest,
    testing::Values(Kind{"Direct", {.features = kAllFeatures}},
                    Kind{"EventIdx", {.features = kAllFeatures | kFeatureEventIdx}},
                    Kind{"Indirect", {.features = kAllFeatures | kFeatureIndirectDesc}},
                    Kind{"Both",
                         {.features = kAllFeatures | kFeatureIndirectDesc | kFeatureEventIdx}},
                    Kind{"Intx", {.features = kAllFeatures, .msix = false}}),
    [](const auto& test) { return test.param.name; });

TEST(VirtioBlockTest, ConfigurationDescribesTheDisk) {
  Fixture f({.size_bytes = 8 << 20,
             .block_size = 4096,
             .optimal_io_bytes = 65536,
             .discard_granularity = 65536});
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  const auto get = [&f](size_t offset, int width) {
    return f.driver.ReadDeviceConfig(offset, width);
  };
  EXPECT_EQ(get(offsetof(BlkConfig, capacity), 8), (8u << 20) / 512);
  EXPECT_EQ(get(offsetof(BlkConfig, seg_max), 4), 254u);
  EXPECT_EQ(get(offsetof(BlkConfig, blk_size), 4), 4096u);
  EXPECT_EQ(get(offsetof(BlkConfig, cylinders), 2), (8u << 20) / 512 / 16 / 63);
  EXPECT_EQ(get(offsetof(BlkConfig, heads), 1), 16u);
  EXPECT_EQ(get(offsetof(BlkConfig, opt_io_size), 4), 16u);
  EXPECT_EQ(get(offsetof(BlkConfig, writeback), 1), 1u);
  EXPECT_EQ(get(offsetof(BlkConfig, num_queues), 2), 1u);
  EXPECT_EQ(get(offsetof(BlkConfig, discard_sector_alignment), 4), 128u);
  EXPECT_EQ(get(offsetof(BlkConfig, write_zeroes_may_unmap), 1), 1u);
}

TEST(VirtioBlockTest, FeaturesFollowTheBackend) {
  Fixture writable({.size_bytes = 4096});
  EXPECT_EQ(writable.driver.OfferedFeatures() & kBlkFeatureDiscard, 0u);
  EXPECT_EQ(writable.driver.OfferedFeatures() & kBlkFeatureReadOnly, 0u);
  EXPECT_NE(writable.driver.OfferedFeatures() & kBlkFeatureWriteZeroes, 0u);
  Fixture read_only({.size_bytes = 4096, .discard_granularity = 4096, .read_only = true});
  EXPECT_NE(read_only.driver.OfferedFeatures() & kBlkFeatureReadOnly, 0u);
  EXPECT_EQ(read_only.driver.OfferedFeatures() & (kBlkFeatureDiscard | kBlkFeatureWriteZeroes), 0u);
}

TEST(VirtioBlockTest, WriteToReadOnlyDiskFails) {
  Fixture f({.size_bytes = 4096, .read_only = true});
  ASSERT_TRUE(f.driver.Start({.features = kBlkFeatureReadOnly}));
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(0, 1, 1))), kBlkStatusIoError);
  EXPECT_THAT(f.backend().bytes, Each(0));
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

TEST(VirtioBlockTest, SerialIsPaddedAndCut) {
  Fixture f({.size_bytes = 4096}, {.serial = "disk-1"});
  ASSERT_TRUE(f.driver.Start({}));
  const std::vector<Segment> get_id = {Header(kBlkTypeGetId), Writable(20), Writable(1)};
  std::optional<UsedChain> used = f.driver.Send(get_id);
  ASSERT_EQ(StatusOf(used), kBlkStatusOk);
  EXPECT_EQ(std::string(used->bytes.begin(), used->bytes.begin() + 20),
            std::string("disk-1").append(14, '\0'));

  Fixture g({.size_bytes = 4096}, {.serial = "a serial number of more than 20 bytes"});
  ASSERT_TRUE(g.driver.Start({}));
  used = g.driver.Send(get_id);
  ASSERT_EQ(StatusOf(used), kBlkStatusOk);
  EXPECT_EQ(std::string(used->bytes.begin(), used->bytes.begin() + 20), "a serial number of m");
}

TEST(VirtioBlockTest, BackendErrorFailsOnlyThatRequest) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().error = absl::DataLossError("a cluster is gone");
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusIoError);
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusIoError);
  f.backend().error = absl::OkStatus();
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(64, 1))), kBlkStatusIoError);
  EXPECT_EQ(StatusOf(f.driver.Send({Header(99), Writable(1)})), kBlkStatusUnsupported);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(63, 1))), kBlkStatusOk);
  EXPECT_EQ(f.disk.device.stats().errors, 4u);
  EXPECT_EQ(f.driver.status() & kStatusNeedsReset, 0);
}

TEST(VirtioBlockTest, CountsWhatItDid) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.driver.Send(ReadSectors(0, 3));
  f.driver.Send(ReadSectors(0, 1));
  f.driver.Send(WriteSectors(0, 2, 1));
  f.driver.Send(FlushDisk());
  const BlockStats stats = f.disk.device.stats();
  EXPECT_EQ(stats.read_ops, 2u);
  EXPECT_EQ(stats.read_bytes, 4u * 512);
  EXPECT_EQ(stats.write_ops, 1u);
  EXPECT_EQ(stats.write_bytes, 2u * 512);
  EXPECT_EQ(stats.flush_ops, 1u);
  EXPECT_EQ(stats.errors, 0u);
}

TEST(VirtioBlockTest, DiscardAndWriteZeroesReachTheBackend) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  ASSERT_EQ(StatusOf(f.driver.Send(WriteSectors(0, 8, 1))), kBlkStatusOk);
  BlkSegment segment;
  segment.sector = uint64_t{2};
  segment.sectors = uint32_t{3};
  segment.flags = uint32_t{0};
  EXPECT_EQ(
      StatusOf(f.driver.Send({Header(kBlkTypeDiscard), ReadableObject(segment), Writable(1)})),
      kBlkStatusOk);
  EXPECT_THAT(f.backend().discards, ElementsAre(std::pair<uint64_t, uint64_t>(1024, 1536)));
  segment.flags = kBlkSegmentUnmap;
  EXPECT_EQ(
      StatusOf(f.driver.Send({Header(kBlkTypeWriteZeroes), ReadableObject(segment), Writable(1)})),
      kBlkStatusOk);
  EXPECT_EQ(f.backend().unmaps, 1);
  EXPECT_EQ(f.backend().bytes[1023], 1);
  EXPECT_EQ(f.backend().bytes[1024], 0);
  EXPECT_EQ(f.backend().bytes[1024 + 1536], 1);
}

// ---- The write cache ----

TEST(VirtioBlockTest, DriverThatKnowsNoFlushGetsWritesThrough) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = 0}));
  ASSERT_EQ(StatusOf(f.driver.Send(WriteSectors(0, 1, 1))), kBlkStatusOk);
  EXPECT_EQ(f.backend().fua_writes, 1);
}

TEST(VirtioBlockTest, DriverThatFlushesGetsTheCache) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kBlkFeatureFlush}));
  ASSERT_EQ(StatusOf(f.driver.Send(WriteSectors(0, 1, 1))), kBlkStatusOk);
  EXPECT_EQ(f.backend().fua_writes, 0);
}

TEST(VirtioBlockTest, DriverSwitchesTheCache) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  constexpr uint64_t kWriteback = PciTransport::kDeviceOffset + offsetof(BlkConfig, writeback);
  f.disk.host.Write(kWriteback, 0, 1);
  EXPECT_EQ(f.disk.host.Read(kWriteback, 1), 0u);
  f.loop->RunUntilIdle();
  ASSERT_EQ(StatusOf(f.driver.Send(WriteSectors(0, 1, 1))), kBlkStatusOk);
  EXPECT_EQ(f.backend().fua_writes, 1);
  f.disk.host.Write(kWriteback, 1, 1);
  f.loop->RunUntilIdle();
  ASSERT_EQ(StatusOf(f.driver.Send(WriteSectors(0, 1, 1))), kBlkStatusOk);
  EXPECT_EQ(f.backend().fua_writes, 1);
  f.disk.host.Write(kWriteback, 0, 1);
  f.driver.Reset();
  EXPECT_EQ(f.disk.host.Read(kWriteback, 1), 1u);  // As at power-on.
}

TEST(VirtioBlockTest, OtherConfigurationIsNotTheDriversToChange) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.disk.host.Write(PciTransport::kDeviceOffset, 1, 8);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 8), 64u);
}

// ---- Growing ----

TEST(VirtioBlockTest, ResizeTellsTheDriver) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  const uint64_t generation = f.disk.host.Read(common_config::kConfigGeneration, 1);
  f.driver.TakeConfigInterrupts();
  EXPECT_TRUE(f.loop->RunTask(f.disk.device.Resize(128 * 512)).ok());
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 8), 128u);
  EXPECT_NE(f.disk.host.Read(common_config::kConfigGeneration, 1), generation);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(127, 1, 3))), kBlkStatusOk);
  EXPECT_TRUE(absl::IsFailedPrecondition(f.loop->RunTask(f.disk.device.Resize(512))));
}

// ---- Interrupts ----

TEST(VirtioBlockTest, RequestsThatEndTogetherRaiseOneInterrupt) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  for (int i = 0; i < 5; ++i) f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  EXPECT_EQ(f.driver.TakeInterrupts(), 0);
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.TakeInterrupts(), 1);
  EXPECT_EQ(f.driver.ring().used_idx(), 5);
}

TEST(VirtioBlockTest, EventIdxHoldsInterruptsBack) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures | kFeatureEventIdx}));
  ASSERT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
  f.driver.TakeInterrupts();
  f.driver.ring().SetUsedEvent(2);
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  EXPECT_EQ(f.driver.TakeInterrupts(), 0);
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  EXPECT_EQ(f.driver.TakeInterrupts(), 1);
}

// ---- Reset, pause and state with requests in flight ----

TEST(VirtioBlockTest, ResetParksUntilTheLastRequestHasEnded) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(WriteSectors(0, 1, 7));
  f.driver.ring().Add(ReadSectors(1, 1));
  f.driver.Run();
  ASSERT_EQ(f.backend().in_flight, 2);

  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  EXPECT_NE(f.driver.status(), 0);
  EXPECT_EQ(f.driver.WriteStatus(0), parking);  // Another vCPU asks again.
  EXPECT_EQ(f.driver.WriteStatus(kStatusAcknowledge), nullptr);

  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.backend().in_flight, 0);
  EXPECT_EQ(f.driver.status(), 0);
  EXPECT_EQ(f.backend().bytes[0], 7);

  f.driver.Kick();  // For a queue that is not there any more.
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

TEST(VirtioBlockTest, NothingIsTakenFromTheRingWhileAResetIsUnderWay) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  f.loop->RunUntilIdle();
  f.driver.ring().Add(FlushDisk());
  f.driver.Kick();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.backend().in_flight, 1);
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.backend().flushes, 1);
}

TEST(VirtioBlockTest, QueueResetDrainsAndTheQueueCanBeSetUpAnew) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  const std::shared_ptr<Parking> parking = f.driver.ResetQueue(0);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  EXPECT_EQ(f.disk.host.Read(common_config::kQueueReset, 2), 1u);
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.disk.host.Read(common_config::kQueueReset, 2), 0u);
  EXPECT_EQ(f.disk.host.Read(common_config::kQueueEnable, 2), 0u);
  EXPECT_EQ(f.disk.host.Read(common_config::kQueueSize, 2), 256u);

  f.driver.SetUpQueue(0, {.features = kAllFeatures, .queue_size = 32});
  f.loop->RunUntilIdle();
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
  EXPECT_EQ(f.driver.TakeInterrupts() > 0, true);
}

TEST(VirtioBlockTest, ResetOvertakesNoQueueReset) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  const std::shared_ptr<Parking> queue_parking = f.driver.ResetQueue(0);
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(queue_parking->done());
  EXPECT_FALSE(parking->done());
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(queue_parking->done());
  EXPECT_TRUE(parking->done());
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
}

TEST(VirtioBlockTest, QuietDeviceTakesNothingAndGoesOnAfterwards) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(WriteSectors(0, 1, 1));
  f.driver.Run();
  f.loop->Post([&f] { f.backend().Release(); });
  f.loop->RunTask(f.disk.host.transport().Quiesce());
  EXPECT_EQ(f.backend().in_flight, 0);
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);

  f.driver.ring().Add(FlushDisk());
  f.driver.Kick();
  f.loop->RunUntilIdle();
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());
  f.loop->RunTask(f.disk.host.transport().Quiesce());  // Again: nothing more to do.
  f.disk.host.transport().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
}

// Whoever paused the machine gave up on a disk that does not answer, and let it go on.
TEST(VirtioBlockTest, ADeviceThatGoesOnBeforeItWasQuietServesAgain) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(WriteSectors(0, 1, 1));
  f.driver.Run();
  TaskScope scope(*f.loop);
  scope.Spawn(f.disk.host.transport().Quiesce());
  f.loop->RunUntilIdle();
  f.disk.host.transport().Resume();
  f.driver.ring().Add(FlushDisk());
  f.driver.Kick();
  f.loop->RunUntilIdle();
  f.backend().Release();
  f.loop->RunTask(scope.Join());
  f.loop->RunUntilIdle();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
}

TEST(VirtioBlockTest, MachineResetDrainsAndForgetsEverything) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.backend().Hold();
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  f.loop->Post([&f] { f.backend().Release(); });
  f.loop->RunTask(f.disk.host.transport().Reset());
  EXPECT_EQ(f.backend().in_flight, 0);
  EXPECT_FALSE(f.disk.host.transport().bar_address(PciTransport::kBarIndex).has_value());
  f.disk.host.MoveBar(VirtioHost::kBarBase);
  EXPECT_EQ(f.driver.status(), 0);
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
}

TEST(VirtioBlockTest, SavedMidFlightAndRestoredIntoAFreshObjectNothingIsLost) {
  const Geometry geometry = {.size_bytes = 64 * 512, .discard_granularity = 4096};
  Fixture f(geometry);
  const uint64_t features = kAllFeatures | kFeatureEventIdx | kFeatureIndirectDesc;
  ASSERT_TRUE(f.driver.Start({.features = features}));
  f.disk.host.Write(PciTransport::kDeviceOffset + offsetof(BlkConfig, writeback), 0, 1);
  for (int i = 0; i < 5; ++i) ASSERT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
  f.backend().Hold();
  f.driver.ring().Add(WriteSectors(0, 1, 1));
  f.driver.ring().Add(WriteSectors(1, 1, 2));
  f.driver.Run();
  f.loop->Post([&f] { f.backend().Release(); });
  f.loop->RunTask(f.disk.host.transport().Quiesce());
  f.driver.ring().Add(WriteSectors(2, 1, 3));  // Kicked, and never seen by the first device.
  f.driver.Kick();
  const EncodedState state = f.disk.host.transport().Save();

  Disk other(*f.loop, f.guest, geometry);
  other.backend->bytes = f.backend().bytes;
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  EXPECT_EQ(other.host.transport().Save().bytes, state.bytes);
  f.driver.MoveTo(other.host);
  other.host.transport().Resume();
  f.loop->RunUntilIdle();

  for (int i = 0; i < 3; ++i) EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(other.backend->bytes[0], 1);
  EXPECT_EQ(other.backend->bytes[512], 2);
  EXPECT_EQ(other.backend->bytes[1024], 3);
  EXPECT_EQ(other.backend->fua_writes, 1);  // The write cache is still off.
  EXPECT_EQ(f.driver.TakeInterrupts(), 1);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(2, 1))), kBlkStatusOk);
}

TEST(VirtioBlockTest, FreshDeviceIsSavedAndRestored) {
  Fixture f;
  f.loop->RunTask(f.disk.host.transport().Quiesce());
  const EncodedState state = f.disk.host.transport().Save();
  Disk other(*f.loop, f.guest, {.size_bytes = 64 * 512, .discard_granularity = 4096});
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  other.host.transport().Resume();
  f.driver.MoveTo(other.host);
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
}

TEST(VirtioBlockTest, CloseClosesTheBackend) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.loop->RunTask(f.disk.host.transport().Reset());
  EXPECT_TRUE(f.loop->RunTask(f.disk.device.Close()).ok());
  EXPECT_TRUE(f.backend().closed);
}

// ---- Hostile drivers ----

TEST(VirtioBlockTest, BrokenRingAsksForResetAndTheDeviceGoesOnBeingOne) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.driver.TakeConfigInterrupts();
  f.backend().Hold();
  f.driver.ring().Add(FlushDisk());
  f.driver.Run();
  f.driver.ring().SetAvailableIdx(f.driver.ring().available_idx() + 1000);
  f.driver.Kick();
  f.loop->RunUntilIdle();
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  EXPECT_TRUE(f.disk.host.transport().needs_reset());

  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);  // What it held still ends.
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  EXPECT_EQ(f.driver.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
}

TEST(VirtioBlockTest, BrokenRingIsSavedAndRestoredAsBroken) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  f.driver.ring().SetAvailableIdx(1000);
  f.driver.Kick();
  f.loop->RunUntilIdle();
  f.loop->RunTask(f.disk.host.transport().Quiesce());
  const EncodedState state = f.disk.host.transport().Save();
  Disk other(*f.loop, f.guest, {.size_bytes = 64 * 512, .discard_granularity = 4096});
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  other.host.transport().Resume();
  f.driver.MoveTo(other.host);
  f.loop->RunUntilIdle();
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 0);  // The driver was told before.
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
}

// ---- Several queues ----

TEST(VirtioBlockTest, QueuesAreServedAndResetOnTheirOwn) {
  Fixture f({.size_bytes = 4096}, {.serial = "x", .queues = 2});
  const uint64_t features = kBlkFeatureMultiQueue | kBlkFeatureFlush | kFeatureRingReset;
  ASSERT_TRUE(f.driver.Start({.features = features}));
  f.backend().Hold();
  f.driver.ring(0).Add(FlushDisk());
  f.driver.Run(0);
  const std::shared_ptr<Parking> parking = f.driver.ResetQueue(1);
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());  // The other queue's request is none of its business.
  EXPECT_EQ(f.backend().in_flight, 1);
  f.driver.SetUpQueue(1, {.features = features});
  f.loop->RunUntilIdle();
  f.backend().Release();
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk(), 1)), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.ring(0).PopUsed()), kBlkStatusOk);
  EXPECT_GT(f.driver.TakeInterrupts(1), 0);
}

// ---- Dirty pages ----

TEST(VirtioBlockTest, ReadMarksItsPagesDirtyWhenItEnds) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kAllFeatures}));
  const GuestAddress buffer = f.guest.Allocate(4096, 4096);
  const uint64_t page = buffer.value() / 4096;
  const auto is_dirty = [&f, page] {
    const std::vector<uint64_t> words = f.guest.memory().dirty_log().FetchAndClear(0);
    return (words[page / 64] >> (page % 64) & 1) != 0;
  };
  ASSERT_TRUE(f.guest.memory().dirty_log().Start().ok());
  f.backend().Hold();
  f.driver.ring().Add(
      {Header(kBlkTypeIn), Segment{.writable_bytes = 4096, .at = buffer}, Writable(1)});
  f.driver.Run();
  EXPECT_FALSE(is_dirty());
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(is_dirty());
  // A write only reads guest memory.
  f.driver.ring().Add({Header(kBlkTypeOut),
                       Segment{.readable = std::vector<uint8_t>(4096), .at = buffer}, Writable(1)});
  f.driver.Run();
  EXPECT_FALSE(is_dirty());
}

}  // namespace
}  // namespace vireo::virtio
