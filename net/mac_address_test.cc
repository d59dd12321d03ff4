#include "net/mac_address.h"

#include <string>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(MacAddressTest, ParsesAndPrints) {
  const absl::StatusOr<MacAddress> mac = MacAddress::Parse("02:aB:00:FF:10:9c");
  ASSERT_TRUE(mac.ok()) << mac.status();
  EXPECT_EQ(mac->bytes(), (MacAddress::Bytes{0x02, 0xab, 0x00, 0xff, 0x10, 0x9c}));
  EXPECT_EQ(mac->ToString(), "02:ab:00:ff:10:9c");
}

TEST(MacAddressTest, ParsesDashes) {
  const absl::StatusOr<MacAddress> mac = MacAddress::Parse("02-00-00-00-00-01");
  ASSERT_TRUE(mac.ok()) << mac.status();
  EXPECT_EQ(mac->ToString(), "02:00:00:00:00:01");
}

class BadMacAddressTest : public testing::TestWithParam<std::string> {};

TEST_P(BadMacAddressTest, IsInvalid) {
  EXPECT_EQ(MacAddress::Parse(GetParam()).status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Malformed, BadMacAddressTest,
                         testing::Values("", "02:00:00:00:00", "02:00:00:00:00:1",
                                         "02:00:00:00:00:01:02", "02:00:00:00:00:0g",
                                         "02:00-00:00:00:01", "020000000001 abcd",
                                         "02.00.00.00.00.01", "2:00:00:00:00:001",
                                         " 2:00:00:00:00:01"));

TEST(MacAddressTest, GeneratesLocalUnicastAddressesThatDiffer) {
  const MacAddress one = MacAddress::GenerateLocal();
  const MacAddress two = MacAddress::GenerateLocal();
  EXPECT_TRUE(one.is_local() && two.is_local());
  EXPECT_FALSE(one.is_multicast() || two.is_multicast());
  EXPECT_NE(one, two);
}

TEST(MacAddressTest, GeneratesBridgePortAddressesAboveAllOthers) {
  const MacAddress port = MacAddress::GenerateForBridgePort();
  EXPECT_EQ(port.bytes()[0], 0xfe);
  EXPECT_FALSE(port.is_multicast());
}

}  // namespace
}  // namespace vireo
