#include "devices/virtio/net.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "net/packet_port.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/fake_packet_port.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

constexpr uint16_t kRx = VirtioNet::kReceiveQueue;
constexpr uint16_t kTx = VirtioNet::kTransmitQueue;
using Bytes = std::vector<uint8_t>;
constexpr size_t kPrefixBytes = PacketPort::kPrefixBytes;

testing::Matcher<const Offloads&> Are(bool checksum, bool tso4, bool tso6, bool tso_ecn) {
  return testing::AllOf(
      testing::Field(&Offloads::checksum, checksum), testing::Field(&Offloads::tso4, tso4),
      testing::Field(&Offloads::tso6, tso6), testing::Field(&Offloads::tso_ecn, tso_ecn));
}

constexpr VirtioNet::Options kOptions = {.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500};

struct Nic {
  Nic(EventLoop& loop, FakeGuestMemory& guest)
      : port(new FakePort()),
        device(loop, guest.memory(), std::unique_ptr<PacketPort>(port), kOptions),
        host(device, loop) {}

  FakePort* const port;
  VirtioNet device;
  VirtioHost host;
};

struct Fixture {
  FakePort& port() { return *nic.port; }
  void Run() { loop->RunUntilIdle(); }
  void AddReceiveBuffers(int count, uint32_t bytes) {
    for (int i = 0; i < count; ++i) driver.ring(kRx).Add({Writable(bytes)});
    driver.Run(kRx);
  }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  Nic nic{*loop, guest};
  VirtioDriver driver{nic.host, guest};
};

// A prefix and `bytes` bytes that count up from `first`.
Bytes Frame(size_t bytes, uint8_t first = 1) {
  Bytes frame(kPrefixBytes + bytes);
  for (size_t i = 0; i < bytes; ++i) {
    frame[kPrefixBytes + i] = static_cast<uint8_t>(first + i % 251);
  }
  return frame;
}

NetHeader HeaderOf(const Bytes& bytes) {
  NetHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  return header;
}

// What the driver makes of its buffers: the frame behind the header, over as many as it says.
Bytes ReceiveFrame(VirtioDriver& driver) {
  std::optional<UsedChain> used = driver.ring(kRx).PopUsed();
  if (!used.has_value()) return {};
  const uint16_t buffers = HeaderOf(used->bytes).num_buffers;
  Bytes frame(used->bytes.begin() + kPrefixBytes, used->bytes.begin() + used->written);
  for (uint16_t i = 1; i < buffers; ++i) {
    used = driver.ring(kRx).PopUsed();
    if (!used.has_value()) return {};
    frame.insert(frame.end(), used->bytes.begin(), used->bytes.begin() + used->written);
  }
  return frame;
}

Bytes WithoutPrefix(const Bytes& frame) { return Bytes(frame.begin() + kPrefixBytes, frame.end()); }

// ---- Configuration ----

TEST(VirtioNetTest, ConfigurationHasMacMtuAndLink) {
  Fixture f;
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 1), 2u);
  EXPECT_EQ(f.driver.ReadDeviceConfig(5, 1), 1u);
  EXPECT_EQ(f.driver.ReadDeviceConfig(offsetof(NetConfig, status), 2), kNetStatusLinkUp);
  EXPECT_EQ(f.driver.ReadDeviceConfig(offsetof(NetConfig, mtu), 2), 1500u);
  EXPECT_NE(f.driver.OfferedFeatures() & kNetFeatureMac, 0u);
}

TEST(VirtioNetTest, PortGetsTheOffloadsThatTheGuestAccepts) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureGuestCsum | kNetFeatureGuestTso4}));
  EXPECT_THAT(f.port().offloads, Are(true, true, false, false));
  f.driver.Reset();
  EXPECT_THAT(f.port().offloads, Are(false, false, false, false));
}

TEST(VirtioNetTest, OffloadsWithoutWhatTheyNeedAreRefused) {
  for (const uint64_t features :
       {kNetFeatureGuestTso4, kNetFeatureGuestTso6, kNetFeatureGuestCsum | kNetFeatureGuestEcn,
        kNetFeatureHostTso4, kNetFeatureHostTso6, kNetFeatureCsum | kNetFeatureHostEcn}) {
    Fixture f;
    EXPECT_FALSE(f.driver.Start({.features = features})) << features;
  }
}

// ---- From the guest ----

TEST(VirtioNetTest, SendsFramesWithTheirPrefix) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  Bytes frame = Frame(100);
  frame[0] = kNetHeaderNeedsChecksum;
  // Header alone, and data in two parts.
  const std::optional<UsedChain> used =
      f.driver.Send({Readable({frame.begin(), frame.begin() + 12}),
                     Readable({frame.begin() + 12, frame.begin() + 40}),
                     Readable({frame.begin() + 40, frame.end()})},
                    kTx);
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->written, 0u);
  EXPECT_THAT(f.port().from_guest, ElementsAre(frame));
  EXPECT_EQ(f.nic.device.stats().tx_packets, 1u);
  EXPECT_EQ(f.nic.device.stats().tx_bytes, 100u);
}

TEST(VirtioNetTest, FramesSentTogetherRaiseOneInterrupt) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  for (uint8_t i = 0; i < 10; ++i) f.driver.ring(kTx).Add({Readable(Frame(60, i))});
  f.driver.Run(kTx);
  EXPECT_THAT(f.port().from_guest, SizeIs(10));
  EXPECT_EQ(f.driver.TakeInterrupts(kTx), 1);
}

TEST(VirtioNetTest, FullPortHoldsTheGuestBackWithoutLoss) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.port().SetFull(true);
  for (uint8_t i = 0; i < 3; ++i) f.driver.ring(kTx).Add({Readable(Frame(60, i))});
  f.driver.Run(kTx);
  EXPECT_EQ(f.port().senders, 1);
  EXPECT_FALSE(f.driver.ring(kTx).PopUsed().has_value());
  f.port().SetFull(false);
  f.Run();
  EXPECT_THAT(f.port().from_guest, ElementsAre(Frame(60, 0), Frame(60, 1), Frame(60, 2)));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(f.driver.ring(kTx).PopUsed().has_value());
  EXPECT_EQ(f.nic.device.stats().tx_dropped, 0u);
}

TEST(VirtioNetTest, FramesThatAreNoneAreDropped) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  EXPECT_TRUE(f.driver.Send({ReadableZeros(11)}, kTx).has_value());
  EXPECT_TRUE(f.driver.Send({ReadableZeros(12)}, kTx).has_value());
  EXPECT_TRUE(f.driver.Send({Writable(100)}, kTx).has_value());
  f.port().refuse = true;
  EXPECT_TRUE(f.driver.Send({ReadableZeros(100)}, kTx).has_value());
  f.port().refuse = false;
  EXPECT_EQ(f.nic.device.stats().tx_dropped, 4u);
  EXPECT_TRUE(f.driver.Send({ReadableZeros(100)}, kTx).has_value());
  EXPECT_THAT(f.port().from_guest, SizeIs(1));
}

// ---- Towards the guest ----

struct RxKind {
  std::string name;
  uint64_t features;
};

class ReceiveTest : public testing::TestWithParam<RxKind> {};

TEST_P(ReceiveTest, FrameArrivesInItsBuffer) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = GetParam().features}));
  f.AddReceiveBuffers(4, 1600);
  f.port().Arrive(Frame(1000));
  f.Run();
  const std::optional<UsedChain> used = f.driver.ring(kRx).PopUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->written, 1012u);
  EXPECT_EQ(HeaderOf(used->bytes).num_buffers.value(), 1);
  const Bytes want = Frame(1000);
  EXPECT_TRUE(std::equal(want.begin() + 12, want.end(), used->bytes.begin() + 12));
  EXPECT_EQ(f.driver.TakeInterrupts(kRx), 1);
  EXPECT_EQ(f.nic.device.stats().rx_packets, 1u);
  EXPECT_EQ(f.nic.device.stats().rx_bytes, 1000u);
}

TEST_P(ReceiveTest, FramesWaitInThePortUntilTheGuestHasBuffers) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = GetParam().features}));
  for (uint8_t i = 0; i < 3; ++i) f.port().Arrive(Frame(60, i));
  f.Run();
  EXPECT_THAT(f.port().to_guest, SizeIs(3));
  f.AddReceiveBuffers(2, 1600);
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 0)));
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 1)));
  EXPECT_THAT(f.port().to_guest, SizeIs(1));
  f.AddReceiveBuffers(1, 1600);
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 2)));
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 0u);
}

TEST_P(ReceiveTest, FramesThatArriveTogetherRaiseOneInterrupt) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = GetParam().features}));
  f.AddReceiveBuffers(16, 1600);
  for (uint8_t i = 0; i < 12; ++i) f.port().Arrive(Frame(60, i));
  f.Run();
  EXPECT_EQ(f.driver.TakeInterrupts(kRx), 1);
  for (uint8_t i = 0; i < 12; ++i) {
    EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, i)));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, ReceiveTest,
    testing::Values(RxKind{"Plain", 0}, RxKind{"Merged", kNetFeatureMergeableRx},
                    RxKind{"EventIdx", kNetFeatureMergeableRx | kFeatureEventIdx},
                    RxKind{"Offloads", kNetFeatureMergeableRx | kNetFeatureGuestCsum |
                                           kNetFeatureGuestTso4 | kNetFeatureGuestTso6 |
                                           kFeatureIndirectDesc}),
    [](const auto& test) { return test.param.name; });

TEST(VirtioNetTest, MoreFramesThanIndicesHaveValues) {
  Fixture f;
  ASSERT_TRUE(
      f.driver.Start({.features = kNetFeatureMergeableRx | kFeatureEventIdx, .queue_size = 32}));
  f.AddReceiveBuffers(32, 100);
  for (uint32_t i = 0; i < 66000; i += 20) {
    for (uint8_t j = 0; j < 10; ++j) f.port().Arrive(Frame(150, j));  // Two buffers each.
    f.Run();
    for (uint8_t j = 0; j < 10; ++j) {
      ASSERT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(150, j))) << i;
    }
    f.AddReceiveBuffers(20, 100);
  }
  EXPECT_FALSE(f.nic.host.transport().needs_reset());
}

TEST(VirtioNetTest, LargeFrameIsSpreadOverMergedBuffers) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start(
      {.features = kNetFeatureMergeableRx | kNetFeatureGuestCsum | kNetFeatureGuestTso4,
       .queue_size = 64}));
  f.AddReceiveBuffers(60, 1500);
  f.port().Arrive(Frame(65000));
  f.port().Arrive(Frame(100, 9));
  f.Run();
  EXPECT_EQ(f.driver.ring(kRx).used_idx(), 44 + 1);  // 65012 bytes and 112.
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(65000)));
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(100, 9)));
}

TEST(VirtioNetTest, RestOfAFrameWaitsForTheGuestsBuffers) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureMergeableRx}));
  f.AddReceiveBuffers(2, 200);
  f.port().Arrive(Frame(1000));
  f.Run();
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());  // All or nothing.
  f.AddReceiveBuffers(1, 200);
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());
  f.AddReceiveBuffers(4, 300);
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(1000)));
  f.port().Arrive(Frame(200, 5));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(200, 5)));
}

TEST(VirtioNetTest, FrameLargerThanAllTheGuestCanHoldIsDropped) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureMergeableRx, .queue_size = 4}));
  f.AddReceiveBuffers(4, 200);
  f.port().Arrive(Frame(1000));
  f.port().Arrive(Frame(100, 7));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(100, 7)));
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 1u);
}

TEST(VirtioNetTest, WithoutMergingAFrameLargerThanItsBufferIsDropped) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.AddReceiveBuffers(2, 500);
  f.port().Arrive(Frame(1000));
  f.port().Arrive(Frame(488, 3));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(488, 3)));
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 1u);
}

TEST(VirtioNetTest, WithoutMergingALargeFrameFitsALargeChain) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start(
      {.features = kNetFeatureGuestCsum | kNetFeatureGuestTso4 | kFeatureIndirectDesc}));
  std::vector<Segment> segments = {Writable(12)};
  for (int i = 0; i < 17; ++i) segments.push_back(Writable(4096));
  f.driver.ring(kRx).Add(segments);
  f.driver.Run(kRx);
  f.port().Arrive(Frame(65000));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(65000)));
}

TEST(VirtioNetTest, FlagsReachOnlyAGuestThatAskedForThem) {
  Bytes frame = Frame(60);
  frame[0] = kNetHeaderDataValid;
  Fixture without;
  ASSERT_TRUE(without.driver.Start({}));
  without.AddReceiveBuffers(1, 1600);
  without.port().Arrive(frame);
  without.Run();
  EXPECT_EQ(HeaderOf(without.driver.ring(kRx).PopUsed()->bytes).flags, 0);
  Fixture with;
  ASSERT_TRUE(with.driver.Start({.features = kNetFeatureGuestCsum}));
  with.AddReceiveBuffers(1, 1600);
  with.port().Arrive(frame);
  with.Run();
  EXPECT_EQ(HeaderOf(with.driver.ring(kRx).PopUsed()->bytes).flags, kNetHeaderDataValid);
}

TEST(VirtioNetTest, FramesThatTheGuestDidNotAskForAreDropped) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureGuestCsum | kNetFeatureGuestTso4}));
  f.AddReceiveBuffers(4, 1600);
  Bytes frame = Frame(60);
  for (const uint8_t gso :
       {kNetGsoTcp6, static_cast<uint8_t>(kNetGsoTcp4 | kNetGsoEcn), uint8_t{3}}) {
    frame[1] = gso;
    f.port().Arrive(frame);
  }
  frame[0] = kNetHeaderNeedsChecksum;
  frame[1] = kNetGsoTcp4;
  f.port().Arrive(frame);
  f.Run();
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 3u);
  const std::optional<UsedChain> used = f.driver.ring(kRx).PopUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(HeaderOf(used->bytes).gso_type, kNetGsoTcp4);
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());

  Fixture plain;
  ASSERT_TRUE(plain.driver.Start({}));
  plain.AddReceiveBuffers(1, 1600);
  frame[1] = kNetGsoNone;
  plain.port().Arrive(frame);
  plain.Run();
  EXPECT_EQ(plain.nic.device.stats().rx_dropped, 1u);
}

TEST(VirtioNetTest, FrameSizesThatChangeAllTheTimeArriveWhole) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start(
      {.features = kNetFeatureMergeableRx | kNetFeatureGuestCsum | kNetFeatureGuestTso4,
       .queue_size = 256}));
  f.AddReceiveBuffers(256, 1536);
  uint32_t random = 1;
  for (int i = 0; i < 400; ++i) {
    random = random * 1664525 + 1013904223;
    const size_t bytes = 1 + (random >> 8) % ((random >> 30) == 0 ? 65000 : 2000);
    const uint16_t before = f.driver.ring(kRx).used_idx();
    f.port().Arrive(Frame(bytes, static_cast<uint8_t>(i)));
    f.Run();
    const auto used = static_cast<uint16_t>(f.driver.ring(kRx).used_idx() - before);
    ASSERT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(bytes, static_cast<uint8_t>(i)))) << i;
    f.AddReceiveBuffers(used, 1536);
  }
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 0u);
}

// ---- The link ----

TEST(VirtioNetTest, PulledCableIsToldAndFramesMeetNobody) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureStatus}));
  f.driver.TakeConfigInterrupts();
  f.nic.device.SetLink(false);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  EXPECT_EQ(f.driver.ReadDeviceConfig(offsetof(NetConfig, status), 2), 0u);
  f.AddReceiveBuffers(2, 1600);
  f.port().Arrive(Frame(60));
  EXPECT_TRUE(f.driver.Send({Readable(Frame(60))}, kTx).has_value());
  EXPECT_THAT(f.port().from_guest, SizeIs(0));
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 1u);
  EXPECT_EQ(f.nic.device.stats().tx_dropped, 1u);

  f.nic.device.SetLink(true);
  EXPECT_EQ(f.driver.TakeConfigInterrupts(), 1);
  f.port().Arrive(Frame(60, 4));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 4)));
}

// ---- Reset, pause and state ----

TEST(VirtioNetTest, ResetEndsBothDirectionsWhileTheyWait) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.AddReceiveBuffers(4, 1600);
  f.port().SetFull(true);
  f.driver.ring(kTx).Add({Readable(Frame(60))});
  f.driver.Run(kTx);
  ASSERT_EQ(f.port().receivers, 1);
  ASSERT_EQ(f.port().senders, 1);
  const std::shared_ptr<Parking> parking = f.driver.WriteStatus(0);
  f.Run();
  EXPECT_TRUE(parking->done());
  EXPECT_EQ(f.port().receivers, 0);
  EXPECT_EQ(f.port().senders, 0);
  f.port().SetFull(false);
  f.port().Arrive(Frame(60, 8));
  f.Run();
  EXPECT_THAT(f.port().to_guest, SizeIs(1));  // Nobody touches guest memory now.
  ASSERT_TRUE(f.driver.Start({}));
  f.AddReceiveBuffers(1, 1600);
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 8)));
}

TEST(VirtioNetTest, QuietDeviceHoldsNoBufferAndLosesNone) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureMergeableRx}));
  f.AddReceiveBuffers(4, 1600);
  f.port().SetFull(true);
  f.driver.ring(kTx).Add({Readable(Frame(60, 1))});
  f.driver.Run(kTx);
  f.loop->RunTask(f.nic.host.transport().Quiesce());
  f.port().SetFull(false);
  f.port().Arrive(Frame(60, 2));
  f.Run();
  EXPECT_THAT(f.port().from_guest, SizeIs(0));
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());
  f.nic.host.transport().Resume();
  f.Run();
  EXPECT_THAT(f.port().from_guest, ElementsAre(Frame(60, 1)));
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 2)));
}

TEST(VirtioNetTest, SavedMidFlightAndRestoredIntoAFreshObjectNothingIsLost) {
  Fixture f;
  const uint64_t features = kNetFeatureMergeableRx | kNetFeatureGuestCsum | kNetFeatureStatus |
                            kFeatureEventIdx | kFeatureIndirectDesc;
  ASSERT_TRUE(f.driver.Start({.features = features}));
  f.AddReceiveBuffers(6, 200);
  f.port().Arrive(Frame(300, 1));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(300, 1)));
  f.port().SetFull(true);
  f.driver.ring(kTx).Add({Readable(Frame(60, 2))});
  f.driver.Run(kTx);
  f.nic.device.SetLink(false);
  f.loop->RunTask(f.nic.host.transport().Quiesce());
  const EncodedState state = f.nic.host.transport().Save();

  Nic other(*f.loop, f.guest);
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  EXPECT_EQ(other.host.transport().Save().bytes, state.bytes);
  EXPECT_THAT(other.port->offloads, Are(true, false, false, false));
  f.driver.MoveTo(other.host);
  EXPECT_EQ(f.driver.ReadDeviceConfig(offsetof(NetConfig, status), 2), 0u);
  EXPECT_FALSE(other.device.link_up());
  other.device.SetLink(true);
  other.host.transport().Resume();
  other.port->Arrive(Frame(300, 3));
  f.Run();
  EXPECT_THAT(other.port->from_guest, ElementsAre(Frame(60, 2)));
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(300, 3)));
}

// ---- Hostile drivers ----

TEST(VirtioNetTest, ReceiveBufferSmallerThanTheHeaderAsksForReset) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.AddReceiveBuffers(1, 1600);
  f.AddReceiveBuffers(1, 11);
  f.port().Arrive(Frame(60, 1));
  f.Run();
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 1)));
  ASSERT_TRUE(f.driver.Start({}));
  f.AddReceiveBuffers(1, 1600);
  f.port().Arrive(Frame(60, 2));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60, 2)));
}

TEST(VirtioNetTest, ReceiveChainWithNothingToWriteAsksForReset) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.driver.ring(kRx).Add({ReadableZeros(1600)});
  f.driver.Run(kRx);
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
}

TEST(VirtioNetTest, BrokenTransmitRingLeavesReceptionAlone) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  f.AddReceiveBuffers(1, 1600);
  f.driver.ring(kTx).SetAvailableIdx(1000);
  f.driver.Kick(kTx);
  f.Run();
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
  f.port().Arrive(Frame(60));
  f.Run();
  EXPECT_EQ(ReceiveFrame(f.driver), WithoutPrefix(Frame(60)));
}

TEST(VirtioNetTest, RingThatBreaksWhileAFrameWaitsForBuffersDropsIt) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({.features = kNetFeatureMergeableRx}));
  f.AddReceiveBuffers(1, 200);
  f.port().Arrive(Frame(1000));
  f.Run();
  f.driver.ring(kRx).SetAvailableIdx(1000);
  f.driver.Kick(kRx);
  f.Run();
  EXPECT_NE(f.driver.status() & kStatusNeedsReset, 0);
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 1u);
  ASSERT_TRUE(f.driver.Start({}));
}

// ---- Dirty pages ----

TEST(VirtioNetTest, ReceivedBytesAreMarkedDirty) {
  Fixture f;
  ASSERT_TRUE(f.driver.Start({}));
  const GuestAddress buffer = f.guest.Allocate(2 * 4096, 4096);
  const uint64_t page = buffer.value() / 4096;
  f.driver.ring(kRx).Add({Segment{.writable_bytes = 2 * 4096, .at = buffer}});
  f.driver.Run(kRx);
  ASSERT_TRUE(f.guest.memory().dirty_log().Start().ok());
  f.port().Arrive(Frame(1000));
  f.Run();
  const std::vector<uint64_t> words = f.guest.memory().dirty_log().FetchAndClear(0);
  const auto is_dirty = [&words](uint64_t p) { return (words[p / 64] >> (p % 64) & 1) != 0; };
  EXPECT_TRUE(is_dirty(page));
  EXPECT_FALSE(is_dirty(page + 1));
}

}  // namespace
}  // namespace vireo::virtio
