// A transitional device under both kinds of driver, under accesses that no driver makes, and moved
// to another object.

#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "base/state.h"
#include "devices/pci/config_space.h"
#include "devices/virtio/device.h"
#include "devices/virtio/legacy_fixture.h"
#include "devices/virtio/legacy_layout.h"
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
using testing::SizeIs;

// ---- Both kinds of driver ----

TEST(LegacyMixTest, ModernDriverWorksThroughTheCapabilities) {
  LegacyFixture f;
  VirtioDriver modern(f.host, f.guest);
  ASSERT_TRUE(modern.Start({.features = kFeatureA | kFeatureRingReset}));
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.device.activations[0].features, kFeatureA | kFeatureRingReset | kFeatureVersion1);
  EXPECT_EQ(f.device.activations[0].queues[0].ring.size, 16);
  modern.Kick(1);
  EXPECT_TRUE(f.TakeKick(1));
  f.device.sink().SignalQueue(0);
  EXPECT_EQ(modern.TakeInterrupts(0), 1);
  f.host.Wait(modern.ResetQueue(0));
  EXPECT_THAT(f.device.queue_resets, ElementsAre(0));
  modern.Reset();
  EXPECT_EQ(f.device.resets, 1);
  f.driver.Start({});  // What came before leaves no trace.
  EXPECT_EQ(f.device.activations[1].features, 0u);
  EXPECT_EQ(f.device.activations[1].queues[0].ring.size, 64);
}

TEST(LegacyMixTest, ModernRegistersAreReachedThroughConfigurationSpace) {
  LegacyFixture f;
  uint32_t at = f.host.ReadConfig(pci::kCapabilityPointer, 1);
  while (f.host.ReadConfig(static_cast<uint16_t>(at), 1) != pci::kCapabilityVendorSpecific ||
         f.host.ReadConfig(static_cast<uint16_t>(at + 3), 1) != 5) {
    at = f.host.ReadConfig(static_cast<uint16_t>(at + 1), 1);
    ASSERT_NE(at, 0u);
  }
  const auto field = [at](int offset) { return static_cast<uint16_t>(at + offset); };
  f.host.WriteConfig(field(8), common_config::kNumQueues, 4);
  f.host.WriteConfig(field(12), 2, 4);
  EXPECT_EQ(f.host.ReadConfig(field(16), 2), 2u);
  f.host.WriteConfig(field(4), 0, 1);  // The ports are not reached so.
  f.host.WriteConfig(field(16), 0x5a5a, 2);
  EXPECT_EQ(f.host.ReadConfig(field(16), 2), 0x5a5au);
}

TEST(LegacyMixTest, HalvesOfBothKindsDoNotMakeAWhole) {
  LegacyFixture f;
  f.host.Write(common_config::kDriverFeatureSelect, 1, 4);
  f.host.Write(common_config::kDriverFeature, 0xffffffff, 4);
  f.driver.SetUpQueues();
  f.driver.SetDriverOk();
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.device.activations[0].features, 0u);
  // At work as a legacy device, it becomes no modern one.
  f.host.Write(common_config::kDriverFeature, 1, 4);
  f.host.Write(common_config::kDeviceStatus, 0x0f, 1);
  EXPECT_EQ(f.driver.status() & kStatusFeaturesOk, 0);
  f.loop->RunUntilIdle();
  EXPECT_THAT(f.device.activations, SizeIs(1));
}

TEST(LegacyMixTest, AcceptedFeaturesStayWhenPortsSayOtherwise) {
  LegacyFixture f;
  VirtioDriver modern(f.host, f.guest);
  ASSERT_TRUE(modern.Negotiate(kFeatureVersion1 | kFeatureA));
  f.driver.WriteFeatures(0);
  f.driver.SetDriverOk();
  ASSERT_THAT(f.device.activations, SizeIs(1));
  EXPECT_EQ(f.device.activations[0].features, kFeatureVersion1 | kFeatureA);
}

// ---- Accesses that no driver makes ----

TEST(LegacyMixTest, WidthsThatAreNoFieldChangeNothing) {
  LegacyFixture f;
  f.host.WritePort(legacy_config::kDriverFeatures, kFeatureA, 1);
  f.host.WritePort(legacy_config::kQueuePfn, 5, 2);
  f.host.WritePort(legacy_config::kQueueSelect, 1, 1);
  f.host.WritePort(legacy_config::kQueueNotify, 0, 4);
  f.host.WritePort(legacy_config::kDeviceStatus, 0x0101, 2);
  f.host.WritePort(legacy_config::kQueueSize, 8, 2);
  f.host.WritePort(legacy_config::kDeviceFeatures, 0, 4);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kDriverFeatures, 4), 0u);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kQueuePfn, 4), 0u);
  EXPECT_EQ(f.host.ReadPort(legacy_config::kQueueSize, 4), 64u);  // Reads may cross fields.
  EXPECT_EQ(f.driver.status(), 0);
}

class LegacyPokingTest : public testing::TestWithParam<uint32_t> {};

TEST_P(LegacyPokingTest, AnyAccessAnywhereLeavesADeviceBehind) {
  LegacyFixture f;
  std::mt19937 random(GetParam());
  const std::array<int, 5> widths = {1, 2, 4, 8, 3};
  for (int i = 0; i < 20000; ++i) {
    const int width = widths[random() % widths.size()];
    const uint64_t value = random() % 4 == 0 ? random() : random() % 16;
    if (random() % 4 == 0) {
      f.host.Write(random() % common_config::kSize, value, width);
    } else if (random() % 3 == 0) {
      f.host.ReadPort(random() % 32, width);
    } else {
      f.host.WritePort(random() % 32, value, width);
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
  f.driver.Start({.features = kFeatureA, .msix = true});
  EXPECT_EQ(f.driver.status(), kStatusAcknowledge | kStatusDriver | kStatusDriverOk);
  EXPECT_EQ(f.device.activations.back().features, kFeatureA);
  f.driver.TakeInterrupts(0);
  f.device.sink().SignalQueue(0);
  EXPECT_EQ(f.driver.TakeInterrupts(0), 1);
}

INSTANTIATE_TEST_SUITE_P(Seeds, LegacyPokingTest, testing::Range(1u, 9u));

// ---- State ----

std::vector<uint64_t> AllPorts(VirtioHost& host) {
  std::vector<uint64_t> values;
  const uint64_t selected = host.ReadPort(legacy_config::kQueueSelect, 2);
  for (uint16_t queue = 0; queue < 3; ++queue) {
    host.WritePort(legacy_config::kQueueSelect, queue, 2);
    for (uint64_t at = 0; at < 32; at += 2) values.push_back(host.ReadPort(at, 2));
  }
  host.WritePort(legacy_config::kQueueSelect, selected, 2);
  return values;
}

TEST(LegacyMixTest, SavedAndRestoredBeforeDriverOkItGoesOn) {
  LegacyFixture f;
  f.driver.Acknowledge({.features = kFeatureA | kFeatureEventIdx, .msix = true});
  f.driver.SetUpQueues();
  f.driver.Kick(1);
  f.driver.WriteDeviceConfig(3, 1, 1);
  f.loop->RunUntilIdle();
  f.loop->RunTask(f.transport().Quiesce());
  const EncodedState state = f.transport().Save();

  TestDevice other;
  VirtioHost other_host(other, *f.loop, kTransitional);
  f.loop->RunTask(other_host.transport().Quiesce());
  ASSERT_TRUE(other_host.transport().Restore(state).ok());
  EXPECT_EQ(other_host.transport().Save().bytes, state.bytes);
  EXPECT_EQ(AllPorts(other_host), AllPorts(f.host));
  ASSERT_THAT(other.activations, SizeIs(1));
  EXPECT_EQ(other.activations[0].features, kFeatureA | kFeatureEventIdx);
  EXPECT_THAT(other.activations[0].queues, SizeIs(2));
  EXPECT_EQ(other_host.space().doorbell_count(kPortsWindow), 2u);
  other_host.transport().Resume();
  f.driver.MoveTo(other_host);
  f.driver.SetDriverOk();
  EXPECT_THAT(other.activations, SizeIs(1));
  other.sink().SignalQueue(1);
  EXPECT_EQ(other_host.msi().TakeSignals(2), 1);
  // Something of it is in the device: a reset waits.
  EXPECT_NE(f.driver.WriteStatus(0), nullptr);
}

TEST(LegacyMixTest, StateOfTheOtherKindOfDeviceIsRefused) {
  LegacyFixture f;
  TestDevice other;
  VirtioHost modern(other, *f.loop, 3);
  EXPECT_TRUE(absl::IsInvalidArgument(modern.transport().Restore(f.transport().Save())));
  EXPECT_TRUE(absl::IsInvalidArgument(f.transport().Restore(modern.transport().Save())));
}

TEST(LegacyMixTest, StateThatIsNotOneIsRefused) {
  LegacyFixture f;
  f.driver.Start({});
  const EncodedState good = f.transport().Save();
  for (size_t size = 0; size < good.bytes.size(); size += 7) {
    EncodedState cut = good;
    cut.bytes.resize(size);
    TestDevice other;
    VirtioHost other_host(other, *f.loop, kTransitional);
    EXPECT_FALSE(other_host.transport().Restore(cut).ok()) << size;
  }
}

TEST(LegacyMixTest, FeaturesInAStateThatWereNeverOfferedAreRefused) {
  LegacyFixture f;
  f.driver.Start({.features = kFeatureA});
  EncodedState state = f.transport().Save();
  {
    TestDevice other;
    VirtioHost other_host(other, *f.loop, kTransitional);
    ASSERT_TRUE(other_host.transport().Restore(state).ok());
  }
  // The status, then the features.
  constexpr uint8_t kStatus = kStatusAcknowledge | kStatusDriver | kStatusDriverOk;
  const std::array<uint8_t, 9> wanted = {kStatus, kFeatureA, 0, 0, 0, 0, 0, 0, 0};
  const auto at = std::search(state.bytes.begin(), state.bytes.end(), wanted.begin(), wanted.end());
  ASSERT_NE(at, state.bytes.end());
  at[5] = 1;  // VERSION_1, without FEATURES_OK.
  TestDevice other;
  VirtioHost other_host(other, *f.loop, kTransitional);
  EXPECT_TRUE(absl::IsInvalidArgument(other_host.transport().Restore(state)));
}

}  // namespace
}  // namespace vireo::virtio
