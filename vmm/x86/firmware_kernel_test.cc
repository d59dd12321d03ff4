#include "vmm/x86/firmware_kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "vmm/x86/layout.h"
#include "vmm/x86/test_support.h"

namespace vireo::x86 {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

Layout WithMemory(uint64_t bytes) {
  return *MakeLayout({.memory_bytes = bytes, .physical_address_bits = 40});
}

class FirmwareKernelTest : public testing::Test {
 protected:
  absl::StatusOr<FirmwareKernel> Prepare(std::string_view command_line = "console=ttyS0") {
    const TestFile kernel("the-kernel", kernel_);
    std::optional<TestFile> initrd;
    std::optional<InputFile> input;
    if (initrd_bytes_.has_value()) {
      initrd.emplace("the-initrd", Bytes(*initrd_bytes_, 7));
      input.emplace(initrd->input());
    }
    return PrepareFirmwareKernel(layout_, kernel.input(), input, command_line);
  }
  void ExpectRefused(const std::string& begin, const std::string& part) {
    const absl::Status status = Prepare().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), StartsWith(begin));
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }

  Layout layout_ = WithMemory(64 * kMiB);
  Bytes kernel_ = MakeBzImage();
  std::optional<size_t> initrd_bytes_;
};

TEST_F(FirmwareKernelTest, TellsTheRealModePartWhereEverythingIs) {
  initrd_bytes_ = 5000;
  const absl::StatusOr<FirmwareKernel> kernel = Prepare();
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  ASSERT_EQ(kernel->setup.size(), kBzImagePayloadOffset);
  EXPECT_EQ(GetAt<uint32_t>(kernel->setup, 0x228), kernel->command_line_address);
  EXPECT_EQ(GetAt<uint32_t>(kernel->setup, 0x218), kernel->initrd_address);
  EXPECT_EQ(GetAt<uint32_t>(kernel->setup, 0x21c), 5000u);
  EXPECT_EQ(GetAt<uint8_t>(kernel->setup, 0x210), 0xff);
  EXPECT_EQ(GetAt<uint8_t>(kernel->setup, 0x211) & 0x81, 0x81);
  // Heap and stack end where the command line begins.
  EXPECT_LT(kernel->setup_address + GetAt<uint16_t>(kernel->setup, 0x224),
            kernel->command_line_address);
  EXPECT_EQ(kernel->payload_offset, kBzImagePayloadOffset);
  EXPECT_EQ(kernel->payload_bytes, kBzImagePayloadBytes);
  EXPECT_EQ(kernel->payload_address, kMiB);
  EXPECT_EQ(kernel->command_line,
            Bytes({'c', 'o', 'n', 's', 'o', 'l', 'e', '=', 't', 't', 'y', 'S', '0', 0}));
  // As high as it can be beneath what a BIOS keeps.
  EXPECT_EQ(kernel->initrd_address % 4096, 0u);
  EXPECT_LE(kernel->initrd_address + 5000, 63 * kMiB);
  EXPECT_GT(kernel->initrd_address + 5000 + 4096, 63 * kMiB);
}

TEST_F(FirmwareKernelTest, ASignatureBehindTheKernelIsPartOfIt) {
  kernel_.resize(kernel_.size() + 100);
  EXPECT_EQ(Prepare()->payload_bytes, kBzImagePayloadBytes + 100);
}

TEST_F(FirmwareKernelTest, TheInitrdStaysWhereTheKernelReachesIt) {
  layout_ = WithMemory(2048 * kMiB);
  initrd_bytes_ = 4096;
  PutAt<uint32_t>(kernel_, 0x22c, 0x37ffffff);
  EXPECT_EQ(Prepare()->initrd_address, 0x38000000u - 4096);
}

TEST_F(FirmwareKernelTest, WithoutAnInitrdThereIsNone) {
  const absl::StatusOr<FirmwareKernel> kernel = Prepare();
  EXPECT_EQ(kernel->initrd_bytes, 0u);
  EXPECT_EQ(GetAt<uint32_t>(kernel->setup, 0x21c), 0u);
}

TEST_F(FirmwareKernelTest, RefusesAnElf) {
  kernel_ = MakePvhElf();
  ExpectRefused("the-kernel: ", "not a bzImage");
}

TEST_F(FirmwareKernelTest, RefusesAnInitrdThatDoesNotFit) {
  initrd_bytes_ = 46 * kMiB;
  ExpectRefused("the-initrd: ", "48234496 bytes");
  initrd_bytes_ = 0;
  ExpectRefused("the-initrd: ", "empty");
}

TEST_F(FirmwareKernelTest, RefusesAKernelThatDoesNotFit) {
  layout_ = WithMemory(32 * kMiB);
  PutAt<uint32_t>(kernel_, 0x260, 16 * kMiB);
  ExpectRefused("the-kernel: ", "does not fit");
}

TEST_F(FirmwareKernelTest, RefusesACommandLineThatIsTooLong) {
  EXPECT_EQ(Prepare(std::string(2048, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Prepare(std::string(2047, 'x')).ok());
}

TEST_F(FirmwareKernelTest, RefusesARealModePartThatIsTooLong) {
  PutAt<uint8_t>(kernel_, 0x1f1, 64);
  kernel_.resize(65 * 512 + kBzImagePayloadBytes);
  ExpectRefused("the-kernel: ", "real-mode part");
}

}  // namespace
}  // namespace vireo::x86
