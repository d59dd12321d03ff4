#include "storage/img/arguments.h"

#include <gtest/gtest.h>

namespace vireo::img {
namespace {

const std::vector<OptionSpec> kSpecs = {
    {'q', "quiet", false}, {'f', nullptr, true}, {0, "output", true}};

TEST(ArgumentsTest, TakesOptionsAnywhereAndInEveryForm) {
  const auto parsed =
      ParseArguments({"a", "-qf", "raw", "--output=json", "b", "-fqcow2", "--", "-q"}, kSpecs);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->operands, (std::vector<std::string>{"a", "b", "-q"}));
  EXPECT_TRUE(parsed->Has("q"));
  EXPECT_EQ(parsed->Value("f"), "qcow2");
  EXPECT_EQ(parsed->Value("output"), "json");
  EXPECT_EQ(ParseArguments({"--output", "human", "-"}, kSpecs)->operands,
            std::vector<std::string>{"-"});
}

TEST(ArgumentsTest, SaysWhatIsWrong) {
  EXPECT_EQ(ParseArguments({"-Z"}, kSpecs).status().message(), "unrecognized option '-Z'");
  EXPECT_EQ(ParseArguments({"--zzz=1"}, kSpecs).status().message(),
            "unrecognized option '--zzz=1'");
  EXPECT_FALSE(ParseArguments({"-f"}, kSpecs).ok());
  EXPECT_FALSE(ParseArguments({"--output"}, kSpecs).ok());
  EXPECT_FALSE(ParseArguments({"--quiet=yes"}, kSpecs).ok());
}

TEST(ArgumentsTest, KeyValuesKeepDoubledCommas) {
  const auto values = ParseKeyValues("a=1,b=x,,y,c,a=2");
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(*values, (std::map<std::string, std::string>{{"a", "2"}, {"b", "x,y"}, {"c", "on"}}));
  EXPECT_FALSE(ParseKeyValues("=1").ok());
}

TEST(ArgumentsTest, SwitchesAreOnOrOff) {
  EXPECT_TRUE(*ParseSwitch("k", "on"));
  EXPECT_FALSE(*ParseSwitch("k", "off"));
  EXPECT_FALSE(ParseSwitch("k", "maybe").ok());
}

}  // namespace
}  // namespace vireo::img
