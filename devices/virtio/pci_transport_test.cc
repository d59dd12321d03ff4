#include "devices/virtio/pci_transport.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/state.h"
#include "devices/pci/config_space.h"
#include "devices/virtio/device.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/test_virtio_device.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::ElementsAre;

struct Fixture {
  ~Fixture() { device.gate.Set(); }

  PciTransport& transport() { return host.transport(); }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  TestDevice device;
  VirtioHost host{device, *loop, 3};
  VirtioDriver driver{host, guest};
};

// ---- What the function looks like ----

TEST(PciTransportTest, IdentifiesItselfAsAModernDevice) {
  Fixture f;
  EXPECT_EQ(f.host.ReadConfig(pci::kVendorId, 2), 0x1af4u);
  EXPECT_EQ(f.host.ReadConfig(pci::kDeviceId, 2), 0x1042u);
  EXPECT_GE(f.host.ReadConfig(pci::kRevisionId, 1), 1u);
  EXPECT_EQ(f.host.ReadConfig(pci::kSubsystemVendorId, 2), 0x1af4u);
  EXPECT_GE(f.host.ReadConfig(pci::kSubsystemId, 2), 0x40u);
  EXPECT_EQ(f.host.ReadConfig(pci::kClassCode + 2, 1), 0x01u);
  EXPECT_EQ(f.host.ReadConfig(pci::kInterruptPin, 1), 1u);
}

struct Capability {
  uint32_t length;
  uint32_t bar;
  uint32_t offset;
  uint32_t size;
  uint16_t at;
};

std::map<int, Capability> ReadCapabilities(VirtioHost& host) {
  std::map<int, Capability> found;
  uint16_t at = host.ReadConfig(pci::kCapabilityPointer, 1);
  while (at != 0) {
    if (host.ReadConfig(at, 1) == pci::kCapabilityVendorSpecific) {
      const Capability capability = {.length = host.ReadConfig(at + 2, 1),
                                     .bar = host.ReadConfig(at + 4, 1),
                                     .offset = host.ReadConfig(at + 8, 4),
                                     .size = host.ReadConfig(at + 12, 4),
                                     .at = at};
      found.emplace(host.ReadConfig(at + 3, 1), capability);
    }
    at = host.ReadConfig(at + 1, 1);
  }
  return found;
}

TEST(PciTransportTest, CapabilitiesSayWhereTheRegistersAre) {
  Fixture f;
  const std::map<int, Capability> found = ReadCapabilities(f.host);
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found.at(1).offset, PciTransport::kCommonOffset);
  EXPECT_EQ(found.at(1).size, common_config::kSize);
  EXPECT_EQ(found.at(2).offset, PciTransport::kNotifyOffset);
  EXPECT_EQ(found.at(2).size, 8u);
  EXPECT_EQ(found.at(2).length, 20u);
  EXPECT_EQ(f.host.ReadConfig(found.at(2).at + 16, 4), PciTransport::kNotifyMultiplier);
  EXPECT_EQ(found.at(3).offset, PciTransport::kIsrOffset);
  EXPECT_EQ(found.at(4).offset, PciTransport::kDeviceOffset);
  EXPECT_EQ(found.at(4).size, 7u);
  EXPECT_EQ(found.at(5).length, 20u);
  for (const auto& [type, capability] : found) EXPECT_EQ(capability.bar, 0u) << type;
}

// ---- Negotiation ----

TEST(PciTransportTest, OffersTheDevicesFeaturesAndTheRings) {
  Fixture f;
  EXPECT_EQ(f.driver.OfferedFeatures(), kFeatureA | kFeatureB | kFeatureVersion1 |
                                            kFeatureIndirectDesc | kFeatureEventIdx |
                                            kFeatureRingReset);
  f.host.Write(common_config::kDeviceFeatureSelect, 2, 4);
  EXPECT_EQ(f.host.Read(common_config::kDeviceFeature, 4), 0u);
}

struct Offer {
  std::string name;
  uint64_t features;
  bool accepted;
};

class NegotiationTest : public testing::TestWithParam<Offer> {};

TEST_P(NegotiationTest, IsAnsweredByFeaturesOk) {
  Fixture f;
  EXPECT_EQ(f.driver.Negotiate(GetParam().features), GetParam().accepted);
  f.driver.SetDriverOk();
  EXPECT_EQ(f.device.activations.size(), GetParam().accepted ? 1u : 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Offers, NegotiationTest,
    testing::Values(Offer{"VersionOnly", kFeatureVersion1, true},
                    Offer{"Everything",
                          kFeatureVersion1 | kFeatureA | kFeatureB | kFeatureIndirectDesc |
                              kFeatureEventIdx | kFeatureRingReset,
                          true},
                    Offer{"Legacy", kFeatureA, false},
                    Offer{"NotOffered", kFeatureVersion1 | FeatureBit(5), false},
                    Offer{"NotOfferedHigh", kFeatureVersion1 | FeatureBit(63), false},
                    Offer{"DeviceRefuses", kFeatureVersion1 | kFeatureB, false}),
    [](const auto& test) { return test.param.name; });

TEST(PciTransportTest, FeaturesAreFinalOnceAccepted) {
  Fixture f;
  ASSERT_TRUE(f.driver.Negotiate(kFeatureVersion1 | kFeatureA));
  f.host.Write(common_config::kDriverFeatureSelect, 0, 4);
  f.host.Write(common_config::kDriverFeature, 0xffffffff, 4);
  EXPECT_EQ(f.host.Read(common_config::kDriverFeature, 4), kFeatureA);
}

TEST(PciTransportTest, StatusBitsAreOnlyAdded) {
  Fixture f;
  ASSERT_TRUE(f.driver.Negotiate(kFeatureVersion1));
  f.driver.WriteStatus(kStatusAcknowledge);
  EXPECT_EQ(f.driver.status(), kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  f.driver.WriteStatus(kStatusNeedsReset | kStatusFailed);
  EXPECT_EQ(f.driver.status(),
            kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusFailed);
}

TEST(PciTransportTest, ActivationCarriesWhatTheDriverWrote) {
  Fixture f;
  ASSERT_TRUE(f.driver.Negotiate(kFeatureVersion1 | kFeatureA | kFeatureEventIdx));
  f.host.Write(common_config::kQueueSelect, 1, 2);
  EXPECT_EQ(f.host.Read(common_config::kQueueSize, 2), 1024u);
  f.host.Write(common_config::kQueueSize, 8, 2);
  f.host.Write(common_config::kQueueDesc, 0x10, 4);
  f.host.Write(common_config::kQueueDesc + 4, 0x1, 4);
  f.host.Write(common_config::kQueueDriver, 0x200000003, 8);
  f.host.Write(common_config::kQueueDevice, 0x40, 8);
  f.host.Write(common_config::kQueueEnable, 1, 2);
  f.host.Write(common_config::kQueueDesc, 0x99, 4);  // Too late.
  f.host.Write(common_config::kQueueSize, 16, 2);
  f.driver.SetDriverOk();
  ASSERT_EQ(f.device.activations.size(), 1u);
  const Activation& activation = f.device.activations[0];
  EXPECT_EQ(activation.features, kFeatureVersion1 | kFeatureA | kFeatureEventIdx);
  ASSERT_EQ(activation.queues.size(), 1u);
  EXPECT_EQ(activation.queues[0].index, 1);
  EXPECT_EQ(activation.queues[0].ring.size, 8);
  EXPECT_EQ(activation.queues[0].ring.descriptors.value(), 0x100000010u);
  EXPECT_EQ(activation.queues[0].ring.available.value(), 0x200000003u);
  EXPECT_EQ(activation.queues[0].ring.used.value(), 0x40u);
  EXPECT_TRUE(activation.queues[0].ring.event_idx);
  EXPECT_FALSE(activation.queues[0].ring.indirect);
  f.driver.SetDriverOk();
  EXPECT_EQ(f.device.activations.size(), 1u);
}

TEST(PciTransportTest, QueueThatDoesNotExistHasNoSize) {
  Fixture f;
  f.host.Write(common_config::kQueueSelect, 2, 2);
  EXPECT_EQ(f.host.Read(common_config::kQueueSize, 2), 0u);
  f.host.Write(common_config::kQueueEnable, 1, 2);
  EXPECT_EQ(f.host.Read(common_config::kQueueEnable, 2), 0u);
  EXPECT_EQ(f.host.Read(common_config::kNumQueues, 2), 2u);
}

TEST(PciTransportTest, ActivationThatFailsAsksForReset) {
  Fixture f;
  f.device.activate_status = absl::InvalidArgumentError("no RAM there");
  ASSERT_TRUE(f.driver.Start({}));
  EXPECT_EQ(f.driver.status() & kStatusNeedsReset, kStatusNeedsReset);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  f.device.activate_status = absl::OkStatus();
  ASSERT_TRUE(f.driver.Start({}));
  EXPECT_EQ(f.driver.status() & kStatusNeedsReset, 0);
}

TEST(PciTransportTest, DriverReadyFollowsDriverOk) {
  Fixture f;
  EXPECT_FALSE(f.transport().driver_ready());
  ASSERT_TRUE(f.driver.Start({}));
  EXPECT_TRUE(f.transport().driver_ready());
  f.driver.Reset();
  EXPECT_FALSE(f.transport().driver_ready());
}

// ---- Reset ----

TEST(PciTransportTest, ResetOfAnUntouchedDeviceIsAtOnce) {
  Fixture f;
  f.driver.Negotiate(kFeatureVersion1);
  EXPECT_EQ(f.driver.WriteStatus(0), nullptr);
  EXPECT_EQ(f.driver.status(), 0);
  EXPECT_EQ(f.device.resets, 0);
}

TEST(PciTransportTest, ResetParksAndThenLeavesNothingBehind) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kFeatureA}));
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_FALSE(parking->done());
  f.host.Write(common_config::kQueueSelect, 1, 2);  // Ignored meanwhile.
  EXPECT_NE(f.driver.status(), 0);
  f.device.gate.Set();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.device.resets, 1);
  EXPECT_EQ(f.driver.status(), 0);
  EXPECT_EQ(f.host.Read(common_config::kQueueSelect, 2), 0u);
  EXPECT_EQ(f.host.Read(common_config::kQueueSize, 2), 64u);
  EXPECT_EQ(f.host.Read(common_config::kQueueEnable, 2), 0u);
  EXPECT_EQ(f.host.Read(common_config::kQueueDesc, 8), 0u);
  EXPECT_EQ(f.host.Read(common_config::kQueueMsixVector, 2), kNoVector);
  EXPECT_EQ(f.host.Read(common_config::kConfigMsixVector, 2), kNoVector);
  f.host.Write(common_config::kDriverFeatureSelect, 0, 4);
  EXPECT_EQ(f.host.Read(common_config::kDriverFeature, 4), 0u);
}

TEST(PciTransportTest, QuiesceWaitsForAResetUnderWay) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  f.loop->RunUntilIdle();
  f.loop->Post([&f] { f.device.gate.Set(); });
  f.loop->RunTask(f.transport().Quiesce());
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.device.quiesces, 1);
}

TEST(PciTransportTest, QueueResetNeedsItsFeature) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  EXPECT_EQ(f.driver.ResetQueue(0), nullptr);
  EXPECT_EQ(f.host.Read(common_config::kQueueEnable, 2), 1u);
}

TEST(PciTransportTest, QueueResetParksAndTheQueueStartsAgain) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kFeatureRingReset}));
  f.device.gate.Reset();
  const std::shared_ptr<Parking> parking = f.driver.ResetQueue(1);
  ASSERT_NE(parking, nullptr);
  EXPECT_EQ(f.driver.ResetQueue(1), parking);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.host.Read(common_config::kQueueReset, 2), 1u);
  f.host.Write(common_config::kQueueEnable, 1, 2);  // Too early.
  f.device.gate.Set();
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.host.Read(common_config::kQueueReset, 2), 0u);
  EXPECT_EQ(f.host.Read(common_config::kQueueEnable, 2), 0u);
  EXPECT_THAT(f.device.queue_resets, ElementsAre(1));
  f.driver.SetUpQueue(1, {});
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.device.started, ElementsAre(1));
}

TEST(PciTransportTest, QueueResetBeforeDriverOkIsAtOnce) {
  Fixture f;
  ASSERT_TRUE(f.driver.Negotiate(kFeatureVersion1 | kFeatureRingReset));
  f.driver.SetUpQueue(0, {});
  EXPECT_EQ(f.driver.ResetQueue(0), nullptr);
  EXPECT_EQ(f.host.Read(common_config::kQueueEnable, 2), 0u);
}

// ---- Device configuration ----

TEST(PciTransportTest, ConfigurationIsReadInAnyWidthAndWrittenWhereTheDeviceAllows) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kFeatureA}));
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 4), 0x00030201u);
  EXPECT_EQ(f.driver.ReadDeviceConfig(4, 8), 0x070605u);  // Zeros behind the end.
  EXPECT_EQ(f.driver.ReadDeviceConfig(100, 4), 0u);
  f.host.Write(PciTransport::kDeviceOffset + 2, 0xffff, 2);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 4), 0x01030201u);  // The device made 1 of it.
  EXPECT_EQ(f.device.bytes[3], 1);
}

TEST(PciTransportTest, ConfigurationIsReadOnlyWithoutTheFeature) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.host.Write(PciTransport::kDeviceOffset + 3, 1, 1);
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ReadDeviceConfig(3, 1), 0u);
}

TEST(PciTransportTest, ChangedConfigurationHasANewGenerationAndAnInterrupt) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const uint64_t before = f.host.Read(common_config::kConfigGeneration, 1);
  f.device.bytes[0] = 9;
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 1), 1u);  // A copy, until the device says so.
  f.device.sink().ConfigChanged();
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 1), 9u);
  EXPECT_NE(f.host.Read(common_config::kConfigGeneration, 1), before);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
}

TEST(PciTransportTest, SilentUntilTheDriverIsReady) {
  Fixture f;
  ASSERT_TRUE(f.driver.Negotiate(kFeatureVersion1));
  f.host.EnableMsix(3);
  f.host.Write(common_config::kConfigMsixVector, 0, 2);
  f.device.bytes[0] = 9;
  f.device.sink().ConfigChanged();
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 0);
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 1), 9u);
}

// ---- Interrupts ----

TEST(PciTransportTest, EachQueueHasItsVector) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.device.sink().SignalQueue(1);
  EXPECT_EQ(f.driver.TakeInterrupts(0), 0);
  EXPECT_EQ(f.driver.TakeInterrupts(1), 1);
  EXPECT_FALSE(f.host.intx().asserted());
  f.host.Write(common_config::kQueueSelect, 1, 2);
  f.host.Write(common_config::kQueueMsixVector, kNoVector, 2);
  f.device.sink().SignalQueue(1);
  EXPECT_EQ(f.driver.TakeInterrupts(1), 0);
}

TEST(PciTransportTest, VectorThatDoesNotExistReadsBackAsNone) {
  Fixture f;
  f.host.Write(common_config::kConfigMsixVector, 2, 2);
  EXPECT_EQ(f.host.Read(common_config::kConfigMsixVector, 2), 2u);
  f.host.Write(common_config::kConfigMsixVector, 3, 2);
  EXPECT_EQ(f.host.Read(common_config::kConfigMsixVector, 2), kNoVector);
  f.host.Write(common_config::kQueueMsixVector, 300, 2);
  EXPECT_EQ(f.host.Read(common_config::kQueueMsixVector, 2), kNoVector);
}

TEST(PciTransportTest, WithoutMsixThePinIsAssertedUntilIsrIsRead) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.msix = false}));
  f.device.sink().SignalQueue(0);
  EXPECT_TRUE(f.host.intx().asserted());
  EXPECT_NE(f.host.ReadConfig(pci::kStatus, 2) & pci::kStatusInterrupt, 0u);
  f.device.bytes[0] = 9;
  f.device.sink().ConfigChanged();
  EXPECT_EQ(f.host.Read(PciTransport::kIsrOffset, 1), kIsrQueue | kIsrConfig);
  EXPECT_FALSE(f.host.intx().asserted());
  EXPECT_EQ(f.host.Read(PciTransport::kIsrOffset, 1), 0u);
}

TEST(PciTransportTest, ResetIdlesThePin) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.msix = false}));
  f.device.sink().SignalQueue(0);
  f.driver.Reset();
  EXPECT_FALSE(f.host.intx().asserted());
  EXPECT_EQ(f.host.Read(PciTransport::kIsrOffset, 1), 0u);
}

// ---- Doorbells ----

bool TakeKick(Fixture& f, size_t queue) {
  return f.device.activations.back().queues[queue].kick->Drain() != 0;
}

TEST(PciTransportTest, DoorbellKicksItsQueueOnly) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.driver.Kick(1);
  EXPECT_FALSE(TakeKick(f, 0));
  EXPECT_TRUE(TakeKick(f, 1));
}

TEST(PciTransportTest, TrappedNotifyWriteKicksToo) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const std::array<uint8_t, 2> data = {1, 0};
  EXPECT_EQ(f.transport().Write(PciTransport::kNotifyOffset + 4, data), nullptr);
  EXPECT_FALSE(TakeKick(f, 0));
  EXPECT_TRUE(TakeKick(f, 1));
  f.transport().Write(PciTransport::kNotifyOffset + 8, data);  // No such queue.
}

TEST(PciTransportTest, BarMovesWhileTheDeviceIsActive) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const uint64_t old_doorbell = VirtioHost::kBarBase + PciTransport::kNotifyOffset;
  f.host.MoveBar(0x380000000000);
  EXPECT_EQ(f.transport().bar_address(0), 0x380000000000u);
  EXPECT_NE(f.driver.status() & kStatusDriverOk, 0);
  f.driver.Kick(0);
  EXPECT_TRUE(TakeKick(f, 0));
  const std::array<uint8_t, 2> data = {};
  EXPECT_FALSE(f.host.space().mmio().Write(old_doorbell, data).first);
  EXPECT_FALSE(TakeKick(f, 0));
  f.host.WriteConfig(pci::kCommand, 0, 2);
  EXPECT_FALSE(f.transport().bar_address(0).has_value());
}

// ---- Access through configuration space ----

struct ConfigAccess {
  explicit ConfigAccess(Fixture& f) : host(f.host), at(ReadCapabilities(f.host).at(5).at) {}
  void Select(uint32_t offset, uint32_t length) {
    host.WriteConfig(at + 4, 0, 1);
    host.WriteConfig(at + 8, offset, 4);
    host.WriteConfig(at + 12, length, 4);
  }
  VirtioHost& host;
  uint16_t at;
};

TEST(PciTransportTest, RegistersAreReachedThroughConfigurationSpace) {
  Fixture f;
  f.host.WriteConfig(pci::kCommand, 0, 2);  // The BAR is nowhere.
  ConfigAccess access(f);
  access.Select(common_config::kNumQueues, 2);
  EXPECT_EQ(f.host.ReadConfig(access.at + 16, 2), 2u);
  access.Select(common_config::kQueueSelect, 2);
  EXPECT_EQ(f.host.WriteConfig(access.at + 16, 1, 2), nullptr);
  access.Select(common_config::kQueueSize, 2);
  EXPECT_EQ(f.host.ReadConfig(access.at + 16, 2), 1024u);
  access.Select(PciTransport::kDeviceOffset, 1);
  EXPECT_EQ(f.host.ReadConfig(access.at + 16, 1), 1u);
}

TEST(PciTransportTest, ResetThroughConfigurationSpaceParks) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  ConfigAccess access(f);
  access.Select(common_config::kDeviceStatus, 1);
  const std::shared_ptr<Parking> parking = f.host.WriteConfig(access.at + 16, 0, 1);
  ASSERT_NE(parking, nullptr);
  f.loop->RunUntilIdle();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.driver.status(), 0);
}

TEST(PciTransportTest, NotifyThroughConfigurationSpaceKicks) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  ConfigAccess access(f);
  access.Select(PciTransport::kNotifyOffset + 4, 2);
  f.host.WriteConfig(access.at + 16, 1, 2);
  EXPECT_TRUE(TakeKick(f, 1));
}

TEST(PciTransportTest, SenselessAccessThroughConfigurationSpaceDoesNothing) {
  Fixture f;
  ConfigAccess access(f);
  const std::vector<std::pair<uint32_t, uint32_t>> senseless = {
      {0, 0}, {0, 3}, {0, 8}, {1, 2}, {PciTransport::kBarBytes, 4}, {0xfffffffc, 4}};
  for (const auto& [offset, length] : senseless) {
    access.Select(offset, length);
    f.host.WriteConfig(access.at + 16, 0x5a5a5a5a, 4);
    EXPECT_EQ(f.host.ReadConfig(access.at + 16, 4), 0x5a5a5a5au) << offset << " " << length;
  }
  access.Select(common_config::kNumQueues, 2);
  f.host.WriteConfig(access.at + 4, 1, 1);  // Another BAR.
  f.host.WriteConfig(access.at + 16, 0x5a5a5a5a, 4);
  EXPECT_EQ(f.host.ReadConfig(access.at + 16, 4), 0x5a5a5a5au);
}

// ---- Accesses that no driver makes ----

TEST(PciTransportTest, WidthsThatAreNoFieldChangeNothing) {
  Fixture f;
  f.host.Write(common_config::kQueueSelect, 1, 1);
  EXPECT_EQ(f.host.Read(common_config::kQueueSelect, 2), 0u);
  f.host.Write(common_config::kDeviceStatus, 0x0101, 2);
  EXPECT_EQ(f.driver.status(), 0);
  f.host.Write(common_config::kQueueDesc + 2, 0xffffffff, 4);
  EXPECT_EQ(f.host.Read(common_config::kQueueDesc, 8), 0u);
  // Reads, in contrast, may cross fields.
  EXPECT_EQ(f.host.Read(common_config::kNumQueues, 4), 2u);
  EXPECT_EQ(f.host.Read(common_config::kSize - 2, 8), 0u);
}

class PokingTest : public testing::TestWithParam<uint32_t> {};

TEST_P(PokingTest, AnyAccessAnywhereLeavesADeviceBehind) {
  Fixture f;
  std::mt19937 random(GetParam());
  const std::array<int, 4> widths = {1, 2, 4, 8};
  for (int i = 0; i < 20000; ++i) {
    const int width = widths[random() % 4];
    const uint64_t range = random() % 3 == 0 ? PciTransport::kBarBytes : 64;
    const uint64_t region = range == 64 ? (random() % 8) * 0x1000 : 0;
    const uint64_t offset = std::min(region + random() % range, PciTransport::kBarBytes - width);
    const uint64_t value = random() % 4 == 0 ? random() : random() % 16;
    if (random() % 3 == 0) {
      f.host.Read(offset, width);
    } else {
      f.host.Write(offset, value, width);
    }
    if (random() % 8 == 0) {
      const auto at = static_cast<uint16_t>(0x40 + random() % 0xc0);
      f.transport().WriteConfig(at, std::array<uint8_t, 1>{static_cast<uint8_t>(random())});
    }
    if (random() % 16 == 0) f.device.sink().SignalQueue(random() % 2);
    if (random() % 64 == 0) f.device.sink().SignalNeedsReset();
    if (random() % 32 == 0) f.loop->RunUntilIdle();
  }
  f.loop->RunUntilIdle();
  ASSERT_TRUE(f.driver.Start({.features = kFeatureA}));
  EXPECT_EQ(f.driver.status(),
            kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  f.driver.TakeInterrupts(0);
  f.device.sink().SignalQueue(0);
  EXPECT_EQ(f.driver.TakeInterrupts(0), 1);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PokingTest, testing::Range(1u, 9u));

// ---- State ----

std::vector<uint64_t> AllRegisters(VirtioHost& host) {
  std::vector<uint64_t> values;
  const uint64_t selected = host.Read(common_config::kQueueSelect, 2);
  for (uint16_t queue = 0; queue < 2; ++queue) {
    host.Write(common_config::kQueueSelect, queue, 2);
    for (uint16_t at = 0; at < common_config::kSize; at += 2) values.push_back(host.Read(at, 2));
  }
  host.Write(common_config::kQueueSelect, selected, 2);
  for (uint64_t at = 0; at < 8; ++at) {
    values.push_back(host.Read(PciTransport::kDeviceOffset + at, 1));
  }
  for (uint64_t at = 0; at < 48; at += 4) {
    values.push_back(host.Read(PciTransport::kMsixTableOffset + at, 4));
  }
  return values;
}

TEST(PciTransportTest, SavedAndRestoredIntoAFreshObjectItLooksTheSame) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kFeatureA | kFeatureEventIdx}));
  f.host.Write(PciTransport::kDeviceOffset + 3, 1, 1);
  f.host.Write(common_config::kQueueSelect, 1, 2);
  f.loop->RunUntilIdle();
  f.loop->RunTask(f.transport().Quiesce());
  const EncodedState state = f.transport().Save();

  TestDevice other;
  VirtioHost other_host(other, *f.loop, 3);
  f.loop->RunTask(other_host.transport().Quiesce());
  ASSERT_TRUE(other_host.transport().Restore(state).ok());
  EXPECT_EQ(AllRegisters(other_host), AllRegisters(f.host));
  ASSERT_EQ(other.activations.size(), 1u);
  EXPECT_EQ(other.activations[0].features, f.device.activations[0].features);
  EXPECT_EQ(other.activations[0].queues.size(), 2u);
  other_host.transport().Resume();
  other.sink().SignalQueue(1);
  EXPECT_EQ(other_host.msi().TakeSignals(2), 1);
}

TEST(PciTransportTest, PendingIsrIsRestoredWithThePin) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.msix = false}));
  f.device.sink().SignalQueue(0);
  const EncodedState state = f.transport().Save();
  TestDevice other;
  VirtioHost other_host(other, *f.loop, 3);
  ASSERT_TRUE(other_host.transport().Restore(state).ok());
  EXPECT_TRUE(other_host.intx().asserted());
  EXPECT_EQ(other_host.Read(PciTransport::kIsrOffset, 1), kIsrQueue);
  EXPECT_FALSE(other_host.intx().asserted());
}

TEST(PciTransportTest, StateThatIsNotOneIsRefused) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const EncodedState good = f.transport().Save();
  for (size_t size = 0; size < good.bytes.size(); size += 7) {
    EncodedState cut = good;
    cut.bytes.resize(size);
    TestDevice other;
    VirtioHost other_host(other, *f.loop, 3);
    EXPECT_FALSE(other_host.transport().Restore(cut).ok()) << size;
  }
  EncodedState of_another = good;
  of_another.type = "something else";
  TestDevice other;
  VirtioHost other_host(other, *f.loop, 3);
  EXPECT_TRUE(absl::IsInvalidArgument(other_host.transport().Restore(of_another)));
}

}  // namespace
}  // namespace vireo::virtio
