#include "vmm/x86/cmdline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo::x86 {
namespace {

using testing::HasSubstr;

TEST(CommandLineTest, PartsAreJoinedBySpaces) {
  EXPECT_EQ(*AssembleCommandLine("console=ttyS0 quiet", std::vector<std::string>{"a=1", "b"}),
            "console=ttyS0 quiet a=1 b");
  EXPECT_EQ(*AssembleCommandLine("", std::vector<std::string>{"a=1"}), "a=1");
  EXPECT_EQ(*AssembleCommandLine("  x  "), "x");
  EXPECT_EQ(*AssembleCommandLine(""), "");
}

TEST(CommandLineTest, WhatIsConfiguredWins) {
  EXPECT_EQ(*AssembleCommandLine("root=/dev/vdb  ro", std::vector<std::string>{"root=/dev/vda"}),
            "root=/dev/vdb  ro");
  EXPECT_EQ(*AssembleCommandLine("rootwait", std::vector<std::string>{"root=/dev/vda"}),
            "rootwait root=/dev/vda");
}

TEST(CommandLineTest, NulAndLineBreaksAreRefused) {
  EXPECT_EQ(AssembleCommandLine(std::string_view("a\0b", 3)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AssembleCommandLine("a\nb").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CommandLineTest, LimitIsExact) {
  EXPECT_TRUE(CheckCommandLine(std::string(2047, 'x'), 2047, "vmlinuz").ok());
  const absl::Status status = CheckCommandLine(std::string(2048, 'x'), 2047, "vmlinuz");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("2048 bytes, vmlinuz takes at most 2047"));
}

}  // namespace
}  // namespace vireo::x86
