#include "vmm/kvm/capabilities.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <string_view>

namespace vireo::kvm {
namespace {

using testing::HasSubstr;

TEST(CapabilitiesTest, AllThereIsOk) {
  EXPECT_TRUE(CheckRequiredCapabilities([](int) { return 1; }).ok());
}

class MissingCapabilityTest : public testing::TestWithParam<Capability> {};

TEST_P(MissingCapabilityTest, IsNamed) {
  const absl::Status status = CheckRequiredCapabilities(
      [](int capability) { return capability == GetParam().number ? 0 : 1; });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(GetParam().name)));
}

INSTANTIATE_TEST_SUITE_P(EachOne, MissingCapabilityTest,
                         testing::ValuesIn(RequiredCapabilities().begin(),
                                           RequiredCapabilities().end()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CapabilitiesTest, AllThatAreMissingAreNamedAtOnce) {
  const absl::Status status = CheckRequiredCapabilities([](int) { return 0; });
  EXPECT_THAT(std::string(status.message()), HasSubstr("KVM_CAP_IRQCHIP"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("KVM_CAP_IMMEDIATE_EXIT"));
}

// The numbers are ABI: a table made from a wrong header would differ.
TEST(CapabilitiesTest, NumbersAreTheKernels) {
  std::map<std::string_view, int> numbers;
  for (const Capability& capability : RequiredCapabilities()) {
    numbers[capability.name] = capability.number;
  }
  EXPECT_EQ(numbers.at("KVM_CAP_IRQCHIP"), 0);
  EXPECT_EQ(numbers.at("KVM_CAP_IRQFD"), 32);
  EXPECT_EQ(numbers.at("KVM_CAP_IMMEDIATE_EXIT"), 136);
}

}  // namespace
}  // namespace vireo::kvm
