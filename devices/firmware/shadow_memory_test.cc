#include "devices/firmware/shadow_memory.h"

#include <memory>
#include <vector>

#include "base/async/event_loop.h"
#include "base/memory/guest_memory.h"
#include "devices/pci/root_bus.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo {
namespace {

using Registers = ShadowMemory::Registers;

constexpr uint64_t kRomBytes = 0x40000;
constexpr uint8_t kRamByte = 0x11;

class ShadowMemoryTest : public testing::Test {
 protected:
  ShadowMemoryTest() {
    for (size_t i = 0; i < rom_.size(); ++i) rom_[i] = static_cast<uint8_t>(i >> 14 | 0x80);
    EXPECT_TRUE(memory_.memory()
                    .Fill(GuestAddress(ShadowMemory::kBase), kRamByte,
                          ShadowMemory::kEnd - ShadowMemory::kBase)
                    .ok());
    shadow_ = std::make_unique<ShadowMemory>(space_, memory_.memory(), rom_);
  }

  uint8_t Load(uint64_t address) {
    uint8_t byte = 0x55;
    space_.mmio().Read(address, {&byte, 1});
    return byte;
  }
  void Store(uint64_t address, uint8_t byte) { space_.mmio().Write(address, {&byte, 1}); }
  uint8_t Ram(uint64_t address) { return memory_.ReadObject<uint8_t>(GuestAddress(address)); }
  // The firmware's byte that is seen at `address`: its last 128 KiB lie below 1 MiB.
  uint8_t Rom(uint64_t address) { return rom_[kRomBytes - (ShadowMemory::kEnd - address)]; }

  FakeGuestMemory memory_;
  FakeAddressSpace space_;
  std::vector<uint8_t> rom_ = std::vector<uint8_t>(kRomBytes);
  std::unique_ptr<ShadowMemory> shadow_;
};

TEST_F(ShadowMemoryTest, BeginsAsRomThatTakesNoWrites) {
  for (const uint64_t address : {0xe0000, 0xefff0, 0xf0000, 0xffff0}) {
    EXPECT_EQ(Load(address), Rom(address)) << std::hex << address;
    Store(address, 0x22);
    EXPECT_EQ(Load(address), Rom(address));
    EXPECT_EQ(Ram(address), kRamByte);
  }
  EXPECT_EQ(Load(0xc0000), 0xff);
  Store(0xdffff, 0x22);
  EXPECT_EQ(Ram(0xdffff), kRamByte);
}

// SeaBIOS: all of it readable and writable RAM, the firmware copied from below 4 GiB, then what it
// does not need to write any more made read-only.
TEST_F(ShadowMemoryTest, FirmwareMovesIntoTheRamBelow) {
  shadow_->Set({0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33});
  for (uint64_t address = ShadowMemory::kBase; address < ShadowMemory::kEnd; address += 0x1000) {
    EXPECT_EQ(Load(address), kRamByte);
    Store(address, 0x22);
    EXPECT_EQ(Load(address), 0x22);
  }
  EXPECT_EQ(space_.window_count(), 1u);  // One piece of memory for all.
  shadow_->Set({0x10, 0x11, 0x31, 0x33, 0x33, 0x33, 0x33});
  Store(0xf1000, 0x44);
  Store(0xc1000, 0x44);
  Store(0xc9000, 0x44);
  Store(0xcd000, 0x44);
  EXPECT_EQ(Load(0xf1000), 0x22);
  EXPECT_EQ(Load(0xc1000), 0x22);
  EXPECT_EQ(Load(0xc9000), 0x22);
  EXPECT_EQ(Load(0xcd000), 0x44);
}

TEST_F(ShadowMemoryTest, WritesMayGoBelowTheRomThatIsRead) {
  shadow_->Set({0x20, 0x02, 0, 0, 0, 0, 0x20});
  for (const uint64_t address : {0xffff0, 0xec000}) {
    Store(address, 0x22);
    EXPECT_EQ(Load(address), Rom(address));
    EXPECT_EQ(Ram(address), 0x22);
  }
  Store(0xc0010, 0x22);
  EXPECT_EQ(Load(0xc0010), 0xff);
  EXPECT_EQ(Ram(0xc0010), 0x22);
}

struct Piece {
  uint64_t base;
  uint64_t size;
  Registers writable;
};
class ShadowMemoryPieceTest : public ShadowMemoryTest, public testing::WithParamInterface<Piece> {};

TEST_P(ShadowMemoryPieceTest, EachFieldIsForItsOwnPlace) {
  shadow_->Set(GetParam().writable);
  for (uint64_t at = ShadowMemory::kBase; at < ShadowMemory::kEnd;
       at += ShadowMemory::kPieceBytes) {
    const bool within = at >= GetParam().base && at < GetParam().base + GetParam().size;
    Store(at + 7, 0x22);
    EXPECT_EQ(Ram(at + 7), within ? 0x22 : kRamByte) << std::hex << at;
    EXPECT_EQ(Load(at + 7) == 0x22, within) << std::hex << at;
  }
}
INSTANTIATE_TEST_SUITE_P(Fields, ShadowMemoryPieceTest,
                         testing::Values(Piece{0xf0000, 0x10000, {0x30}},
                                         Piece{0xc0000, 0x4000, {0, 0x03}},
                                         Piece{0xc4000, 0x4000, {0, 0x30}},
                                         Piece{0xc8000, 0x4000, {0, 0, 0x03}},
                                         Piece{0xd4000, 0x4000, {0, 0, 0, 0x30}},
                                         Piece{0xd8000, 0x4000, {0, 0, 0, 0, 0x03}},
                                         Piece{0xe4000, 0x4000, {0, 0, 0, 0, 0, 0x30}},
                                         Piece{0xec000, 0x4000, {0, 0, 0, 0, 0, 0, 0x30}}));

TEST_F(ShadowMemoryTest, ReservedBitsSayNothing) {
  shadow_->Set({0xcf, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc});
  EXPECT_EQ(Load(0xf0000), Rom(0xf0000));
  Store(0xf0000, 0x22);
  EXPECT_EQ(Ram(0xf0000), kRamByte);
}

TEST_F(ShadowMemoryTest, ASmallFirmwareLeavesTheRestEmpty) {
  shadow_.reset();
  const ShadowMemory small(space_, memory_.memory(), std::span(rom_).last(0x10000));
  EXPECT_EQ(Load(0xf0000), Rom(0xf0000));
  EXPECT_EQ(Load(0xeffff), 0xff);
}

TEST_F(ShadowMemoryTest, LeavesNothingBehind) {
  shadow_->Set({0x20, 0x33, 0x11, 0, 0, 0, 0});
  shadow_.reset();
  EXPECT_EQ(space_.window_count(), 0u);
}

TEST_F(ShadowMemoryTest, FollowsTheHostBridge) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  pci::RootBus bus(
      space_,
      {.host_bridge = {.pam_written = [this](const Registers& pam) { shadow_->Set(pam); }}});
  const uint8_t writable[] = {0x30, 0x33, 0x33, 0x33};
  bus.WriteConfig(pci::RootBus::kHostBridge, pci::HostBridge::kPam0, writable);
  Store(0xf0000, 0x22);
  EXPECT_EQ(Load(0xf0000), 0x22);
  EXPECT_EQ(Load(0xe8000), Rom(0xe8000));
  // What follows PAM in the same access is none of it; its own last byte is.
  bus.WriteConfig(pci::RootBus::kHostBridge, pci::HostBridge::kPam0 + 4, writable);
  Store(0xec000, 0x22);
  EXPECT_EQ(Load(0xec000), 0x22);
  const EncodedState saved = bus.Save();
  loop->RunTask(bus.Reset());
  EXPECT_EQ(Load(0xf0000), Rom(0xf0000));
  ASSERT_TRUE(bus.Restore(saved).ok());
  EXPECT_EQ(Load(0xf0000), 0x22);
}

}  // namespace
}  // namespace vireo
