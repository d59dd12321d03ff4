#include "base/endian.h"

#include <bit>
#include <cstddef>
#include <cstdint>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(EndianTest, LittleEndianLiesLowByteFirst) {
  const auto bytes = std::bit_cast<std::array<uint8_t, 4>>(Le32(0x11223344));
  EXPECT_EQ(bytes, (std::array<uint8_t, 4>{0x44, 0x33, 0x22, 0x11}));
}

TEST(EndianTest, BigEndianLiesHighByteFirst) {
  EXPECT_EQ(std::bit_cast<uint16_t>(Be16(0x1122)), 0x2211);
  const auto bytes = std::bit_cast<std::array<uint8_t, 8>>(Be64(0x1122334455667788));
  EXPECT_EQ(bytes, (std::array<uint8_t, 8>{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88}));
}

TEST(EndianTest, ReadsBackAsTheHostInteger) {
  Be32 value = 0xcafef00d;
  EXPECT_EQ(value.value(), 0xcafef00d);
  value = 7;
  EXPECT_EQ(value + 1, 8u);
}

TEST(EndianTest, StructsHaveNoPadding) {
  struct Wire {
    Le16 a;
    Be64 b;
    Le32 c;
  };
  EXPECT_EQ(sizeof(Wire), 14u);
  EXPECT_EQ(offsetof(Wire, b), 2u);
}

}  // namespace
}  // namespace vireo
