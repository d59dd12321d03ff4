// Netlink and bridges, against the kernel, in a network namespace of the test's own.

#include "net/bridge.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "net/net_test_namespace.h"
#include "net/netlink.h"

namespace vireo {
namespace {

class BridgeTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string lacking = EnterFreshNetworkNamespace();
    if (!lacking.empty()) GTEST_SKIP() << lacking;
    absl::StatusOr<Netlink> opened = Netlink::Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    netlink_.emplace(*std::move(opened));
  }

  std::optional<Netlink> netlink_;
};

TEST_F(BridgeTest, FindsTheLoopbackInterface) {
  const absl::StatusOr<Link> link = netlink_->FindLink("lo");
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(link->index, 1);
  EXPECT_EQ(link->name, "lo");
  EXPECT_EQ(link->mtu, 65536u);
  EXPECT_EQ(link->kind, "");
  EXPECT_FALSE(link->up);
}

TEST_F(BridgeTest, AnAbsentInterfaceIsNotFound) {
  EXPECT_EQ(netlink_->FindLink("nobody0").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(netlink_->FindLink("").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(netlink_->FindLink("a-name-that-is-too-long").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(BridgeTest, MakesConfiguresAndDeletesABridge) {
  ASSERT_TRUE(CreateBridge(*netlink_, "br0").ok());
  absl::StatusOr<Link> bridge = FindBridge(*netlink_, "br0");
  ASSERT_TRUE(bridge.ok()) << bridge.status();
  EXPECT_EQ(bridge->kind, "bridge");
  EXPECT_EQ(bridge->mtu, 1500u);
  EXPECT_FALSE(bridge->up);

  const MacAddress mac = MacAddress::GenerateLocal();
  EXPECT_TRUE(netlink_->SetMtu(bridge->index, 9000).ok());
  EXPECT_TRUE(netlink_->SetMac(bridge->index, mac).ok());
  EXPECT_TRUE(netlink_->SetUp(bridge->index).ok());
  bridge = FindBridge(*netlink_, "br0");
  ASSERT_TRUE(bridge.ok()) << bridge.status();
  EXPECT_EQ(bridge->mtu, 9000u);
  EXPECT_EQ(bridge->mac, mac);
  EXPECT_TRUE(bridge->up);

  EXPECT_TRUE(netlink_->DeleteLink(bridge->index).ok());
  EXPECT_EQ(FindBridge(*netlink_, "br0").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(BridgeTest, ASecondBridgeOfThatNameAlreadyExists) {
  ASSERT_TRUE(CreateBridge(*netlink_, "br0").ok());
  const absl::Status status = CreateBridge(*netlink_, "br0");
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(StatusErrno(status), EEXIST);
}

TEST_F(BridgeTest, SomethingElseIsNotABridge) {
  const absl::Status status = FindBridge(*netlink_, "lo").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "bridge \"lo\": is not a bridge");
}

TEST_F(BridgeTest, APortJoinsAndLeaves) {
  ASSERT_TRUE(CreateBridge(*netlink_, "br0").ok());
  const absl::StatusOr<Link> bridge = FindBridge(*netlink_, "br0");
  ASSERT_TRUE(bridge.ok()) << bridge.status();
  // Any Ethernet interface will do for a port.
  const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request = {};
  std::strncpy(request.ifr_name, "port0", IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  ASSERT_EQ(::ioctl(tun.get(), TUNSETIFF, &request), 0) << std::strerror(errno);

  absl::StatusOr<Link> port = netlink_->FindLink("port0");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_EQ(port->kind, "tun");
  EXPECT_TRUE(JoinBridge(*netlink_, *bridge, port->index).ok());
  EXPECT_EQ(netlink_->FindLink("port0")->master, bridge->index);
  EXPECT_TRUE(netlink_->SetMaster(port->index, 0).ok());
  EXPECT_EQ(netlink_->FindLink("port0")->master, 0);
}

TEST_F(BridgeTest, ErrorsOfTheKernelArriveWithTheirErrno) {
  EXPECT_EQ(StatusErrno(netlink_->SetMtu(4711, 1500)), ENODEV);
  EXPECT_EQ(StatusErrno(netlink_->DeleteLink(4711)), ENODEV);
}

}  // namespace
}  // namespace vireo
