#include "devices/firmware/linux_rom.h"

#include <cstring>
#include <numeric>
#include <span>

#include "gtest/gtest.h"

namespace vireo {
namespace {

uint8_t SumOf(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0));
}

uint16_t Word(const std::vector<uint8_t>& bytes, size_t offset) {
  return static_cast<uint16_t>(bytes.at(offset) | bytes.at(offset + 1) << 8);
}

TEST(LinuxRomTest, IsAnOptionRom) {
  const std::vector<uint8_t> rom = LinuxRom();
  EXPECT_EQ(Word(rom, 0), 0xaa55);
  EXPECT_EQ(rom.at(2) * size_t{512}, rom.size());
  EXPECT_EQ(SumOf(rom), 0);
}

// Plug and Play BIOS Specification 1.0A, section 3.2.
TEST(LinuxRomTest, CanBeBootedFrom) {
  const std::vector<uint8_t> rom = LinuxRom();
  const size_t header = Word(rom, 0x1a);
  ASSERT_EQ(header % 16, 0u);
  ASSERT_LT(header + 32, rom.size());
  EXPECT_EQ(std::memcmp(rom.data() + header, "$PnP", 4), 0);
  ASSERT_EQ(rom[header + 5] * 16, 32);
  EXPECT_EQ(SumOf(std::span(rom).subspan(header, 32)), 0);
  EXPECT_STREQ(reinterpret_cast<const char*>(&rom.at(Word(rom, header + 0x10))), "Linux kernel");
  const size_t boot = Word(rom, header + 0x1a);
  ASSERT_LT(boot, rom.size());
  constexpr uint8_t kCli = 0xfa;
  EXPECT_EQ(rom[boot], kCli);
}

}  // namespace
}  // namespace vireo
