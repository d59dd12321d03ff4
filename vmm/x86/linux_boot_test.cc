#include "vmm/x86/linux_boot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "vmm/x86/e820.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/test_support.h"

namespace vireo::x86 {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

TEST(ParseBzImageTest, FieldsOfAGoodOne) {
  const Bytes image = MakeBzImage();
  const BzImage parsed = *ParseBzImage(image, image.size(), "k");
  EXPECT_EQ(parsed.version, 0x20f);
  EXPECT_EQ(parsed.payload_offset, kBzImagePayloadOffset);
  EXPECT_EQ(parsed.payload_bytes, kBzImagePayloadBytes);
  EXPECT_EQ(parsed.preferred_address, kBzImageAddress);
  EXPECT_EQ(parsed.init_size, kBzImageInitSize);
  EXPECT_EQ(parsed.alignment, 0x200000u);
  EXPECT_EQ(parsed.command_line_limit, 2047u);
  EXPECT_EQ(parsed.setup_header.size(), 0x26c - 0x1f1u);
  EXPECT_TRUE(parsed.initrd_above_4g);
}

TEST(ParseBzImageTest, NoSetupSectorsStandForFour) {
  Bytes image = MakeBzImage();
  PutAt<uint8_t>(image, 0x1f1, 0);
  image.resize(5 * 512 + kBzImagePayloadBytes);
  EXPECT_EQ(ParseBzImage(image, image.size(), "k")->payload_offset, 5u * 512);
}

struct BadBzImage {
  const char* name;
  std::function<void(Bytes&)> spoil;
  absl::StatusCode code;
  const char* says;
};
class BadBzImageTest : public testing::TestWithParam<BadBzImage> {};

TEST_P(BadBzImageTest, IsRefusedSayingWhy) {
  Bytes image = MakeBzImage();
  GetParam().spoil(image);
  const absl::Status status = ParseBzImage(image, image.size(), "the-kernel").status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith("the-kernel: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    Malformed, BadBzImageTest,
    testing::Values(
        BadBzImage{"NoSignature", [](Bytes& b) { b[0x202] = 'X'; }, kInvalid, "not a bzImage"},
        BadBzImage{"NoBootFlag", [](Bytes& b) { b[0x1fe] = 0; }, kInvalid, "not a bzImage"},
        BadBzImage{"AnElf", [](Bytes& b) { b = MakePvhElf(); }, kInvalid, "not a bzImage"},
        BadBzImage{"EndsInHeader", [](Bytes& b) { b.resize(0x240); }, kInvalid, "setup header"},
        BadBzImage{"OldProtocol", [](Bytes& b) { PutAt<uint16_t>(b, 0x206, 0x20b); },
                   kUnimplemented, "2.11"},
        BadBzImage{"ShortHeader", [](Bytes& b) { b[0x201] = 0x10; }, kInvalid, "setup header"},
        BadBzImage{"LongHeader", [](Bytes& b) { b[0x201] = 0xff; }, kInvalid, "setup header"},
        BadBzImage{"Only32Bits", [](Bytes& b) { PutAt<uint16_t>(b, 0x236, 2); }, kUnimplemented,
                   "32-bit"},
        BadBzImage{"ZImage", [](Bytes& b) { b[0x211] = 0; }, kUnimplemented, "zImage"},
        BadBzImage{"NoPayload", [](Bytes& b) { PutAt<uint32_t>(b, 0x1f4, 0); }, kInvalid,
                   "0 bytes"},
        BadBzImage{"Truncated", [](Bytes& b) { b.pop_back(); }, kInvalid, "truncated"},
        BadBzImage{"HugeSize", [](Bytes& b) { PutAt<uint32_t>(b, 0x1f4, 0xffffffff); }, kInvalid,
                   "truncated"},
        BadBzImage{"ManySectors", [](Bytes& b) { b[0x1f1] = 0xff; }, kInvalid, "truncated"},
        BadBzImage{"OddAlignment", [](Bytes& b) { PutAt<uint32_t>(b, 0x230, 3); }, kInvalid,
                   "kernel_alignment"},
        BadBzImage{"AddressTooLow", [](Bytes& b) { PutAt<uint64_t>(b, 0x258, 0x8000); }, kInvalid,
                   "0x8000"},
        BadBzImage{"AddressWraps", [](Bytes& b) { PutAt<uint64_t>(b, 0x258, ~uint64_t{0} - 4096); },
                   kInvalid, "wants to be loaded"}),
    [](const auto& info) { return std::string(info.param.name); });

class LoadBzImageTest : public testing::Test {
 protected:
  absl::StatusOr<BootEntry> Load(const TestGuest& guest, const Bytes& kernel,
                                 const Bytes* initrd = nullptr,
                                 std::string command_line = "quiet") {
    const TestFile kernel_file("vmlinuz", kernel);
    std::optional<TestFile> initrd_file;
    DirectBoot boot = {.memory = *guest.memory,
                       .layout = guest.layout,
                       .kernel = kernel_file.input(),
                       .initrd = std::nullopt,
                       .command_line = command_line,
                       .rsdp = 0xe0000};
    if (initrd == nullptr) return LoadBzImage(boot);
    initrd_file.emplace("initrd.img", *initrd);
    DirectBoot with_initrd = {.memory = boot.memory,
                              .layout = boot.layout,
                              .kernel = boot.kernel,
                              .initrd = initrd_file->input(),
                              .command_line = boot.command_line,
                              .rsdp = boot.rsdp};
    return LoadBzImage(with_initrd);
  }
};

TEST_F(LoadBzImageTest, KernelCommandLineAndParametersAreInPlace) {
  const TestGuest guest = MakeGuest(64 * kMiB);
  const Bytes image = MakeBzImage();
  const absl::StatusOr<BootEntry> entry = Load(guest, image);
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(*entry, (BootEntry{.mode = BootEntry::Mode::kLong64,
                               .rip = kBzImageAddress + 0x200,
                               .argument = kBootParamsAddress}));
  EXPECT_EQ(ReadGuest(*guest.memory, kBzImageAddress, kBzImagePayloadBytes),
            Bytes(image.begin() + kBzImagePayloadOffset, image.end()));
  EXPECT_EQ(ReadGuest(*guest.memory, kCommandLineAddress, 6), (Bytes{'q', 'u', 'i', 'e', 't', 0}));

  const Bytes params = ReadGuest(*guest.memory, kBootParamsAddress, 4096);
  EXPECT_EQ(GetAt<uint64_t>(params, 0x70), 0xe0000u);              // acpi_rsdp_addr
  EXPECT_EQ(GetAt<uint8_t>(params, 0x1ef), 0);                     // sentinel
  EXPECT_EQ(GetAt<uint8_t>(params, 0x210), 0xff);                  // type_of_loader
  EXPECT_EQ(GetAt<uint32_t>(params, 0x228), kCommandLineAddress);  // cmd_line_ptr
  EXPECT_EQ(GetAt<uint32_t>(params, 0x21c), 0u);                   // ramdisk_size
  EXPECT_EQ(Bytes(params.begin() + 0x230, params.begin() + 0x26c),
            Bytes(image.begin() + 0x230, image.begin() + 0x26c));
  const std::vector<E820Entry> map = BuildE820(guest.layout);
  ASSERT_EQ(GetAt<uint8_t>(params, 0x1e8), map.size());
  for (size_t i = 0; i < map.size(); ++i) {
    EXPECT_EQ(GetAt<uint64_t>(params, 0x2d0 + 20 * i), map[i].base);
    EXPECT_EQ(GetAt<uint64_t>(params, 0x2d0 + 20 * i + 8), map[i].size);
    EXPECT_EQ(GetAt<uint32_t>(params, 0x2d0 + 20 * i + 16), static_cast<uint32_t>(map[i].type));
  }
}

TEST_F(LoadBzImageTest, InitrdLiesAsHighAsItCan) {
  const TestGuest guest = MakeGuest(64 * kMiB);
  const Bytes initrd(5000, 0x5a);
  ASSERT_TRUE(Load(guest, MakeBzImage(), &initrd).ok());
  const Bytes params = ReadGuest(*guest.memory, kBootParamsAddress, 4096);
  const uint32_t address = GetAt<uint32_t>(params, 0x218);
  EXPECT_EQ(address, 64 * kMiB - 8192);
  EXPECT_EQ(GetAt<uint32_t>(params, 0x21c), 5000u);
  EXPECT_EQ(ReadGuest(*guest.memory, address, 5000), initrd);
}

TEST_F(LoadBzImageTest, InitrdKeepsToTheKernelsLimit) {
  const TestGuest guest = MakeGuest(64 * kMiB);
  Bytes image = MakeBzImage();
  PutAt<uint16_t>(image, 0x236, 1);          // Not above 4 GiB: initrd_addr_max holds.
  PutAt<uint32_t>(image, 0x22c, 0x1ffffff);  // 32 MiB
  const Bytes initrd(4096, 0x5a);
  ASSERT_TRUE(Load(guest, image, &initrd).ok());
  const Bytes params = ReadGuest(*guest.memory, kBootParamsAddress, 4096);
  EXPECT_EQ(GetAt<uint32_t>(params, 0x218), 32 * kMiB - 4096);
}

TEST_F(LoadBzImageTest, InitrdThatFitsExactlyIsTaken) {
  const TestGuest guest = MakeGuest(32 * kMiB);
  const Bytes initrd(32 * kMiB - kBzImageAddress - kBzImageInitSize, 1);
  EXPECT_TRUE(Load(guest, MakeBzImage(), &initrd).ok());
}

TEST_F(LoadBzImageTest, InitrdThatDoesNotFitIsToldInBytes) {
  const TestGuest guest = MakeGuest(32 * kMiB);
  const Bytes initrd(32 * kMiB - kBzImageAddress - kBzImageInitSize + 1, 1);
  const absl::Status status = Load(guest, MakeBzImage(), &initrd).status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("initrd.img: the initrd does not fit: it needs 14680065 bytes, the guest's "
                        "memory has 14680064"));
}

TEST_F(LoadBzImageTest, EmptyInitrdIsRefused) {
  const Bytes initrd;
  EXPECT_EQ(Load(MakeGuest(32 * kMiB), MakeBzImage(), &initrd).status().code(), kInvalid);
}

TEST_F(LoadBzImageTest, KernelThatDoesNotFitIsRefused) {
  Bytes image = MakeBzImage();
  PutAt<uint32_t>(image, 0x260, 17 << 20);
  const absl::Status status = Load(MakeGuest(32 * kMiB), image).status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vmlinuz: the kernel does not fit"));
}

TEST_F(LoadBzImageTest, CommandLineUpToTheKernelsLimit) {
  const TestGuest guest = MakeGuest(32 * kMiB);
  EXPECT_TRUE(Load(guest, MakeBzImage(), nullptr, std::string(2047, 'x')).ok());
  EXPECT_EQ(Load(guest, MakeBzImage(), nullptr, std::string(2048, 'x')).status().code(), kInvalid);
}

TEST_F(LoadBzImageTest, HugeCommandLineLimitStaysWithinItsArea) {
  Bytes image = MakeBzImage();
  PutAt<uint32_t>(image, 0x238, 0xffffffff);
  const TestGuest guest = MakeGuest(32 * kMiB);
  EXPECT_TRUE(Load(guest, image, nullptr, std::string(kCommandLineAreaBytes - 1, 'x')).ok());
  EXPECT_EQ(Load(guest, image, nullptr, std::string(kCommandLineAreaBytes, 'x')).status().code(),
            kInvalid);
}

}  // namespace
}  // namespace vireo::x86
