#include "storage/img/size.h"

#include <gtest/gtest.h>

namespace vireo::img {
namespace {

TEST(SizeTest, ReadsWhatPeopleWrite) {
  EXPECT_EQ(ParseSize("0"), 0u);
  EXPECT_EQ(ParseSize("1000"), 1000u);
  EXPECT_EQ(ParseSize("100b"), 100u);
  EXPECT_EQ(ParseSize("64k"), 65536u);
  EXPECT_EQ(ParseSize("64M"), 64u << 20);
  EXPECT_EQ(ParseSize("1.5G"), uint64_t{3} << 29);
  EXPECT_EQ(ParseSize("0x10"), 16u);
  EXPECT_EQ(ParseSize("7E"), uint64_t{7} << 60);
}

TEST(SizeTest, RefusesEverythingElse) {
  for (const char* text : {"", "-5", "M", "1Q", "1MB", "1.5", "0x", "0x1k", " 1", "8E",
                           "99999999999999999999", "20000000000G"}) {
    EXPECT_EQ(ParseSize(text), std::nullopt) << text;
  }
}

TEST(SizeTest, WritesThreeDigits) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(512), "512 B");
  EXPECT_EQ(FormatSize(999), "999 B");
  EXPECT_EQ(FormatSize(1000), "0.977 KiB");
  EXPECT_EQ(FormatSize(200704), "196 KiB");
  EXPECT_EQ(FormatSize(uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(FormatSize(uint64_t{1} << 60), "1 EiB");
}

}  // namespace
}  // namespace vireo::img
