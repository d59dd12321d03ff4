// What becomes of requests that the host fails, under each policy.

#include <errno.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/status.h"
#include "devices/virtio/block.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/memory_backend.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kFeatures = kBlkFeatureFlush | kFeatureRingReset;

Segment Header(uint32_t type, uint64_t sector = 0) {
  BlkRequestHeader header;
  header.type = type;
  header.reserved = uint32_t{0};
  header.sector = sector;
  return ReadableObject(header);
}

std::vector<Segment> ReadSector(uint64_t sector) {
  return {Header(kBlkTypeIn, sector), Writable(512), Writable(1)};
}

std::vector<Segment> WriteSector(uint64_t sector, uint8_t fill) {
  return {Header(kBlkTypeOut, sector), Readable(std::vector<uint8_t>(512, fill)), Writable(1)};
}

std::vector<Segment> FlushDisk() { return {Header(kBlkTypeFlush), Writable(1)}; }

uint8_t StatusOf(const std::optional<UsedChain>& used) {
  return used.has_value() ? used->bytes.back() : uint8_t{0xff};
}

// A disk that fails when told to, and who hears of it.
struct Disk {
  Disk(EventLoop& loop, FakeGuestMemory& guest, ErrorPolicy on_read, ErrorPolicy on_write)
      : memory(new MemoryBackend(MemoryBackend::Options{})),
        backend(new FaultyBackend(std::unique_ptr<BlockBackend>(memory))),
        device(loop, guest.memory(), std::unique_ptr<BlockBackend>(backend),
               {.serial = "x",
                .queues = 2,
                .on_read_error = on_read,
                .on_write_error = on_write,
                .on_stop = [this](const BlockError& error) { stops.push_back(error); }}),
        host(device, loop) {}

  MemoryBackend* const memory;
  FaultyBackend* const backend;
  std::vector<BlockError> stops;
  VirtioBlock device;
  VirtioHost host;
};

struct Fixture {
  Fixture(ErrorPolicy on_read, ErrorPolicy on_write)
      : disk(*loop, guest, on_read, on_write), driver(disk.host, guest) {
    EXPECT_TRUE(driver.Start({.features = kFeatures | kBlkFeatureMultiQueue}));
  }

  void Fail(int error, uint64_t failures = 1, uint64_t successes = 0) {
    disk.backend->FailAfter(successes, ErrnoStatus(error, "disk.qcow2"), failures);
  }
  void Send(std::vector<Segment> segments, uint16_t queue = 0) {
    driver.ring(queue).Add(std::move(segments));
    driver.Run(queue);
    loop->RunUntilIdle();
  }
  void Pause() { loop->RunTask(disk.host.transport().Quiesce()); }
  void Resume() {
    disk.host.transport().Resume();
    loop->RunUntilIdle();
  }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  Disk disk;
  VirtioDriver driver;
};

TEST(BlockErrorTest, IsReportedToTheGuest) {
  Fixture f(ErrorPolicy::kReport, ErrorPolicy::kReport);
  f.Fail(EIO);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSector(0))), kBlkStatusIoError);
  f.Fail(ENOSPC);
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSector(0, 1))), kBlkStatusIoError);
  EXPECT_TRUE(f.disk.stops.empty());
  EXPECT_EQ(f.disk.device.kept_requests(), 0u);
}

TEST(BlockErrorTest, IsIgnoredWhenAsked) {
  Fixture f(ErrorPolicy::kIgnore, ErrorPolicy::kIgnore);
  f.Fail(EIO, 3);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSector(0))), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSector(0, 1))), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.Send(FlushDisk())), kBlkStatusOk);
  EXPECT_EQ(f.disk.device.stats().errors, 3u);
}

TEST(BlockErrorTest, AFullHostIsToldApart) {
  Fixture f(ErrorPolicy::kReport, ErrorPolicy::kStopOnNoSpace);
  f.Fail(EIO);
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSector(0, 1))), kBlkStatusIoError);
  EXPECT_TRUE(f.disk.stops.empty());
  f.Fail(ENOSPC);
  f.Send(WriteSector(0, 1));
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());
  ASSERT_EQ(f.disk.stops.size(), 1u);
  EXPECT_TRUE(f.disk.stops[0].write);
  EXPECT_TRUE(f.disk.stops[0].no_space());
  EXPECT_EQ(StatusErrno(f.disk.stops[0].status), ENOSPC);
  f.Pause();
  f.Resume();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
}

class StoppingErrorTest : public testing::TestWithParam<int> {};

TEST_P(StoppingErrorTest, KeepsTheRequestAndTriesAgain) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.Fail(GetParam());
  f.Send(ReadSector(3));
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());
  ASSERT_EQ(f.disk.stops.size(), 1u);
  EXPECT_FALSE(f.disk.stops[0].write);
  EXPECT_EQ(f.disk.stops[0].offset, 3u * 512);
  EXPECT_EQ(StatusErrno(f.disk.stops[0].status), GetParam());
  EXPECT_EQ(f.disk.device.kept_requests(), 1u);

  // Still failing after the first resume: stopped and told once more.
  f.Pause();
  f.Fail(GetParam());
  f.Resume();
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());
  EXPECT_EQ(f.disk.stops.size(), 2u);

  f.Pause();
  f.Resume();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(f.disk.device.kept_requests(), 0u);
  EXPECT_EQ(f.disk.stops.size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Errors, StoppingErrorTest, testing::Values(EIO, ENOSPC, ESTALE));

TEST(BlockErrorTest, OneStopIsAskedForHoweverManyRequestsFailAndTheyGoInOrder) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.Fail(ENOSPC, 4);
  // To one sector: the last one that the guest sent is what counts.
  for (uint8_t fill = 1; fill <= 4; ++fill) f.driver.ring().Add(WriteSector(9, fill));
  f.driver.Run();
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.disk.stops.size(), 1u);
  EXPECT_EQ(f.disk.device.kept_requests(), 4u);
  // Others go on until the machine stands still.
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSector(0))), kBlkStatusOk);
  f.Pause();
  f.Resume();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(f.disk.memory->bytes()[9 * 512], 4);
}

TEST(BlockErrorTest, ARequestThatFailsWhileThePauseDrainsIsKeptToo) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.disk.memory->Hold();
  f.Fail(EIO, 1, 1);
  f.Send(WriteSector(1, 7));  // Waits in the disk.
  f.Send(WriteSector(2, 8));  // Fails at once.
  f.loop->Post([&f] { f.disk.memory->Release(); });
  f.Pause();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(f.disk.device.kept_requests(), 1u);
  f.Resume();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(f.disk.memory->bytes()[2 * 512], 8);
}

TEST(BlockErrorTest, ResetForgetsWhatWasKept) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.Fail(EIO);
  f.Send(WriteSector(1, 7));
  EXPECT_EQ(f.disk.device.kept_requests(), 1u);
  ASSERT_TRUE(f.driver.Start({.features = kFeatures}));  // The guest's driver starts anew.
  EXPECT_EQ(f.disk.device.kept_requests(), 0u);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSector(1))), kBlkStatusOk);
  EXPECT_EQ(f.disk.memory->bytes()[512], 0);
}

TEST(BlockErrorTest, StopsWhileRequestsAreKept) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.Fail(EIO);
  f.Send(WriteSector(1, 7));
  f.Pause();
  f.loop->RunTask(f.disk.host.transport().Reset());
  EXPECT_EQ(f.disk.device.kept_requests(), 0u);
  EXPECT_TRUE(f.loop->RunTask(f.disk.device.Close()).ok());
}

TEST(BlockErrorTest, ResetOfAQueueForgetsItsRequestsAlone) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.Fail(EIO, 2);
  f.Send(WriteSector(1, 7), 0);
  f.Send(WriteSector(2, 8), 1);
  EXPECT_EQ(f.disk.device.kept_requests(), 2u);
  const std::shared_ptr<Parking> parking = f.driver.ResetQueue(1);
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.disk.device.kept_requests(), 1u);
  f.Pause();
  f.Resume();
  EXPECT_EQ(StatusOf(f.driver.ring(0).PopUsed()), kBlkStatusOk);
  EXPECT_EQ(f.disk.memory->bytes()[512], 7);
  EXPECT_EQ(f.disk.memory->bytes()[1024], 0);
}

TEST(BlockErrorTest, WhatIsKeptSurvivesTheWayToAnotherHost) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSector(0, 1))), kBlkStatusOk);
  f.Fail(ENOSPC, 2);
  f.driver.ring().Add(WriteSector(4, 5));
  f.driver.ring().Add(WriteSector(4, 6));
  f.driver.Run();
  f.loop->RunUntilIdle();
  f.Pause();
  const EncodedState state = f.disk.host.transport().Save();

  Disk other(*f.loop, f.guest, ErrorPolicy::kStop, ErrorPolicy::kStop);
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  EXPECT_EQ(other.host.transport().Save().bytes, state.bytes);
  f.driver.MoveTo(other.host);
  other.host.transport().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(other.memory->bytes()[4 * 512], 6);
  EXPECT_EQ(other.device.kept_requests(), 0u);
}

TEST(BlockErrorTest, WhatTheGuestAsksWronglyStopsNothing) {
  Fixture f(ErrorPolicy::kStop, ErrorPolicy::kStop);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSector(1 << 20))), kBlkStatusIoError);
  EXPECT_EQ(StatusOf(f.driver.Send({Header(99), Writable(1)})), kBlkStatusUnsupported);
  EXPECT_TRUE(f.disk.stops.empty());
}

}  // namespace
}  // namespace vireo::virtio
