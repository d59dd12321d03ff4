// A disk for a driver from before virtio 1.0: rings, requests, interrupts and resets through the
// ports.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/async/event_loop.h"
#include "base/state.h"
#include "devices/virtio/block.h"
#include "devices/virtio/spec.h"
#include "gtest/gtest.h"
#include "storage/block_backend.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/legacy_driver.h"
#include "tests/support/memory_backend.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr VirtioHost::Options kTransitional = {.transitional = true};

struct Disk {
  Disk(EventLoop& loop, FakeGuestMemory& guest)
      : backend(new MemoryBackend({.size_bytes = 64 << 10})),
        device(loop, guest.memory(), std::unique_ptr<BlockBackend>(backend), {.serial = "S"}),
        host(device, loop, kTransitional) {}
  ~Disk() { backend->Release(); }

  MemoryBackend* const backend;
  VirtioBlock device;
  VirtioHost host;
};

struct Fixture {
  MemoryBackend& backend() { return *disk.backend; }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  Disk disk{*loop, guest};
  LegacyDriver driver{disk.host, guest};
};

BlkRequestHeader Header(uint32_t type, uint64_t sector) {
  return {.type = type, .reserved = 0u, .sector = sector};
}

std::vector<Segment> ReadSectors(uint64_t sector, uint32_t count) {
  return {ReadableObject(Header(kBlkTypeIn, sector)), Writable(count * 512), Writable(1)};
}
std::vector<Segment> WriteSectors(uint64_t sector, Bytes data) {
  return {ReadableObject(Header(kBlkTypeOut, sector)), Readable(std::move(data)), Writable(1)};
}
std::vector<Segment> Flush() { return {ReadableObject(Header(kBlkTypeFlush, 0)), Writable(1)}; }

// The status byte that ends a request; nothing if it has not ended.
std::optional<uint8_t> StatusOf(const std::optional<UsedChain>& used) {
  if (!used.has_value()) return std::nullopt;
  return used->bytes.back();
}

// Reads sectors 3 and 4, which hold `first` and what follows it.
void ExpectPatternOnDisk(LegacyDriver& driver, uint8_t first) {
  const std::optional<UsedChain> used = driver.Send(ReadSectors(3, 2));
  ASSERT_EQ(StatusOf(used), kBlkStatusOk);
  EXPECT_EQ(used->written, 1025u);
  EXPECT_EQ(Bytes(used->bytes.begin(), used->bytes.begin() + 512), Bytes(512, first));
  EXPECT_EQ(Bytes(used->bytes.begin() + 512, used->bytes.end() - 1),
            Bytes(512, static_cast<uint8_t>(first + 1)));
}

Bytes Pattern(uint8_t first) {
  Bytes data(1024, first);
  std::fill(data.begin() + 512, data.end(), static_cast<uint8_t>(first + 1));
  return data;
}

struct Kind {
  std::string name;
  LegacyDriver::Options options;
};

class LegacyBlockTest : public testing::TestWithParam<Kind> {};

TEST_P(LegacyBlockTest, ReadsWritesAndFlushes) {
  Fixture f;
  f.driver.Start(GetParam().options);
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 8), 128u);  // Sectors.
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(3, Pattern(0x40)))), kBlkStatusOk);
  EXPECT_EQ(f.backend().bytes()[3 * 512], 0x40);
  ExpectPatternOnDisk(f.driver, 0x40);
  const uint64_t flushes = f.backend().flushes();
  EXPECT_EQ(StatusOf(f.driver.Send(Flush())), kBlkStatusOk);
  EXPECT_EQ(f.backend().flushes(), flushes + 1);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(128, 1))), kBlkStatusIoError);
  EXPECT_FALSE(f.disk.host.transport().needs_reset());
}

TEST_P(LegacyBlockTest, RequestsRaiseTheInterruptThatTheDriverChose) {
  Fixture f;
  f.driver.Start(GetParam().options);
  f.driver.Send(ReadSectors(0, 1));
  if (GetParam().options.msix) {
    EXPECT_EQ(f.driver.TakeInterrupts(), 1);
    EXPECT_FALSE(f.disk.host.intx().asserted());
  } else {
    EXPECT_TRUE(f.disk.host.intx().asserted());
    EXPECT_EQ(f.driver.ReadIsr(), kIsrQueue);
    EXPECT_FALSE(f.disk.host.intx().asserted());
  }
}

// Old Linux reads the partition table before it says that it is ready.
TEST_P(LegacyBlockTest, RequestsBeforeDriverOkAreServed) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge(GetParam().options);
  f.driver.SetUpQueues();
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(3, Pattern(0x50)))), kBlkStatusOk);
  ExpectPatternOnDisk(f.driver, 0x50);
  f.driver.SetDriverOk();
  ExpectPatternOnDisk(f.driver, 0x50);
}

TEST_P(LegacyBlockTest, SavedWithRequestsToComeAndRestoredIntoAFreshObjectItGoesOn) {
  Fixture f;
  f.driver.Start(GetParam().options);
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(3, Pattern(0x60)))), kBlkStatusOk);
  f.loop->RunTask(f.disk.host.transport().Quiesce());
  f.driver.ring().Add(ReadSectors(3, 1));
  f.driver.ring().Add(ReadSectors(4, 1));
  f.driver.Kick();  // Into the void: a resumed queue is looked at first.
  const EncodedState state = f.disk.host.transport().Save();

  Disk other(*f.loop, f.guest);
  other.backend->bytes() = f.backend().bytes();
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  EXPECT_EQ(other.host.transport().Save().bytes, state.bytes);
  f.driver.MoveTo(other.host);
  other.host.transport().Resume();
  f.loop->RunUntilIdle();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  ExpectPatternOnDisk(f.driver, 0x60);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, LegacyBlockTest,
    testing::Values(Kind{"Intx", {}}, Kind{"Msix", {.msix = true}},
                    Kind{"Flush", {.features = kBlkFeatureFlush | kFeatureAnyLayout}},
                    Kind{"EventIdx", {.features = kFeatureEventIdx, .msix = true}},
                    Kind{"Indirect", {.features = kFeatureEventIdx | kFeatureIndirectDesc}}),
    [](const auto& test) { return test.param.name; });

TEST(LegacyDiskTest, PageZeroWaitsForRequestsInFlightAndTheQueueBeginsAnew) {
  Fixture f;
  f.driver.Start({});
  f.backend().Hold();
  f.driver.ring().Add(ReadSectors(0, 1));
  f.driver.Run();
  const std::shared_ptr<Parking> parking = f.driver.WriteQueuePage(0, 0);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  EXPECT_FALSE(f.driver.ring().PopUsed().has_value());
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  f.driver.SetUpQueue(0);
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

TEST(LegacyDiskTest, ResetWaitsForRequestsInFlight) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge({});
  f.driver.SetUpQueues();  // No DRIVER_OK.
  f.backend().Hold();
  f.driver.ring().Add(ReadSectors(0, 1));
  f.driver.Run();
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  f.backend().Release();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_FALSE(f.disk.host.intx().asserted());
  f.driver.Start({});
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

// What Linux until 2009 does, with requests in flight while it does so.
TEST(LegacyDiskTest, FeaturesThatComeLateLoseNoRequest) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge({});
  f.driver.SetUpQueues();
  EXPECT_EQ(StatusOf(f.driver.Send(WriteSectors(3, Pattern(0x70)))), kBlkStatusOk);
  f.backend().Hold();
  f.driver.ring().Add(ReadSectors(3, 1));
  f.driver.Run();
  const std::shared_ptr<Parking> parking = f.driver.WriteFeatures(kBlkFeatureFlush);
  ASSERT_NE(parking, nullptr);
  f.backend().Release();
  f.disk.host.Wait(parking);
  f.driver.SetDriverOk();
  EXPECT_EQ(StatusOf(f.driver.ring().PopUsed()), kBlkStatusOk);
  ExpectPatternOnDisk(f.driver, 0x70);
  EXPECT_FALSE(f.disk.host.transport().needs_reset());
}

TEST(LegacyDiskTest, ModernDriverOnATransitionalDisk) {
  Fixture f;
  VirtioDriver modern(f.disk.host, f.guest);
  ASSERT_TRUE(modern.Start({.features = kBlkFeatureFlush | kFeatureEventIdx}));
  EXPECT_EQ(StatusOf(modern.Send(WriteSectors(1, Bytes(512, 7)))), kBlkStatusOk);
  EXPECT_EQ(f.backend().bytes()[512], 7);
  EXPECT_EQ(modern.TakeInterrupts(), 1);
  EXPECT_EQ(StatusOf(modern.Send(Flush())), kBlkStatusOk);
}

struct BadPage {
  std::string name;
  uint32_t page;
};

class BadPageTest : public testing::TestWithParam<BadPage> {};

TEST_P(BadPageTest, AsksForResetWhichHelps) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge({});
  f.driver.WriteQueuePage(0, GetParam().page);
  f.driver.Kick();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(f.disk.host.transport().needs_reset());
  f.driver.SetDriverOk();
  f.driver.Kick();
  f.loop->RunUntilIdle();
  f.driver.Start({});
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

TEST_P(BadPageTest, AsksForResetAlsoWhenItComesLate) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge({});
  f.driver.SetDriverOk();
  f.driver.WriteQueuePage(0, GetParam().page);
  f.loop->RunUntilIdle();
  EXPECT_TRUE(f.disk.host.transport().needs_reset());
  f.disk.host.Wait(f.driver.WriteQueuePage(0, 0));
  f.driver.Start({});
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

INSTANTIATE_TEST_SUITE_P(
    Pages, BadPageTest,
    testing::Values(BadPage{"InTheHole", FakeGuestMemory::kNoRam.value() / kLegacyPageBytes},
                    // The descriptors are in RAM, the used ring is not.
                    BadPage{"RunsIntoTheHole",
                            FakeGuestMemory::kLastLowPage.value() / kLegacyPageBytes},
                    BadPage{"Highest", 0xffffffff}),
    [](const auto& test) { return test.param.name; });

TEST(LegacyDiskTest, BrokenRingAsksForReset) {
  Fixture f;
  f.driver.Start({.msix = true});
  f.driver.ring().SetAvailableIdx(1000);
  f.driver.Kick();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(f.disk.host.transport().needs_reset());
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  f.driver.Start({});
  EXPECT_EQ(StatusOf(f.driver.Send(ReadSectors(0, 1))), kBlkStatusOk);
}

}  // namespace
}  // namespace vireo::virtio
