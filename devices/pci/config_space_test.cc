#include "devices/pci/config_space.h"

#include <random>
#include <vector>

#include "base/state.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo::pci {
namespace {

using testing::ElementsAre;

void Write32(ConfigSpace& config, uint16_t offset, uint32_t value) {
  const uint8_t data[4] = {static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8),
                           static_cast<uint8_t>(value >> 16), static_cast<uint8_t>(value >> 24)};
  config.Write(offset, data);
}

TEST(ConfigSpaceTest, TheGuestChangesOnlyWhatIsWritable) {
  ConfigSpace config;
  config.Set32(0x40, 0x12345678);
  config.SetWritable(0x40, 0x0000ff0f, 4);
  Write32(config, 0x40, 0xffffffff);
  EXPECT_EQ(config.Get32(0x40), 0x1234ff7f);
  Write32(config, 0x40, 0);
  EXPECT_EQ(config.Get32(0x40), 0x12340070);
}

TEST(ConfigSpaceTest, OnesClear) {
  ConfigSpace config;
  config.Set16(0x06, 0xf900);
  config.SetWriteOneToClear(0x06, 0xf900, 2);
  const uint8_t data[2] = {0x00, 0x80};
  config.Write(0x06, data);
  EXPECT_EQ(config.Get16(0x06), 0x7900);
}

TEST(ConfigSpaceTest, AccessesOfAnySizeAndAlignment) {
  ConfigSpace config;
  config.SetWritable(0x40, ~uint64_t{0}, 8);
  const uint8_t data[3] = {1, 2, 3};
  config.Write(0x43, data);
  EXPECT_EQ(config.Get64(0x40), 0x0000'0302'0100'0000u);
  uint8_t read[8];
  config.Read(0xfc, read);
  EXPECT_THAT(read, ElementsAre(0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff));
  config.Write(0xfe, read);  // Past the end: nothing happens.
}

TEST(ConfigSpaceTest, CapabilitiesAreLinked) {
  ConfigSpace config;
  EXPECT_EQ(config.Get8(kCapabilityPointer), 0);
  EXPECT_EQ(*config.AddCapability(kCapabilityVendorSpecific, 0x13), 0x40);
  EXPECT_EQ(*config.AddCapability(kCapabilityMsix, 12), 0x54);
  EXPECT_EQ(config.Get8(kCapabilityPointer), 0x40);
  EXPECT_EQ(config.Get16(0x40), 0x5409);
  EXPECT_EQ(config.Get16(0x54), 0x0011);
  EXPECT_NE(config.Get16(kStatus) & kStatusCapabilities, 0);
}

TEST(ConfigSpaceTest, TooManyCapabilitiesAreRefused) {
  ConfigSpace config;
  EXPECT_TRUE(config.AddCapability(9, 0xc0).ok());
  EXPECT_EQ(config.AddCapability(9, 4).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ConfigSpaceTest, ExtendedCapabilitiesAreLinked) {
  ConfigSpace config(ConfigSpace::kExtendedBytes);
  EXPECT_EQ(*config.AddExtendedCapability(0x0001, 2, 0x48), 0x100);
  EXPECT_EQ(*config.AddExtendedCapability(0x0003, 1, 12), 0x148);
  EXPECT_EQ(config.Get32(0x100), 0x14820001u);
  EXPECT_EQ(config.Get32(0x148), 0x00010003u);
  EXPECT_EQ(config.AddExtendedCapability(1, 1, 4000).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ConfigSpace().AddExtendedCapability(1, 1, 4).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ConfigSpaceTest, ResetReturnsToThePowerOnState) {
  ConfigSpace config;
  config.SetWritable(0x40, 0xff, 1);
  config.Set8(0x40, 0x11);
  config.SetPowerOnState();
  config.Write(0x40, std::vector<uint8_t>{0x22});
  EXPECT_EQ(config.Get8(0x40), 0x22);
  config.Reset();
  EXPECT_EQ(config.Get8(0x40), 0x11);
}

TEST(ConfigSpaceTest, SavedAndRestored) {
  ConfigSpace config;
  config.Set32(0, 0x29c08086);
  config.SetWritable(0x40, 0xff, 1);
  config.Write(0x40, std::vector<uint8_t>{0x22});
  StateWriter writer;
  config.Save(writer);
  const std::vector<uint8_t> state = writer.Finish();

  ConfigSpace same;
  same.Set32(0, 0x29c08086);
  same.SetWritable(0x40, 0xff, 1);
  StateReader reader(state);
  EXPECT_TRUE(same.Restore(reader).ok());
  EXPECT_EQ(same.Get8(0x40), 0x22);

  ConfigSpace other;
  other.Set32(0, 0x29188086);
  StateReader again(state);
  EXPECT_EQ(other.Restore(again).code(), absl::StatusCode::kInvalidArgument);
  ConfigSpace extended(ConfigSpace::kExtendedBytes);
  StateReader third(state);
  EXPECT_EQ(extended.Restore(third).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ConfigSpaceTest, RandomAccessesChangeWritableBitsOnly) {
  ConfigSpace config;
  config.SetWritable(0x40, 0xf0f0f0f0, 4);
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    const auto offset = static_cast<uint16_t>(random());
    config.Write(offset, data);
    config.Read(offset, data);
  }
  EXPECT_EQ(config.Get32(0x40) & 0x0f0f0f0f, 0u);
  config.Set32(0x40, 0);
  for (uint16_t offset = 0; offset < 256; ++offset) EXPECT_EQ(config.Get8(offset), 0) << offset;
}

}  // namespace
}  // namespace vireo::pci
