#include "cmd/flag_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

TEST(ParseSize, TakesBytesAndSuffixes) {
  EXPECT_EQ(*ParseSize("0"), 0u);
  EXPECT_EQ(*ParseSize("4097"), 4097u);
  EXPECT_EQ(*ParseSize("4K"), 4096u);
  EXPECT_EQ(*ParseSize("512m"), uint64_t{512} << 20);
  EXPECT_EQ(*ParseSize("2G"), uint64_t{2} << 30);
  EXPECT_EQ(*ParseSize("1t"), uint64_t{1} << 40);
  EXPECT_EQ(*ParseSize("18446744073709551615"), UINT64_MAX);
}

class BadSize : public testing::TestWithParam<std::string> {};
TEST_P(BadSize, IsRefused) {
  const absl::Status status = ParseSize(GetParam()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + GetParam() + "\" is not a size"));
}
INSTANTIATE_TEST_SUITE_P(ParseSize, BadSize,
                         testing::Values("", "K", "12Q", "1.5G", "-1", "+1", " 1", "1 ", "2GB",
                                         "18446744073709551616", "16777216T", "0x10"));

TEST(ParseNumber, KeepsToItsRange) {
  EXPECT_EQ(*ParseNumber("1", 1, 64), 1u);
  EXPECT_EQ(*ParseNumber("64", 1, 64), 64u);
  for (const char* bad : {"0", "65", "", "x", "-1", "1x", "99999999999999999999"}) {
    const absl::Status status = ParseNumber(bad, 1, 64).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is not a number from 1 to 64"));
  }
}

TEST(ParseOnOff, TakesNothingElse) {
  EXPECT_TRUE(*ParseOnOff("on"));
  EXPECT_FALSE(*ParseOnOff("off"));
  EXPECT_EQ(ParseOnOff("yes").status(),
            absl::InvalidArgumentError("\"yes\" is not known; use on or off"));
}

TEST(ParseTimeLimit, TakesSecondsOrUnits) {
  EXPECT_EQ(*ParseTimeLimit("90"), absl::Seconds(90));
  EXPECT_EQ(*ParseTimeLimit("500ms"), absl::Milliseconds(500));
  EXPECT_EQ(*ParseTimeLimit("1m30s"), absl::Seconds(90));
  EXPECT_EQ(*ParseTimeLimit("0"), absl::ZeroDuration());
  for (const char* bad : {"", "-1s", "-0", "1us", "soon", "inf", "99999999999"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseTimeLimit(bad).status())) << bad;
  }
}

TEST(ParseKeyValues, SplitsAtCommas) {
  EXPECT_THAT(*ParseKeyValues("path=a.raw,format=raw", {"path", "format"}),
              ElementsAre(Pair("format", "raw"), Pair("path", "a.raw")));
}

TEST(ParseKeyValues, TwoCommasAreOneWithinAValue) {
  EXPECT_THAT(*ParseKeyValues("path=a,,b=c,format=raw", {"path", "format"}),
              ElementsAre(Pair("format", "raw"), Pair("path", "a,b=c")));
}

TEST(ParseKeyValues, LeadingPartMayStandAlone) {
  EXPECT_THAT(*ParseKeyValues("2G,max=4G", {"size", "max"}, "size"),
              ElementsAre(Pair("max", "4G"), Pair("size", "2G")));
  EXPECT_THAT(*ParseKeyValues("max=4G,size=2G", {"size", "max"}, "size"),
              ElementsAre(Pair("max", "4G"), Pair("size", "2G")));
}

struct BadList {
  std::string text;
  std::string want;
};
class BadKeyValues : public testing::TestWithParam<BadList> {};
TEST_P(BadKeyValues, AreRefused) {
  const absl::Status status = ParseKeyValues(GetParam().text, {"path", "format"}).status();
  EXPECT_EQ(status, absl::InvalidArgumentError(GetParam().want));
}
INSTANTIATE_TEST_SUITE_P(
    ParseKeyValues, BadKeyValues,
    testing::ValuesIn<BadList>({{"paht=x", "key \"paht\" is not known; use path, format"},
                                {"path", "key \"path\" has no value; write path=VALUE"},
                                {"path=a,path=b", "key \"path\" is given twice"},
                                {"", "key \"\" is not known; use path, format"},
                                {"path=a,", "key \"\" is not known; use path, format"},
                                {"=a", "key \"\" is not known; use path, format"}}));

TEST(DidYouMean, OffersTheNearestOnly) {
  EXPECT_EQ(DidYouMean("--memroy", {"--memory", "--name"}), " (did you mean --memory?)");
  EXPECT_EQ(DidYouMean("--kernal", {"--kernel"}), " (did you mean --kernel?)");
  EXPECT_EQ(DidYouMean("--frobnicate", {"--memory", "--name"}), "");
}

}  // namespace
}  // namespace vireo
