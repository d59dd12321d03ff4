#include "vmm/x86/load_kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "vmm/x86/layout.h"
#include "vmm/x86/test_support.h"

namespace vireo::x86 {
namespace {

absl::StatusOr<BootEntry> Load(const Bytes& kernel) {
  const TestGuest guest = MakeGuest(64 << 20);
  const TestFile file("a-kernel", kernel);
  return LoadKernel({.memory = *guest.memory,
                     .layout = guest.layout,
                     .kernel = file.input(),
                     .initrd = std::nullopt,
                     .command_line = ""});
}

TEST(LoadKernelTest, EachKindIsEnteredItsWay) {
  EXPECT_EQ(Load(MakeBzImage())->mode, BootEntry::Mode::kLong64);
  EXPECT_EQ(Load(MakePvhElf())->mode, BootEntry::Mode::kPvh32);
}

TEST(LoadKernelTest, AnythingElseIsRefused) {
  const absl::Status status = Load(Bytes(100000, 0x55)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              testing::StartsWith("a-kernel: not a bzImage or PVH ELF kernel"));
}

}  // namespace
}  // namespace vireo::x86
