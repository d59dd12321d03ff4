// A NIC for a driver from before virtio 1.0: a header of 10 bytes, or of 12 when buffers are
// merged.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "base/state.h"
#include "devices/pci/config_space.h"
#include "devices/virtio/net.h"
#include "devices/virtio/spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "net/packet_port.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/fake_packet_port.h"
#include "tests/support/legacy_driver.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr uint16_t kRx = VirtioNet::kReceiveQueue;
constexpr uint16_t kTx = VirtioNet::kTransmitQueue;
constexpr size_t kPrefixBytes = PacketPort::kPrefixBytes;  // Of frames at the port's other end.
using Bytes = std::vector<uint8_t>;

struct Nic {
  Nic(EventLoop& loop, FakeGuestMemory& guest)
      : port(new FakePort()),
        device(loop, guest.memory(), std::unique_ptr<PacketPort>(port),
               {.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500}),
        host(device, loop, VirtioHost::Options{.transitional = true}) {}

  FakePort* const port;
  VirtioNet device;
  VirtioHost host;
};

struct Fixture {
  FakePort& port() { return *nic.port; }
  void AddReceiveBuffers(int count, uint32_t bytes) {
    for (int i = 0; i < count; ++i) driver.ring(kRx).Add({Writable(bytes)});
    driver.Run(kRx);
  }

  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  FakeGuestMemory guest;
  Nic nic{*loop, guest};
  LegacyDriver driver{nic.host, guest};
};

Bytes Payload(size_t bytes, uint8_t first) {
  Bytes payload(bytes);
  for (size_t i = 0; i < bytes; ++i) payload[i] = static_cast<uint8_t>(first + i % 251);
  return payload;
}

// As the port has it.
Bytes Frame(const Bytes& payload, uint8_t flags = 0, uint8_t gso_type = 0) {
  Bytes frame(kPrefixBytes);
  frame[0] = flags;
  frame[1] = gso_type;
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

struct Kind {
  std::string name;
  uint32_t features;
  size_t header_bytes;
};

class LegacyNetTest : public testing::TestWithParam<Kind> {
 protected:
  // As the guest has it.
  static Bytes GuestFrame(const Bytes& payload, uint8_t flags = 0) {
    Bytes frame(GetParam().header_bytes);
    frame[0] = flags;
    frame.insert(frame.end(), payload.begin(), payload.end());
    return frame;
  }
  // The next frame that arrived, without its header: over as many buffers as it says.
  static Bytes ReceiveFrame(LegacyDriver& driver) {
    std::optional<UsedChain> used = driver.ring(kRx).PopUsed();
    if (!used.has_value()) return {};
    const size_t header_bytes = GetParam().header_bytes;
    Bytes frame(used->bytes.begin() + static_cast<ptrdiff_t>(header_bytes),
                used->bytes.begin() + used->written);
    Le16 buffers = uint16_t{1};
    if (header_bytes == sizeof(NetHeader)) {
      std::memcpy(&buffers, used->bytes.data() + offsetof(NetHeader, num_buffers), 2);
    }
    for (uint16_t i = 1; i < buffers; ++i) {
      used = driver.ring(kRx).PopUsed();
      if (!used.has_value()) return {};
      frame.insert(frame.end(), used->bytes.begin(), used->bytes.begin() + used->written);
    }
    return frame;
  }
};

TEST_P(LegacyNetTest, FramesGoBothWays) {
  Fixture f;
  f.driver.Start({.features = GetParam().features});
  EXPECT_EQ(f.port().prefix_bytes, GetParam().header_bytes);
  const Bytes sent = Payload(100, 1);
  const std::optional<UsedChain> used = f.driver.Send({Readable(GuestFrame(sent))}, kTx);
  ASSERT_TRUE(used.has_value());
  EXPECT_THAT(f.port().from_guest, ElementsAre(Frame(sent)));
  EXPECT_EQ(f.nic.device.stats().tx_bytes, 100u);

  f.AddReceiveBuffers(4, 1600);
  f.port().Arrive(Frame(Payload(1000, 5)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(1000, 5));
  EXPECT_EQ(f.nic.device.stats().rx_bytes, 1000u);
  EXPECT_EQ(f.driver.ReadIsr(), kIsrQueue);
}

TEST_P(LegacyNetTest, HeaderMayBeADescriptorOfItsOwn) {
  Fixture f;
  f.driver.Start({.features = GetParam().features});
  const Bytes frame = GuestFrame(Payload(60, 3), kNetHeaderNeedsChecksum);
  const auto split = frame.begin() + static_cast<ptrdiff_t>(GetParam().header_bytes);
  f.driver.Send({Readable({frame.begin(), split}), Readable({split, frame.end()})}, kTx);
  EXPECT_THAT(f.port().from_guest, ElementsAre(Frame(Payload(60, 3), kNetHeaderNeedsChecksum)));

  const auto header_bytes = static_cast<uint32_t>(GetParam().header_bytes);
  f.driver.ring(kRx).Add({Writable(header_bytes), Writable(1514)});
  f.driver.Run(kRx);
  f.port().Arrive(Frame(Payload(1514, 9)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(1514, 9));
}

TEST_P(LegacyNetTest, NothingButAHeaderIsNoFrameAndLessIsNoBuffer) {
  Fixture f;
  f.driver.Start({.features = GetParam().features});
  EXPECT_TRUE(f.driver.Send({ReadableZeros(GetParam().header_bytes)}, kTx).has_value());
  EXPECT_THAT(f.port().from_guest, IsEmpty());
  EXPECT_TRUE(f.driver.Send({ReadableZeros(GetParam().header_bytes + 1)}, kTx).has_value());
  EXPECT_THAT(f.port().from_guest, SizeIs(1));
  f.AddReceiveBuffers(1, static_cast<uint32_t>(GetParam().header_bytes) - 1);
  EXPECT_TRUE(f.nic.host.transport().needs_reset());
}

TEST_P(LegacyNetTest, OffloadsAreAsNegotiated) {
  Fixture f;
  f.driver.Start({.features = static_cast<uint32_t>(GetParam().features | kNetFeatureGuestCsum |
                                                    kNetFeatureGuestTso4)});
  EXPECT_TRUE(f.port().offloads.checksum);
  EXPECT_TRUE(f.port().offloads.tso4);
  EXPECT_FALSE(f.port().offloads.tso6);
  f.driver.ring(kRx).Add({Writable(70000)});
  f.driver.ring(kRx).Add({Writable(70000)});
  f.driver.Run(kRx);
  f.port().Arrive(Frame(Payload(60000, 2), kNetHeaderNeedsChecksum, kNetGsoTcp4));
  f.port().Arrive(Frame(Payload(60, 3), kNetHeaderNeedsChecksum, kNetGsoTcp6));  // Not accepted.
  f.loop->RunUntilIdle();
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(60000, 2));
  EXPECT_FALSE(f.driver.ring(kRx).PopUsed().has_value());
  EXPECT_EQ(f.nic.device.stats().rx_dropped, 1u);
}

TEST_P(LegacyNetTest, BuffersPostedBeforeDriverOkReceive) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge({.features = GetParam().features});
  f.driver.SetUpQueues();
  f.AddReceiveBuffers(2, 1600);
  f.port().Arrive(Frame(Payload(60, 4)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(60, 4));
}

// What Linux until 2009 does.
TEST_P(LegacyNetTest, BuffersPostedBeforeTheFeaturesAreSaidAreFilledAsTheseSay) {
  Fixture f;
  f.driver.Reset();
  f.driver.Acknowledge({});
  f.driver.SetUpQueues();
  f.AddReceiveBuffers(2, 1600);
  EXPECT_EQ(f.port().prefix_bytes, kNetLegacyHeaderBytes);
  f.nic.host.Wait(f.driver.WriteFeatures(GetParam().features));
  f.driver.SetDriverOk();
  EXPECT_EQ(f.port().prefix_bytes, GetParam().header_bytes);
  f.port().Arrive(Frame(Payload(60, 4)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(60, 4));
}

TEST_P(LegacyNetTest, SavedMidFlightAndRestoredIntoAFreshObjectNothingIsLost) {
  Fixture f;
  f.driver.Start({.features = GetParam().features});
  f.AddReceiveBuffers(4, 1600);
  f.port().Arrive(Frame(Payload(60, 1)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(60, 1));
  f.port().SetFull(true);
  f.driver.ring(kTx).Add({Readable(GuestFrame(Payload(60, 2)))});
  f.driver.Run(kTx);
  f.loop->RunTask(f.nic.host.transport().Quiesce());
  const EncodedState state = f.nic.host.transport().Save();

  Nic other(*f.loop, f.guest);
  f.loop->RunTask(other.host.transport().Quiesce());
  ASSERT_TRUE(other.host.transport().Restore(state).ok());
  EXPECT_EQ(other.host.transport().Save().bytes, state.bytes);
  EXPECT_EQ(other.port->prefix_bytes, GetParam().header_bytes);
  f.driver.MoveTo(other.host);
  other.host.transport().Resume();
  other.port->Arrive(Frame(Payload(60, 3)));
  f.loop->RunUntilIdle();
  EXPECT_THAT(other.port->from_guest, ElementsAre(Frame(Payload(60, 2))));
  EXPECT_EQ(ReceiveFrame(f.driver), Payload(60, 3));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, LegacyNetTest,
    testing::Values(Kind{"Plain", 0, 10}, Kind{"AnyLayout", kFeatureAnyLayout, 10},
                    Kind{"EventIdx", kFeatureEventIdx | kFeatureIndirectDesc, 10},
                    Kind{"Merged", kNetFeatureMergeableRx, 12},
                    Kind{"MergedEventIdx", kNetFeatureMergeableRx | kFeatureEventIdx, 12}),
    [](const auto& test) { return test.param.name; });

TEST(LegacyNicTest, IdentifiesItselfAsATransitionalNic) {
  Fixture f;
  EXPECT_EQ(f.nic.host.ReadConfig(pci::kDeviceId, 2), 0x1000u);
  EXPECT_EQ(f.nic.host.ReadConfig(pci::kRevisionId, 1), 0u);
  EXPECT_EQ(f.nic.host.ReadConfig(pci::kSubsystemId, 2), 1u);
  EXPECT_EQ(f.nic.host.ReadConfig(pci::kClassCode + 2, 1), 0x02u);
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 4), 2u);  // The MAC address.
}

TEST(LegacyNicTest, FrameIsSpreadOverMergedBuffers) {
  Fixture f;
  f.driver.Start({.features = kNetFeatureMergeableRx});
  f.AddReceiveBuffers(8, 200);
  f.port().Arrive(Frame(Payload(1000, 1)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.ring(kRx).used_idx(), 6);  // 1012 bytes.
}

TEST(LegacyNicTest, WithMsixEachDirectionHasItsVector) {
  Fixture f;
  f.driver.Start({.msix = true});
  f.driver.Send({ReadableZeros(100)}, kTx);
  EXPECT_EQ(f.driver.TakeInterrupts(kTx), 1);
  f.AddReceiveBuffers(1, 1600);
  f.port().Arrive(Frame(Payload(60, 1)));
  f.loop->RunUntilIdle();
  EXPECT_EQ(f.driver.TakeInterrupts(kRx), 1);
  EXPECT_EQ(f.driver.ReadDeviceConfig(0, 4), 2u);
}

TEST(LegacyNicTest, ModernDriverAfterALegacyOneHasItsLongHeader) {
  Fixture f;
  f.driver.Start({});
  ASSERT_EQ(f.port().prefix_bytes, 10u);
  VirtioDriver modern(f.nic.host, f.guest);
  ASSERT_TRUE(modern.Start({}));
  EXPECT_EQ(f.port().prefix_bytes, 12u);
  Bytes frame = Frame(Payload(60, 1));
  modern.Send({Readable(frame)}, kTx);
  EXPECT_THAT(f.port().from_guest, ElementsAre(frame));
}

TEST(LegacyNicTest, PortThatCannotFollowTheHeaderAsksForReset) {
  Fixture f;
  f.port().refuse_prefix = true;
  f.driver.Start({});
  EXPECT_TRUE(f.nic.host.transport().needs_reset());
  f.driver.Send({ReadableZeros(100)}, kTx);
  EXPECT_THAT(f.port().from_guest, IsEmpty());
  f.port().refuse_prefix = false;
  f.driver.Start({});
  f.driver.Send({ReadableZeros(100)}, kTx);
  EXPECT_THAT(f.port().from_guest, SizeIs(1));
}

}  // namespace
}  // namespace vireo::virtio
