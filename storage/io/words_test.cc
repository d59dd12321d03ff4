#include "storage/io/words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>

#include "storage/io/options.h"

namespace vireo::io {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(WordsTest, ReadsNumbers) {
  EXPECT_EQ(*ParseNumber("512"), 512);
  EXPECT_EQ(*ParseNumber("0x200"), 512);
  EXPECT_EQ(*ParseNumber("64k"), 65536);
  EXPECT_EQ(*ParseNumber("1.5M"), 3 << 19);
  EXPECT_EQ(*ParseNumber("7E"), int64_t{7} << 60);
  EXPECT_EQ(*ParseNumber("9223372036854775807"), std::numeric_limits<int64_t>::max());
  for (const char* wrong : {"", "x", "-1", "1x", "1.5", "0x1k", "1kk", " 1", "1 "}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseNumber(wrong).status())) << wrong;
  }
  for (const char* large : {"9223372036854775808", "8E", "99999999999999999999"}) {
    EXPECT_TRUE(absl::IsOutOfRange(ParseNumber(large).status())) << large;
  }
}

TEST(WordsTest, ReadsPatterns) {
  EXPECT_EQ(ParsePattern("0xcd"), 0xcd);
  EXPECT_EQ(ParsePattern("010"), 8);
  EXPECT_EQ(ParsePattern("256"), std::nullopt);
  EXPECT_EQ(ParsePattern("-1"), std::nullopt);
  EXPECT_EQ(ParsePattern(""), std::nullopt);
}

TEST(WordsTest, WritesSizesAndTimes) {
  EXPECT_EQ(FormatSize(512), "512 bytes");
  EXPECT_EQ(FormatSize(1536), "1.500 KiB");
  EXPECT_EQ(FormatSize(1 << 20), "1 MiB");
  EXPECT_EQ(FormatSize(28.286888), "28.286888 bytes");
  EXPECT_EQ(FormatTime(absl::Milliseconds(20), TimeForm::kPlain), "00.02 sec");
  EXPECT_EQ(FormatTime(absl::Seconds(2317), TimeForm::kPlain), "0:38:37.00");
  EXPECT_EQ(FormatTime(absl::Milliseconds(20), TimeForm::kFixed), "0:00:00.02");
}

TEST(WordsTest, SplitsLines) {
  EXPECT_THAT(SplitWords("  read   0  1 "), ElementsAre("read", "0", "1"));
  EXPECT_THAT(SplitWords("   "), IsEmpty());
}

TEST(OptionsTest, ReadsWhatGetoptReads) {
  const absl::StatusOr<Options> options =
      Options::Parse({"read", "0", "-qP", "5", "-v", "1k", "-P7", "--", "-x"}, "qvP:");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_TRUE(options->Has('q'));
  EXPECT_EQ(options->Value('P'), "7");
  EXPECT_EQ(options->Value('x'), std::nullopt);
  EXPECT_THAT(options->operands(), ElementsAre("0", "1k", "-x"));
}

TEST(OptionsTest, SaysWhatGetoptSays) {
  EXPECT_EQ(Options::Parse({"read", "-z"}, "q").status().message(), "read: invalid option -- 'z'");
  EXPECT_EQ(Options::Parse({"read", "-:"}, "P:").status().message(), "read: invalid option -- ':'");
  EXPECT_EQ(Options::Parse({"read", "-P"}, "P:").status().message(),
            "read: option requires an argument -- 'P'");
}

}  // namespace
}  // namespace vireo::io
