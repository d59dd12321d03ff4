#include "vmm/x86/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo::x86 {
namespace {

using testing::ElementsAre;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

TEST(LayoutTest, SmallGuestIsOneRange) {
  const Layout layout = *MakeLayout({.memory_bytes = 256 * kMiB, .physical_address_bits = 40});
  EXPECT_THAT(layout.Ram(), ElementsAre(AddressRange{0, 256 * kMiB}));
  EXPECT_EQ(layout.hotplug.size, 0u);
  EXPECT_EQ(layout.pci32, (AddressRange{0xc0000000, 0xfec00000 - 0xc0000000}));
  EXPECT_EQ(layout.pci64.base, k4GiB);
}

TEST(LayoutTest, MemoryUpToTheHoleStaysBelowIt) {
  const Layout layout = *MakeLayout({.memory_bytes = kLowRamLimit, .physical_address_bits = 40});
  EXPECT_THAT(layout.Ram(), ElementsAre(AddressRange{0, kLowRamLimit}));
}

TEST(LayoutTest, TheRestGoesAboveFourGiB) {
  const Layout layout = *MakeLayout({.memory_bytes = 8 * kGiB, .physical_address_bits = 40});
  EXPECT_THAT(layout.Ram(), ElementsAre(AddressRange{0, kLowRamLimit},
                                        AddressRange{k4GiB, 8 * kGiB - kLowRamLimit}));
}

TEST(LayoutTest, HotplugRangeFollowsAndThePciWindowComesAfter) {
  const Layout layout = *MakeLayout(
      {.memory_bytes = 1 * kGiB, .max_memory_bytes = 16 * kGiB, .physical_address_bits = 40});
  EXPECT_EQ(layout.hotplug, (AddressRange{k4GiB, 15 * kGiB}));
  EXPECT_EQ(layout.pci64.base, layout.hotplug.end());
  EXPECT_EQ(layout.pci64.size, 256 * kGiB);
}

TEST(LayoutTest, HotplugRangeIsAlignedToAGiB) {
  const Layout layout = *MakeLayout(
      {.memory_bytes = 3 * kGiB + 4096, .max_memory_bytes = 4 * kGiB, .physical_address_bits = 40});
  EXPECT_EQ(layout.hotplug.base % kGiB, 0u);
  EXPECT_GE(layout.hotplug.base, layout.high_ram.end());
  EXPECT_EQ(layout.hotplug.size, 1 * kGiB);
}

TEST(LayoutTest, PciWindowEndsWithThePhysicalAddresses) {
  const Layout layout = *MakeLayout({.memory_bytes = kGiB, .physical_address_bits = 36});
  EXPECT_EQ(layout.pci64.end(), uint64_t{1} << 36);
}

// Every agreed place, in order, without overlap.
TEST(LayoutTest, PlacesDoNotOverlap) {
  const Layout layout = *MakeLayout(
      {.memory_bytes = 6 * kGiB, .max_memory_bytes = 64 * kGiB, .physical_address_bits = 40});
  const std::vector<AddressRange> places = {
      layout.low_ram,
      {kEcamAddress, kEcamBytes},
      layout.pci32,
      {kIoapicAddress, 4096},
      {kLocalApicAddress, 4096},
      {kKvmIdentityMapAddress, 4096},
      {kKvmTssAddress, 3 * 4096},
      {kFirmwareAddress, k4GiB - kFirmwareAddress},
      layout.high_ram,
      layout.hotplug,
      layout.pci64,
  };
  for (size_t i = 1; i < places.size(); ++i) {
    EXPECT_GE(places[i].base, places[i - 1].end()) << "place " << i;
  }
}

TEST(LayoutTest, BootAreasDoNotOverlap) {
  const std::vector<AddressRange> areas = {
      {kGdtAddress, 0x100},
      {kIdtAddress, 0x100},
      {kPvhStartInfoAddress, 0x1000},
      {kBootParamsAddress, 0x1000},
      {kBootStackTop - 0xff0, 0xff0},
      {kPageTablesAddress, 6 * 4096},
      {kCommandLineAddress, kCommandLineAreaBytes},
      {kAcpiAreaAddress, kAcpiAreaBytes},
      {kKernelAreaAddress, 1},
  };
  for (size_t i = 1; i < areas.size(); ++i) {
    EXPECT_GE(areas[i].base, areas[i - 1].end()) << "area " << i;
  }
  EXPECT_LE(areas[6].end(), kLowRamEnd640K);
}

TEST(LayoutTest, IntxLinesAreEightAboveIsa) {
  EXPECT_EQ(IntxGsi(0, 0), 16u);
  EXPECT_EQ(IntxGsi(3, 1), 20u);
  EXPECT_EQ(IntxGsi(7, 1), 16u);
  EXPECT_EQ(IntxGsi(31, 3), 18u);
}

struct BadLayout {
  const char* name;
  LayoutOptions options;
};
class BadLayoutTest : public testing::TestWithParam<BadLayout> {};

TEST_P(BadLayoutTest, IsRefused) {
  EXPECT_EQ(MakeLayout(GetParam().options).status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(
    Options, BadLayoutTest,
    testing::Values(
        BadLayout{"NoMemory", {.memory_bytes = 0, .physical_address_bits = 40}},
        BadLayout{"TooLittle", {.memory_bytes = 16 * kMiB, .physical_address_bits = 40}},
        BadLayout{"Unaligned", {.memory_bytes = 64 * kMiB + 1, .physical_address_bits = 40}},
        BadLayout{
            "MaximumBelow",
            {.memory_bytes = 2 * kGiB, .max_memory_bytes = kGiB, .physical_address_bits = 40}},
        BadLayout{"BeyondTheProcessor", {.memory_bytes = 64 * kGiB, .physical_address_bits = 36}},
        BadLayout{"NoRoomForPci", {.memory_bytes = 63 * kGiB, .physical_address_bits = 36}},
        BadLayout{"Wraps", {.memory_bytes = ~uint64_t{0xfff}, .physical_address_bits = 52}},
        BadLayout{"AbsurdProcessor", {.memory_bytes = kGiB, .physical_address_bits = 64}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vireo::x86
