#include "cmd/flag_scanner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vireo {
namespace {

using testing::ElementsAre;
using Kind = FlagSpec::Kind;

const std::vector<FlagSpec>& Specs() {
  static const auto& specs = *new std::vector<FlagSpec>{
      {"--api"}, {"--disk", Kind::kRepeatedValue}, {"--json", Kind::kSwitch}};
  return specs;
}

TEST(ScanArgs, TakesBothSpellingsOfAValue) {
  const auto args =
      ScanArgs({"--api", "unix:a", "--disk=path=x", "--disk", "--odd", "--json"}, Specs());
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_EQ(*args->Find("--api"), "unix:a");
  ASSERT_EQ(args->flags.size(), 4u);
  EXPECT_EQ(args->flags[1].value, "path=x");
  EXPECT_EQ(args->flags[2].value, "--odd");
  EXPECT_TRUE(args->Has("--json"));
}

TEST(ScanArgs, KeepsTheRest) {
  const auto args = ScanArgs({"info", "-", "--json", "--", "--api"}, Specs());
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_THAT(args->rest, ElementsAre("info", "-", "--api"));
  EXPECT_FALSE(args->Has("--api"));
}

struct Bad {
  std::vector<std::string> args;
  std::string want;
};
class BadArgs : public testing::TestWithParam<Bad> {};
TEST_P(BadArgs, NameTheFlag) {
  EXPECT_EQ(ScanArgs(GetParam().args, Specs()).status(),
            absl::InvalidArgumentError(GetParam().want));
}
INSTANTIATE_TEST_SUITE_P(ScanArgs, BadArgs,
                         testing::ValuesIn<Bad>({{{"--apo", "x"},
                                                  "--apo: unknown flag (did you mean --api?)"},
                                                 {{"--frobnicate=1"}, "--frobnicate: unknown flag"},
                                                 {{"-x"}, "-x: unknown flag"},
                                                 {{"--api"}, "--api: the value is missing"},
                                                 {{"--json=yes"}, "--json: takes no value"},
                                                 {{"--api", "a", "--api=b"}, "--api: given twice"},
                                                 {{"--json", "--json"}, "--json: given twice"}}));

}  // namespace
}  // namespace vireo
