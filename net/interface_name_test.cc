#include "net/interface_name.h"

#include <string>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(InterfaceNameTest, TakesFifteenBytes) {
  EXPECT_TRUE(CheckInterfaceName("tap", "abcdefghijklmno").ok());
  EXPECT_TRUE(CheckInterfaceName("tap", "vnet0.100-x_y").ok());
}

TEST(InterfaceNameTest, SaysHowLongATooLongNameIs) {
  const absl::Status status = CheckInterfaceName("tap", "abcdefghijklmnop");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "tap \"abcdefghijklmnop\": the name has 16 bytes, an interface name at most 15");
}

class BadInterfaceNameTest : public testing::TestWithParam<std::string> {};

TEST_P(BadInterfaceNameTest, IsInvalid) {
  EXPECT_EQ(CheckInterfaceName("tap", GetParam()).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Names, BadInterfaceNameTest,
                         testing::Values("", ".", "..", "a/b", "a b", "a:b", "tap%d", "a\tb",
                                         "a\x7f"));

}  // namespace
}  // namespace vireo
