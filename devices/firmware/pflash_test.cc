#include "devices/firmware/pflash.h"

#include <memory>
#include <random>
#include <vector>

#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_address_space.h"

namespace vireo {
namespace {

constexpr uint64_t kBase = 0xffc00000;
constexpr uint64_t kBytes = 4 * Pflash::kBlockBytes;

class PflashTest : public testing::Test {
 protected:
  PflashTest() { flash_ = *Pflash::Create(space_, kBase, contents_); }

  uint8_t Load(uint64_t offset) {
    uint8_t byte = 0x5a;
    space_.mmio().Read(kBase + offset, {&byte, 1});
    return byte;
  }
  void Store(uint64_t offset, uint8_t byte) { space_.mmio().Write(kBase + offset, {&byte, 1}); }
  // As OVMF writes and erases.
  void Program(uint64_t offset, uint8_t byte) {
    Store(offset, 0x10);
    Store(offset, byte);
  }
  void Erase(uint64_t offset) {
    Store(offset, 0x20);
    Store(offset, 0xd0);
  }

  FakeAddressSpace space_;
  std::vector<uint8_t> contents_ = std::vector<uint8_t>(kBytes, 0xff);
  std::unique_ptr<Pflash> flash_;
};

// OVMF tells flash from ROM and RAM by what it reads after each of these.
TEST_F(PflashTest, IsFoundToBeFlash) {
  contents_[16] = 0x33;
  EXPECT_EQ(Load(16), 0x33);
  Store(16, 0x50);
  EXPECT_NE(Load(16), 0x50);
  Store(16, 0x70);
  EXPECT_EQ(Load(16), 0x00);
  Store(16, 0xff);
  EXPECT_EQ(Load(16), 0x33);
  EXPECT_EQ(contents_[16], 0x33);
}

TEST_F(PflashTest, ProgramsByteAfterByte) {
  Program(100, 0x12);
  Program(101, 0x34);
  EXPECT_EQ(Load(100), 0x80);  // Done.
  Store(101, 0xff);
  EXPECT_EQ(Load(100), 0x12);
  EXPECT_EQ(Load(101), 0x34);
  EXPECT_EQ(contents_[101], 0x34);
}

TEST_F(PflashTest, BitsGoFromOneToZeroOnly) {
  Program(0, 0x0f);
  Store(0, 0x70);
  EXPECT_EQ(Load(0), 0x80);
  Program(0, 0xf3);
  EXPECT_EQ(Load(0), 0x90);
  Store(0, 0xff);
  EXPECT_EQ(Load(0), 0x03);
}

TEST_F(PflashTest, ErasesTheBlockThatIsNamed) {
  std::ranges::fill(contents_, uint8_t{0});
  Erase(Pflash::kBlockBytes + 17);
  EXPECT_EQ(Load(0), 0x80);
  Store(0, 0xff);
  EXPECT_EQ(Load(Pflash::kBlockBytes - 1), 0x00);
  EXPECT_EQ(Load(Pflash::kBlockBytes), 0xff);
  EXPECT_EQ(Load(2 * Pflash::kBlockBytes - 1), 0xff);
  EXPECT_EQ(Load(2 * Pflash::kBlockBytes), 0x00);
}

TEST_F(PflashTest, AnEraseThatIsNotConfirmedIsNone) {
  contents_[0] = 0;
  Store(0, 0x20);
  Store(0, 0xff);
  EXPECT_EQ(Load(0), 0xb0);
  Store(0, 0xff);
  EXPECT_EQ(Load(0), 0);
}

TEST_F(PflashTest, UnknownCommandsChangeNothing) {
  contents_[0] = 0x42;
  for (const uint8_t command : {0x00, 0x90, 0x98, 0xe8, 0xd0, 0x60}) Store(0, command);
  EXPECT_EQ(Load(0), 0x42);
}

TEST_F(PflashTest, AResetMakesItAnArrayAndKeepsWhatItHolds) {
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  Program(0, 0x12);
  Store(0, 0x10);
  loop->RunTask(flash_->Reset());
  EXPECT_EQ(Load(0), 0x12);
}

TEST_F(PflashTest, AFreshDeviceGoesOnWithinACommand) {
  Program(0, 0x12);
  Store(1, 0x10);
  const EncodedState state = flash_->Save();
  flash_.reset();
  EXPECT_EQ(space_.window_count(), 0u);
  flash_ = *Pflash::Create(space_, kBase, contents_);
  ASSERT_TRUE(flash_->Restore(state).ok());
  Store(1, 0x34);
  EXPECT_EQ(Load(0), 0x80);
  Store(0, 0xff);
  EXPECT_EQ(Load(1), 0x34);
}

TEST_F(PflashTest, RefusesStatesThatCannotBe) {
  EncodedState state = flash_->Save();
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(flash_->Restore(cut).ok());
  }
  state.bytes[0] = 4;
  EXPECT_EQ(flash_->Restore(state).code(), absl::StatusCode::kDataLoss);
}

TEST_F(PflashTest, EndsNoProcessWhateverIsAccessed) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> data(1 + random() % 8);
    for (uint8_t& byte : data) {
      constexpr uint8_t kUsual[] = {0xff, 0x10, 0x20, 0xd0, 0x50, 0x70};
      byte = random() % 2 == 0 ? kUsual[random() % 6] : static_cast<uint8_t>(random());
    }
    const uint64_t at = kBase + random() % kBytes;
    if (random() % 2 == 0) {
      space_.mmio().Read(at, data);
    } else {
      space_.mmio().Write(at, data);
    }
  }
}

}  // namespace
}  // namespace vireo
