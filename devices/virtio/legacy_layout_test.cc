// A transitional device seen from its ports, with a device that only remembers.

#include "devices/virtio/legacy_layout.h"

#include <array>
#include <cstdint>

#include "devices/pci/config_space.h"
#include "devices/virtio/device.h"
#include "devices/virtio/legacy_fixture.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/legacy_driver.h"
#include "tests/support/test_virtio_device.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

// ---- What the function looks like ----

TEST(LegacyLayoutTest, IdentifiesItselfAsATransitionalDevice) {
  LegacyFixture f;
  EXPECT_EQ(f.host.ReadConfig(pci::kVendorId, 2), 0x1af4u);
  EXPECT_EQ(f.host.ReadConfig(pci::kDeviceId, 2), 0x1001u);
  EXPECT_EQ(f.host.ReadConfig(pci::kRevisionId, 1), 0u);
  EXPECT_EQ(f.host.ReadConfig(pci::kSubsystemVendorId, 2), 0x1af4u);
  EXPECT_EQ(f.host.ReadConfig(pci::kSubsystemId, 2), 2u);
  EXPECT_EQ(f.host.ReadConfig(pci::kClassCode + 2, 1), 0x01u);
}

TEST(LegacyLayoutTest, PortsAreInBar0AndAllElseIsInBar4) {
  LegacyFixture f;
  EXPECT_EQ(f.host.ReadConfig(pci::kBar0, 4), VirtioHost::kPortBase | 1);
  f.host.WriteConfig(pci::kBar0, 0xffffffff, 4);
  EXPECT_EQ(f.host.ReadConfig(pci::kBar0, 4), 0xffffffe1u);  // 24 bytes and 7: 32 of them.
  int virtio = 0;
  for (uint32_t at = f.host.ReadConfig(pci::kCapabilityPointer, 1); at != 0;
       at = f.host.ReadConfig(static_cast<uint16_t>(at + 1), 1)) {
    const uint32_t id = f.host.ReadConfig(static_cast<uint16_t>(at), 1);
    if (id == pci::kCapabilityVendorSpecific) {
      EXPECT_EQ(f.host.ReadConfig(static_cast<uint16_t>(at + 4), 1), 4u);
      ++virtio;
    } else {
      ASSERT_EQ(id, pci::kCapabilityMsix);
      EXPECT_EQ(f.host.ReadConfig(static_cast<uint16_t>(at + 4), 4) & 7, 4u);
      EXPECT_EQ(f.host.ReadConfig(static_cast<uint16_t>(at + 8), 4) & 7, 4u);
    }
  }
  EXPECT_EQ(virtio, 5);
}

// ---- Negotiation ----

TEST(LegacyLayoutTest, OffersWhatALegacyDriverKnows) {
  LegacyFixture f;
  EXPECT_EQ(f.driver.OfferedFeatures(),
            kFeatureA | kFeatureB | kFeatureAnyLayout | kFeatureIndirectDesc | kFeatureEventIdx);
  VirtioDriver modern(f.host, f.guest);
  EXPECT_EQ(modern.OfferedFeatures(), kFeatureA | kFeatureB | kFeatureVersion1 |
                                          kFeatureIndirectDesc | kFeatureEventIdx |
                                          kFeatureRingReset);
}

TEST(LegacyLayoutTest, FeaturesThatAreNotOfferedCountForNothing) {
  LegacyFixture f;
  f.driver.Start({.features = 0xffffffff});
  EXPECT_EQ(f.host.ReadPort(legacy_config::kDriverFeatures, 4), f.driver.OfferedFeatures());
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.device.activations[0].features, f.driver.OfferedFeatures());
}

TEST(LegacyLayoutTest, FeaturesOkMeansNothing) {
  LegacyFixture f;
  f.driver.WriteStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusNeedsReset);
  EXPECT_EQ(f.driver.status(), kStatusAcknowledge | kStatusDriver);
}

TEST(LegacyLayoutTest, SenselessFeaturesAskForResetAndServeNothing) {
  LegacyFixture f;
  f.driver.Start({.features = kFeatureB, .msix = true});
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_THAT(f.device.activations[0].queues, IsEmpty());
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  f.driver.Start({.features = kFeatureA | kFeatureB});
  EXPECT_THAT(f.device.activations.back().queues, SizeIs(2));
  EXPECT_EQ(f.driver.status(), kStatusAcknowledge | kStatusDriver | kStatusDriverOk);
}

// ---- Queues ----

TEST(LegacyLayoutTest, QueueIsOneAreaOfTheSizeThatTheDeviceSays) {
  LegacyFixture f;
  f.driver.Acknowledge({.features = kFeatureA | kFeatureEventIdx});
  EXPECT_EQ(f.driver.QueueSize(0), 64);
  EXPECT_EQ(f.driver.QueueSize(1), 1024);
  EXPECT_EQ(f.driver.QueueSize(2), 0);
  f.driver.WriteQueuePage(1, 0x12345);
  EXPECT_EQ(f.driver.ReadQueuePage(0), 0u);
  EXPECT_EQ(f.driver.ReadQueuePage(1), 0x12345u);
  f.driver.SetDriverOk();
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.device.activations[0].features, kFeatureA | kFeatureEventIdx);
  ASSERT_THAT(f.device.activations[0].queues, SizeIs(1));
  const QueueActivation& queue = f.device.activations[0].queues[0];
  EXPECT_EQ(queue.index, 1);
  EXPECT_EQ(queue.ring.size, 1024);
  EXPECT_EQ(queue.ring.descriptors.value(), 0x12345000u);
  EXPECT_EQ(queue.ring.available.value(), 0x12349000u);
  EXPECT_EQ(queue.ring.used.value(), 0x1234a000u);  // 2054 bytes behind, on the next page.
  EXPECT_TRUE(queue.ring.event_idx);
  EXPECT_FALSE(queue.ring.indirect);
}

TEST(LegacyLayoutTest, SizeIsNotWhatAModernDriverLeftThere) {
  LegacyFixture f;
  f.host.Write(common_config::kQueueSize, 8, 2);
  EXPECT_EQ(f.driver.QueueSize(0), 64);
  f.driver.SetUpQueues();
  f.driver.SetDriverOk();
  EXPECT_EQ(f.device.activations.back().queues[0].ring.size, 64);
}

TEST(LegacyLayoutTest, HighestPageDoesNotWrap) {
  LegacyFixture f;
  f.driver.WriteQueuePage(1, 0xffffffff);
  f.driver.SetDriverOk();
  const VirtqueueConfig& ring = f.device.activations.back().queues[0].ring;
  EXPECT_EQ(ring.descriptors.value(), 0xffffffff000u);
  EXPECT_EQ(ring.used.value(), 0x100000004000u);
}

TEST(LegacyLayoutTest, QueueThatIsSetUpLateStarts) {
  LegacyFixture f;
  f.driver.Acknowledge({});
  f.driver.SetDriverOk();
  f.driver.SetUpQueue(1);
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.device.started, ElementsAre(1));
}

TEST(LegacyLayoutTest, PageZeroParksAndTheQueueStartsAgain) {
  LegacyFixture f;
  f.driver.Start({});
  const uint32_t page = f.driver.ReadQueuePage(1);
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteQueuePage(1, 0);
  ASSERT_NE(parking, nullptr);
  EXPECT_EQ(f.driver.WriteQueuePage(1, 0), parking);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  f.driver.WriteQueuePage(1, 77);  // Too early.
  f.device.gate.Set();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.driver.ReadQueuePage(1), 0u);
  EXPECT_THAT(f.device.queue_resets, ElementsAre(1));
  f.driver.WriteQueuePage(1, page);
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.device.started, ElementsAre(1));
  f.driver.WriteQueuePage(1, 77);  // It is in use.
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ReadQueuePage(1), page);
}

TEST(LegacyLayoutTest, PageZeroBeforeTheDeviceWorksIsAtOnce) {
  LegacyFixture f;
  f.driver.Acknowledge({});
  f.driver.SetUpQueue(0);
  EXPECT_EQ(f.driver.WriteQueuePage(0, 0), nullptr);
  EXPECT_EQ(f.driver.ReadQueuePage(0), 0u);
  EXPECT_EQ(f.driver.WriteQueuePage(5, 0), nullptr);
  EXPECT_THAT(f.device.queue_resets, IsEmpty());
}

// ---- Kicks ----

TEST(LegacyLayoutTest, FirstKickStartsTheDeviceThatHasNoDriverOkYet) {
  LegacyFixture f;
  f.driver.Acknowledge({.features = kFeatureA});
  f.driver.SetUpQueues();
  f.driver.Kick(1);
  f.loop->RunUntilIdle();
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.device.activations[0].features, kFeatureA);
  EXPECT_THAT(f.device.activations[0].queues, SizeIs(2));
  EXPECT_FALSE(f.TakeKick(0));
  EXPECT_TRUE(f.TakeKick(1));
  EXPECT_FALSE(f.transport().driver_ready());
  f.driver.SetDriverOk();
  EXPECT_THAT(f.device.activations, SizeIs(1));
  EXPECT_TRUE(f.transport().driver_ready());
}

TEST(LegacyLayoutTest, KickOfWhatIsNotSetUpStartsNothing) {
  LegacyFixture f;
  f.driver.Acknowledge({});
  f.driver.SetUpQueue(1);
  for (const uint16_t queue : {0, 2, 0xffff}) f.driver.Kick(queue);
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.device.activations, IsEmpty());
}

TEST(LegacyLayoutTest, KickOfAModernDriverBeforeItIsReadyStartsNothing) {
  LegacyFixture f;
  VirtioDriver modern(f.host, f.guest);
  ASSERT_TRUE(modern.Negotiate(kFeatureVersion1));
  modern.SetUpQueue(0, {});
  f.driver.Kick(0);
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.device.activations, IsEmpty());
}

TEST(LegacyLayoutTest, DoorbellsAreThereWhileTheDeviceWorks) {
  LegacyFixture f;
  f.driver.Acknowledge({});
  f.driver.SetUpQueues();
  EXPECT_EQ(f.doorbells(), 0u);
  f.driver.Kick(0);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.doorbells(), 2u);
  EXPECT_TRUE(f.TakeKick(0));
  f.driver.Kick(1);  // Rings without a trap now.
  EXPECT_FALSE(f.TakeKick(0));
  EXPECT_TRUE(f.TakeKick(1));
  f.driver.Kick(7);  // No doorbell, and no queue.
  f.driver.Reset();
  EXPECT_EQ(f.doorbells(), 0u);
  f.driver.Start({});
  EXPECT_EQ(f.doorbells(), 2u);
  f.loop->RunTask(f.transport().Reset());
  EXPECT_EQ(f.doorbells(), 0u);
}

TEST(LegacyLayoutTest, PortsMoveWhileTheDeviceWorks) {
  LegacyFixture f;
  f.driver.Start({});
  f.host.MovePorts(0xd000);
  f.driver.Kick(1);
  EXPECT_TRUE(f.TakeKick(1));
  EXPECT_FALSE(
      f.host.space()
          .pio()
          .Write(VirtioHost::kPortBase + legacy_config::kQueueNotify, std::array<uint8_t, 2>{1, 0})
          .first);
  EXPECT_FALSE(f.TakeKick(1));
}

// ---- Reset ----

TEST(LegacyLayoutTest, ResetOfAnUntouchedDeviceIsAtOnce) {
  LegacyFixture f;
  f.driver.Acknowledge({.features = kFeatureA});
  f.driver.SetUpQueues();
  EXPECT_EQ(f.driver.WriteStatus(0), nullptr);
  EXPECT_EQ(f.driver.status(), 0);
  EXPECT_EQ(f.driver.ReadQueuePage(0), 0u);
  EXPECT_EQ(f.device.resets, 0);
}

TEST(LegacyLayoutTest, ResetParksAndThenLeavesNothingBehind) {
  LegacyFixture f;
  f.driver.Acknowledge({.features = kFeatureA});
  f.driver.SetUpQueues();
  f.driver.Kick(0);  // At work, though without DRIVER_OK.
  f.loop->RunUntilIdle();
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  ASSERT_NE(parking, nullptr);
  EXPECT_EQ(f.driver.WriteStatus(0), parking);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  f.driver.WriteStatus(kStatusDriverOk);  // Ignored meanwhile, as are
  f.driver.WriteFeatures(kFeatureB);
  f.driver.WriteQueuePage(1, 0);
  f.driver.Kick(1);
  f.device.gate.Set();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.device.resets, 1);
  EXPECT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.driver.status(), 0);
  EXPECT_EQ(f.driver.ReadQueuePage(0), 0u);
  EXPECT_EQ(f.driver.ReadQueuePage(1), 0u);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kDriverFeatures, 4), 0u);
}

// ---- Features that come late ----

TEST(LegacyLayoutTest, FeaturesWrittenAtWorkTakeTheDeviceThroughAChange) {
  LegacyFixture f;
  f.driver.Acknowledge({});
  f.driver.SetUpQueues();
  f.driver.Kick(0);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.WriteFeatures(kFeatureB << 20), nullptr);  // None, as before.
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteFeatures(kFeatureA | kFeatureEventIdx);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  f.device.gate.Set();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.device.quiesces, 1);
  EXPECT_EQ(f.device.resumes, 1);
  ASSERT_THAT(f.device.activations, SizeIs(2));
  EXPECT_EQ(f.device.activations[0].features, 0u);
  EXPECT_EQ(f.device.activations[1].features, kFeatureA | kFeatureEventIdx);
  EXPECT_THAT(f.device.activations[1].queues, SizeIs(2));
  EXPECT_TRUE(f.device.activations[1].queues[0].ring.event_idx);
  EXPECT_EQ(f.device.restores, 1);  // Positions go along.
  f.driver.SetDriverOk();
  EXPECT_THAT(f.device.activations, SizeIs(2));
}

TEST(LegacyLayoutTest, ChangeOfFeaturesThatFailsAsksForReset) {
  LegacyFixture f;
  f.driver.Start({});
  f.device.restore_status = absl::DataLossError("chains are gone");
  f.host.Wait(f.driver.WriteFeatures(kFeatureA));
  EXPECT_TRUE(f.transport().needs_reset());
  ASSERT_THAT(f.device.activations, SizeIs(2));
  EXPECT_THAT(f.device.activations[1].queues, IsEmpty());
  f.driver.Start({.features = kFeatureA});
  EXPECT_FALSE(f.transport().needs_reset());
  EXPECT_THAT(f.device.activations.back().queues, SizeIs(2));
}

TEST(LegacyLayoutTest, QuiesceWaitsForAChangeOfFeatures) {
  LegacyFixture f;
  f.driver.Start({});
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteFeatures(kFeatureA);
  f.loop->RunUntilIdle();
  f.loop->Post([&f] { f.device.gate.Set(); });
  f.loop->RunTask(f.transport().Quiesce());
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.device.resumes, 0);
  f.transport().Resume();
  EXPECT_EQ(f.device.resumes, 1);
}

TEST(LegacyLayoutTest, FeaturesDoNotChangeWhileAQueueIsGivenUp) {
  LegacyFixture f;
  f.driver.Start({});
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteQueuePage(0, 0);
  EXPECT_EQ(f.driver.WriteFeatures(kFeatureA), nullptr);
  f.device.gate.Set();
  f.host.Wait(parking);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kDriverFeatures, 4), 0u);
  EXPECT_THAT(f.device.activations, SizeIs(1));
}

// ---- Device configuration ----

TEST(LegacyLayoutTest, ConfigurationBeginsBehindTheHeaderAsMsixHasIt) {
  LegacyFixture f;
  f.driver.Start({.features = kFeatureA});
  EXPECT_EQ(f.host.ReadPort(20, 4), 0x00030201u);
  EXPECT_EQ(f.host.ReadPort(24, 8), 0x070605u);  // Zeros behind the end.
  f.host.WritePort(22, 0xffff, 2);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.host.ReadPort(20, 4), 0x01030201u);  // The device made 1 of it.
  EXPECT_EQ(f.host.ReadPort(16, 8), 0x0103020100000000u | uint64_t{f.driver.status()} << 16);

  f.driver.Start({.features = kFeatureA, .msix = true});
  EXPECT_EQ(f.host.ReadPort(24, 4), 0x00030201u);
  f.host.WritePort(27, 0xff, 1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.host.ReadPort(24, 4), 0x01030201u);
  EXPECT_EQ(f.host.ReadPort(22, 4), 0x02010002u);  // The vector of queue 1, then configuration.
}

TEST(LegacyLayoutTest, ConfigurationIsReadOnlyWithoutTheFeature) {
  LegacyFixture f;
  f.driver.Start({});
  f.driver.WriteDeviceConfig(3, 1, 1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ReadDeviceConfig(3, 1), 0u);
}

// ---- Interrupts ----

TEST(LegacyLayoutTest, PinIsAssertedUntilIsrIsReadByItself) {
  LegacyFixture f;
  f.driver.Start({});
  f.device.sink().SignalQueue(0);
  EXPECT_TRUE(f.host.intx().asserted());
  EXPECT_EQ(f.host.ReadPort(16, 4) >> 24, 0u);  // Not asked for: not taken.
  EXPECT_TRUE(f.host.intx().asserted());
  f.device.bytes[0] = 9;
  f.device.sink().ConfigChanged();
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 1), 9u);
  EXPECT_EQ(f.driver.ReadIsr(), kIsrQueue | kIsrConfig);
  EXPECT_FALSE(f.host.intx().asserted());
  EXPECT_EQ(f.driver.ReadIsr(), 0);
}

TEST(LegacyLayoutTest, WithMsixEachQueueHasItsVector) {
  LegacyFixture f;
  f.driver.Start({.msix = true});
  f.device.sink().SignalQueue(1);
  EXPECT_EQ(f.driver.TakeInterrupts(0), 0);
  EXPECT_EQ(f.driver.TakeInterrupts(1), 1);
  EXPECT_EQ(f.driver.ReadIsr(), 0);
  EXPECT_FALSE(f.host.intx().asserted());
  f.device.bytes[0] = 9;
  f.device.sink().ConfigChanged();
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
}

TEST(LegacyLayoutTest, VectorThatDoesNotExistReadsBackAsNone) {
  LegacyFixture f;
  f.host.EnableMsix(3);
  f.host.WritePort(legacy_config::kConfigMsixVector, 2, 2);
  f.host.WritePort(legacy_config::kQueueMsixVector, 3, 2);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kConfigMsixVector, 2), 2u);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kQueueMsixVector, 2), kNoVector);
  f.host.WritePort(legacy_config::kQueueSelect, 2, 2);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kQueueMsixVector, 2), kNoVector);
}

TEST(LegacyLayoutTest, InterruptsComeBeforeDriverOkToWhoKicksBefore) {
  LegacyFixture f;
  f.driver.Acknowledge({});
  f.driver.SetUpQueues();
  f.driver.Kick(0);
  f.loop->RunUntilIdle();
  f.device.sink().SignalQueue(0);
  EXPECT_TRUE(f.host.intx().asserted());
  EXPECT_EQ(f.driver.ReadIsr(), kIsrQueue);
}

}  // namespace
}  // namespace vireo::virtio
