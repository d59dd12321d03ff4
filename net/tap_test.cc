// Taps against the kernel, in a network namespace of the test's own. Frames travel between two taps
// over a bridge.

#include "net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/async/task_scope.h"
#include "base/event_fd.h"
#include "base/status.h"
#include "gtest/gtest.h"
#include "net/bridge.h"
#include "net/net_test_namespace.h"
#include "net/netlink.h"

namespace vireo {
namespace {

constexpr size_t kEthernetHeader = 14;

// A broadcast frame of an experimental type (IEEE 802: 0x88b5), so that nobody answers it.
std::vector<uint8_t> Frame(uint8_t seed, size_t payload) {
  std::vector<uint8_t> frame(PacketPort::kPrefixBytes + kEthernetHeader + payload);
  uint8_t* const ethernet = frame.data() + PacketPort::kPrefixBytes;
  std::fill(ethernet, ethernet + 6, 0xff);
  const MacAddress source(MacAddress::Bytes{0x02, 0, 0, 0, 0, seed});
  std::copy(source.bytes().begin(), source.bytes().end(), ethernet + 6);
  ethernet[12] = 0x88;
  ethernet[13] = 0xb5;
  std::iota(ethernet + kEthernetHeader, frame.data() + frame.size(), seed);
  return frame;
}

bool IsOurs(std::span<const uint8_t> frame, size_t prefix_bytes = PacketPort::kPrefixBytes) {
  const size_t type = prefix_bytes + 12;
  return frame.size() > type + 1 && frame[type] == 0x88 && frame[type + 1] == 0xb5;
}

// A tap made by somebody else.
UniqueFd OpenForeignTap(const char* name, int flags) {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request = {};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(flags);
  EXPECT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
  return fd;
}

class TapTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string lacking = EnterFreshNetworkNamespace();
    if (!lacking.empty()) GTEST_SKIP() << lacking;
    absl::StatusOr<Netlink> netlink = Netlink::Open();
    ASSERT_TRUE(netlink.ok()) << netlink.status();
    netlink_.emplace(*std::move(netlink));
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create();
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
  }

  void MakeBridge(const std::string& name, uint32_t mtu) {
    ASSERT_TRUE(CreateBridge(*netlink_, name).ok());
    const absl::StatusOr<Link> bridge = FindBridge(*netlink_, name);
    ASSERT_TRUE(bridge.ok()) << bridge.status();
    ASSERT_TRUE(netlink_->SetMtu(bridge->index, mtu).ok());
    ASSERT_TRUE(netlink_->SetUp(bridge->index).ok());
  }
  std::unique_ptr<Tap> MakeTap(const TapOptions& options) {
    absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Create(*loop_, options);
    EXPECT_TRUE(tap.ok()) << tap.status();
    return tap.ok() ? *std::move(tap) : nullptr;
  }
  absl::Status CreateError(const TapOptions& options) {
    return Tap::Create(*loop_, options).status();
  }
  bool Exists(const std::string& name) { return netlink_->FindLink(name).ok(); }

  // The next frame of Frame()'s kind; the kernel's own (IPv6 and multicast reports) are passed
  // over.
  Task<void> ReceiveOurs(Tap* tap, StopToken stop, absl::StatusOr<std::vector<uint8_t>>* result) {
    while (true) {
      std::vector<uint8_t> buffer(70000);
      const iovec vector = {buffer.data(), buffer.size()};
      const absl::StatusOr<size_t> received = co_await tap->Receive(IoVecs(&vector, 1), stop);
      if (!received.ok()) {
        *result = received.status();
        co_return;
      }
      buffer.resize(*received);
      if (!IsOurs(buffer)) continue;
      *result = std::move(buffer);
      co_return;
    }
  }

  std::optional<Netlink> netlink_;
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(TapTest, ExistsUpUntilDestroyed) {
  std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0"});
  ASSERT_NE(tap, nullptr);
  const absl::StatusOr<Link> link = netlink_->FindLink("vtap0");
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(link->kind, "tun");
  EXPECT_EQ(link->mtu, 1500u);
  EXPECT_TRUE(link->up);
  EXPECT_EQ(link->master, 0);
  EXPECT_EQ(tap->name(), "vtap0");
  EXPECT_EQ(tap->mtu(), 1500);
  EXPECT_TRUE(tap->link_up());

  tap.reset();
  EXPECT_FALSE(Exists("vtap0"));
}

TEST_F(TapTest, JoinsTheBridgeAndTakesItsMtu) {
  MakeBridge("br0", 1400);
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0", .bridge = "br0"});
  ASSERT_NE(tap, nullptr);
  const absl::StatusOr<Link> link = netlink_->FindLink("vtap0");
  ASSERT_TRUE(link.ok()) << link.status();
  const absl::StatusOr<Link> bridge = FindBridge(*netlink_, "br0");
  ASSERT_TRUE(bridge.ok()) << bridge.status();
  EXPECT_EQ(link->master, bridge->index);
  EXPECT_EQ(link->mtu, 1400u);
  EXPECT_EQ(bridge->mtu, 1400u);
  EXPECT_EQ(tap->mtu(), 1400);
}

TEST_F(TapTest, TheConfiguredMtuWins) {
  MakeBridge("br0", 9000);
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0", .bridge = "br0", .mtu = 1450});
  ASSERT_NE(tap, nullptr);
  EXPECT_EQ(netlink_->FindLink("vtap0")->mtu, 1450u);
  EXPECT_EQ(tap->mtu(), 1450);
}

TEST_F(TapTest, TheBridgeKeepsTheAddressOfItsOtherPorts) {
  MakeBridge("br0", 1500);
  const MacAddress uplink_mac(MacAddress::Bytes{0x02, 0, 0, 0, 0, 1});
  const UniqueFd uplink = OpenForeignTap("uplink", IFF_TAP | IFF_NO_PI);
  const absl::StatusOr<Link> link = netlink_->FindLink("uplink");
  ASSERT_TRUE(link.ok()) << link.status();
  ASSERT_TRUE(netlink_->SetMac(link->index, uplink_mac).ok());
  ASSERT_TRUE(JoinBridge(*netlink_, *FindBridge(*netlink_, "br0"), link->index).ok());
  ASSERT_EQ(FindBridge(*netlink_, "br0")->mac, uplink_mac);

  for (int i = 0; i < 8; ++i) {
    const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0", .bridge = "br0"});
    EXPECT_EQ(FindBridge(*netlink_, "br0")->mac, uplink_mac);
  }
}

TEST_F(TapTest, ATakenNameAlreadyExists) {
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0"});
  const absl::Status status = CreateError({.name = "vtap0"});
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(std::string(status.message()),
            "tap \"vtap0\": a network interface of that name exists");
  EXPECT_TRUE(Exists("vtap0"));
}

TEST_F(TapTest, TheNameOfAnotherKindOfInterfaceAlreadyExists) {
  EXPECT_EQ(CreateError({.name = "lo"}).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(TapTest, ATooLongNameIsInvalid) {
  EXPECT_EQ(CreateError({.name = "a-very-long-name"}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateError({.name = "tap%d"}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Exists("tap0"));
}

TEST_F(TapTest, AnAbsentBridgeIsNamedAndNothingIsLeft) {
  const absl::Status status = CreateError({.name = "vtap0", .bridge = "nobr0"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(status.message()),
            "tap \"vtap0\": bridge \"nobr0\": no such network interface on this host");
  EXPECT_FALSE(Exists("vtap0"));
}

TEST_F(TapTest, SomethingElseThanABridgeIsInvalidAndNothingIsLeft) {
  const absl::Status status = CreateError({.name = "vtap0", .bridge = "lo"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Exists("vtap0"));
}

TEST_F(TapTest, AnImpossibleMtuIsRefusedAndNothingIsLeft) {
  EXPECT_EQ(CreateError({.name = "vtap0", .mtu = 67}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Exists("vtap0"));
}

TEST_F(TapTest, AKilledProcessLeavesNothing) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Create(*loop_, {.name = "vtap0"});
    ::_exit(tap.ok() && Exists("vtap0") ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(Exists("vtap0"));
}

TEST_F(TapTest, FramesTravelOverTheBridge) {
  MakeBridge("br0", 1500);
  const std::unique_ptr<Tap> left = MakeTap({.name = "left", .bridge = "br0"});
  const std::unique_ptr<Tap> right = MakeTap({.name = "right", .bridge = "br0"});
  ASSERT_TRUE(left != nullptr && right != nullptr);
  std::vector<uint8_t> frame = Frame(7, 1000);
  const iovec vector = {frame.data(), frame.size()};
  ASSERT_TRUE(left->TrySend(IoVecs(&vector, 1)).ok());

  absl::StatusOr<std::vector<uint8_t>> received = absl::UnknownError("");
  loop_->RunTask(ReceiveOurs(right.get(), StopToken(), &received));
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(*received, frame);
}

TEST_F(TapTest, ReceiveWaitsForAFrame) {
  MakeBridge("br0", 1500);
  const std::unique_ptr<Tap> left = MakeTap({.name = "left", .bridge = "br0"});
  const std::unique_ptr<Tap> right = MakeTap({.name = "right", .bridge = "br0"});
  ASSERT_TRUE(left != nullptr && right != nullptr);
  TaskScope scope(*loop_);
  absl::StatusOr<std::vector<uint8_t>> received = absl::UnknownError("none yet");
  scope.Spawn(ReceiveOurs(right.get(), scope.stop_token(), &received));
  loop_->RunUntilIdle();
  EXPECT_EQ(scope.size(), 1u);

  std::vector<uint8_t> frame = Frame(9, 60);
  const iovec vector = {frame.data(), frame.size()};
  EXPECT_TRUE(loop_->RunTask(left->Send(IoVecs(&vector, 1), StopToken())).ok());
  loop_->RunTask(scope.Join());
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(*received, frame);
}

TEST_F(TapTest, AStoppedReceiveIsCancelled) {
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0"});
  ASSERT_NE(tap, nullptr);
  TaskScope scope(*loop_);
  absl::StatusOr<std::vector<uint8_t>> received = absl::UnknownError("none yet");
  scope.Spawn(ReceiveOurs(tap.get(), scope.stop_token(), &received));
  loop_->RunUntilIdle();
  scope.RequestStop();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(received.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(TapTest, AnEmptyQueueIsUnavailableWithoutAMessage) {
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0"});
  ASSERT_NE(tap, nullptr);
  std::array<uint8_t, 70000> buffer;
  const iovec vector = {buffer.data(), buffer.size()};
  absl::StatusOr<size_t> received = size_t{0};
  while (received.ok()) received = tap->TryReceive(IoVecs(&vector, 1));  // The kernel's own.
  EXPECT_EQ(received.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(received.status().message().empty());
}

TEST_F(TapTest, AFrameInMorePiecesThanOneCallTakesIsWhole) {
  MakeBridge("br0", 1500);
  const std::unique_ptr<Tap> left = MakeTap({.name = "left", .bridge = "br0"});
  const std::unique_ptr<Tap> right = MakeTap({.name = "right", .bridge = "br0"});
  ASSERT_TRUE(left != nullptr && right != nullptr);
  std::vector<uint8_t> frame = Frame(3, 1400);
  std::vector<iovec> pieces;
  for (uint8_t& byte : frame) pieces.push_back({&byte, 1});
  ASSERT_GT(pieces.size(), 1024u);
  ASSERT_TRUE(left->TrySend(pieces).ok());

  std::vector<uint8_t> buffer(1600);
  std::vector<iovec> room;
  for (uint8_t& byte : buffer) room.push_back({&byte, 1});
  std::vector<uint8_t> received;
  while (!IsOurs(received)) {
    const absl::StatusOr<size_t> bytes = loop_->RunTask(right->Receive(room, StopToken()));
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    received.assign(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(*bytes));
  }
  EXPECT_EQ(received, frame);
}

TEST_F(TapTest, ANonsensePrefixFailsOnlyThatFrame) {
  MakeBridge("br0", 1500);
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0", .bridge = "br0"});
  ASSERT_NE(tap, nullptr);
  std::vector<uint8_t> bad = Frame(1, 100);
  bad[1] = 0x77;  // gso_type
  const iovec bad_vector = {bad.data(), bad.size()};
  EXPECT_EQ(tap->TrySend(IoVecs(&bad_vector, 1)).code(), absl::StatusCode::kInvalidArgument);
  std::vector<uint8_t> good = Frame(1, 100);
  const iovec good_vector = {good.data(), good.size()};
  EXPECT_TRUE(tap->TrySend(IoVecs(&good_vector, 1)).ok());
}

TEST_F(TapTest, OffloadsAreTakenAndGivenBack) {
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0"});
  ASSERT_NE(tap, nullptr);
  EXPECT_TRUE(tap->SetOffloads({.checksum = true}).ok());
  EXPECT_TRUE(
      tap->SetOffloads({.checksum = true, .tso4 = true, .tso6 = true, .tso_ecn = true}).ok());
  // Without checksums the others mean nothing; the kernel would refuse them.
  EXPECT_TRUE(tap->SetOffloads({.tso4 = true}).ok());
  EXPECT_TRUE(tap->SetOffloads({}).ok());
}

TEST_F(TapTest, AShorterPrefixIsForAllFramesAlsoThoseThatWait) {
  MakeBridge("br0", 1500);
  const std::unique_ptr<Tap> left = MakeTap({.name = "left", .bridge = "br0"});
  const std::unique_ptr<Tap> right = MakeTap({.name = "right", .bridge = "br0"});
  ASSERT_TRUE(left != nullptr && right != nullptr);
  constexpr size_t kShort = 10;
  constexpr size_t kLeftOut = PacketPort::kPrefixBytes - kShort;
  std::vector<uint8_t> frame = Frame(7, 1000);
  const iovec whole = {frame.data(), frame.size()};
  const iovec shorter = {frame.data() + kLeftOut, frame.size() - kLeftOut};
  ASSERT_TRUE(right->TrySend(IoVecs(&whole, 1)).ok());
  ASSERT_TRUE(left->SetPrefixBytes(kShort).ok());

  std::vector<uint8_t> buffer(2000);
  const iovec vector = {buffer.data(), buffer.size()};
  size_t bytes = 0;
  do {  // The kernel's own frames are passed over.
    const absl::StatusOr<size_t> received =
        loop_->RunTask(left->Receive(IoVecs(&vector, 1), StopToken()));
    ASSERT_TRUE(received.ok()) << received.status();
    bytes = *received;
  } while (!IsOurs(std::span(buffer).first(bytes), kShort));
  ASSERT_EQ(bytes, shorter.iov_len);
  EXPECT_TRUE(
      std::equal(frame.begin() + PacketPort::kPrefixBytes, frame.end(), buffer.begin() + kShort));

  ASSERT_TRUE(left->TrySend(IoVecs(&shorter, 1)).ok());
  absl::StatusOr<std::vector<uint8_t>> sent = absl::UnknownError("");
  loop_->RunTask(ReceiveOurs(right.get(), StopToken(), &sent));
  ASSERT_TRUE(sent.ok()) << sent.status();
  EXPECT_EQ(*sent, frame);
}

TEST_F(TapTest, AnImpossiblePrefixIsRefused) {
  const std::unique_ptr<Tap> tap = MakeTap({.name = "vtap0"});
  ASSERT_NE(tap, nullptr);
  EXPECT_FALSE(tap->SetPrefixBytes(9).ok());
}

TEST_F(TapTest, AnOpenTapIsTakenOverAsItIs) {
  MakeBridge("br0", 1500);
  const std::unique_ptr<Tap> left = MakeTap({.name = "left", .bridge = "br0"});
  UniqueFd fd = OpenForeignTap("foreign0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  const absl::StatusOr<Link> link = netlink_->FindLink("foreign0");
  ASSERT_TRUE(link.ok()) << link.status();
  ASSERT_TRUE(netlink_->SetMtu(link->index, 1300).ok());
  ASSERT_TRUE(JoinBridge(*netlink_, *FindBridge(*netlink_, "br0"), link->index).ok());
  ASSERT_TRUE(netlink_->SetUp(link->index).ok());

  const absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Adopt(*loop_, std::move(fd));
  ASSERT_TRUE(tap.ok()) << tap.status();
  EXPECT_EQ((*tap)->name(), "foreign0");
  EXPECT_EQ((*tap)->mtu(), 1300);
  EXPECT_TRUE((*tap)->link_up());

  std::vector<uint8_t> frame = Frame(5, 200);
  const iovec vector = {frame.data(), frame.size()};
  ASSERT_TRUE(left->TrySend(IoVecs(&vector, 1)).ok());
  absl::StatusOr<std::vector<uint8_t>> received = absl::UnknownError("");
  loop_->RunTask(ReceiveOurs(tap->get(), StopToken(), &received));
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(*received, frame);
}

TEST_F(TapTest, ADescriptorThatIsNoTapIsRefused) {
  absl::StatusOr<EventFd> event = EventFd::Create();
  ASSERT_TRUE(event.ok()) << event.status();
  UniqueFd fd(::fcntl(event->fd(), F_DUPFD_CLOEXEC, 0));
  EXPECT_EQ(Tap::Adopt(*loop_, std::move(fd)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TapTest, ATapWithoutTheOffloadPrefixIsRefused) {
  UniqueFd fd = OpenForeignTap("foreign0", IFF_TAP | IFF_NO_PI);
  const absl::Status status = Tap::Adopt(*loop_, std::move(fd)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(std::string(status.message()), "without IFF_VNET_HDR")) << status;
}

TEST_F(TapTest, ATunIsRefused) {
  UniqueFd fd = OpenForeignTap("foreign0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
  EXPECT_EQ(Tap::Adopt(*loop_, std::move(fd)).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vireo
