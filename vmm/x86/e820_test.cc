#include "vmm/x86/e820.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

constexpr uint64_t kGiB = 1 << 30;

class E820Test : public testing::TestWithParam<uint64_t> {
 protected:
  Layout layout_ = *MakeLayout(
      {.memory_bytes = GetParam(), .max_memory_bytes = 32 * kGiB, .physical_address_bits = 40});
  std::vector<E820Entry> map_ = BuildE820(layout_);
};

TEST_P(E820Test, IsSortedWithoutOverlap) {
  for (size_t i = 1; i < map_.size(); ++i) {
    EXPECT_LE(map_[i - 1].base + map_[i - 1].size, map_[i].base) << "entry " << i;
  }
}

TEST_P(E820Test, TellsOfAllMemoryButWhatAPcKeepsBelowOneMegabyte) {
  uint64_t ram = 0;
  for (const E820Entry& entry : map_) ram += entry.type == E820Type::kRam ? entry.size : 0;
  EXPECT_EQ(ram, GetParam() - (kKernelAreaAddress - kLowRamEnd640K));
}

TEST_P(E820Test, RamIsWhereTheLayoutHasIt) {
  for (const E820Entry& entry : map_) {
    if (entry.type != E820Type::kRam) continue;
    const bool low = entry.base + entry.size <= layout_.low_ram.end();
    const bool high = entry.base == layout_.high_ram.base && entry.size == layout_.high_ram.size;
    EXPECT_TRUE(low || high) << std::hex << entry.base;
  }
}

TEST_P(E820Test, EcamAndTheAcpiTablesAreReserved) {
  EXPECT_THAT(map_, testing::Contains(E820Entry{kEcamAddress, kEcamBytes, E820Type::kReserved}));
  EXPECT_THAT(map_,
              testing::Contains(E820Entry{kAcpiAreaAddress, kAcpiAreaBytes, E820Type::kReserved}));
}

TEST_P(E820Test, FirmwareFindsAllRamAndWhatKvmTook) {
  const std::vector<E820Entry> map = BuildFirmwareE820(layout_);
  uint64_t ram = 0;
  for (const E820Entry& entry : map) {
    if (entry.type == E820Type::kRam) ram += entry.size;
  }
  EXPECT_EQ(ram, GetParam());
  EXPECT_THAT(map, testing::Contains(E820Entry{0xfeffc000, 0x4000, E820Type::kReserved}));
}

TEST(E820EncodingTest, IsTwentyBytesAnEntry) {
  EXPECT_THAT(EncodeE820({{0x100000000, 0x10000, E820Type::kRam}}),
              testing::ElementsAre(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0));
}

INSTANTIATE_TEST_SUITE_P(Sizes, E820Test,
                         testing::Values(32u << 20, kGiB, kLowRamLimit, kLowRamLimit + 4096,
                                         8 * kGiB));

}  // namespace
}  // namespace vireo::x86
