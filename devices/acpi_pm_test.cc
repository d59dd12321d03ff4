#include "devices/acpi_pm.h"

#include <random>
#include <vector>

#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_interrupts.h"

namespace vireo {
namespace {

using testing::ElementsAre;

constexpr uint64_t kPm1Status = 0x00;
constexpr uint64_t kPm1Enable = 0x02;
constexpr uint64_t kPm1Control = 0x04;
constexpr uint64_t kTimer = 0x08;
constexpr uint64_t kGpeStatus = 0x20;
constexpr uint64_t kGpeEnable = 0x28;
constexpr uint16_t kPowerButton = 1 << 8;

class Pm {
 public:
  static uint64_t In(BusDevice& device, uint64_t offset, size_t size) {
    uint8_t data[8] = {};
    device.Read(offset, std::span(data).first(size));
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= uint64_t{data[i]} << (8 * i);
    return value;
  }
  static void Out(BusDevice& device, uint64_t offset, uint64_t value, size_t size) {
    uint8_t data[8];
    for (size_t i = 0; i < 8; ++i) data[i] = static_cast<uint8_t>(value >> (8 * i));
    device.Write(offset, std::span(data).first(size));
  }
  uint64_t In(uint64_t offset, size_t size) { return In(pm_, offset, size); }
  void Out(uint64_t offset, uint64_t value, size_t size) { Out(pm_, offset, value, size); }

  int power_offs_ = 0;
  FakeClock clock_;
  FakeInterruptLine sci_;
  AcpiPm pm_{clock_, sci_, {.acpi_at_power_on = true, .s5_sleep_type = 5, .powered_off = [this] {
                              ++power_offs_;
                            }}};
};

class AcpiPmTest : public testing::Test, protected Pm {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
};

TEST_F(AcpiPmTest, ThePowerButtonRaisesTheSciUntilCleared) {
  EXPECT_FALSE(pm_.listens_to_power_button());
  Out(kPm1Enable, kPowerButton, 2);
  EXPECT_TRUE(pm_.listens_to_power_button());
  pm_.PressPowerButton();
  EXPECT_TRUE(sci_.asserted());
  EXPECT_EQ(In(kPm1Status, 2), kPowerButton);
  Out(kPm1Status, 0x0001, 2);
  EXPECT_TRUE(sci_.asserted()) << "another bit";
  Out(kPm1Status, kPowerButton, 2);
  EXPECT_FALSE(sci_.asserted());
  EXPECT_EQ(In(kPm1Status, 2), 0u);
}

TEST_F(AcpiPmTest, AButtonPressedEarlyIsSeenWhenEnabled) {
  pm_.PressPowerButton();
  EXPECT_FALSE(sci_.asserted());
  Out(kPm1Enable, kPowerButton, 2);
  EXPECT_TRUE(sci_.asserted());
  Out(kPm1Enable, 0, 2);
  EXPECT_FALSE(sci_.asserted());
}

TEST_F(AcpiPmTest, WithoutAcpiThereIsNoSci) {
  Out(pm_.apm_ports(), 0, AcpiPm::kAcpiDisableCommand, 1);
  EXPECT_EQ(In(kPm1Control, 2) & 1, 0u);
  Out(kPm1Enable, kPowerButton, 2);
  pm_.PressPowerButton();
  EXPECT_FALSE(sci_.asserted());
  Out(pm_.apm_ports(), 0, AcpiPm::kAcpiEnableCommand, 1);
  EXPECT_EQ(In(kPm1Control, 2) & 1, 1u);
  EXPECT_TRUE(sci_.asserted());
  EXPECT_EQ(In(pm_.apm_ports(), 0, 1), AcpiPm::kAcpiEnableCommand);
  Out(pm_.apm_ports(), 1, 0x99, 1);
  EXPECT_EQ(In(pm_.apm_ports(), 0, 2), 0x9902u);
}

TEST_F(AcpiPmTest, GeneralPurposeEventsRaiseTheSci) {
  Out(kGpeEnable, 0x02, 1);
  pm_.RaiseGpe(0);
  EXPECT_FALSE(sci_.asserted());
  pm_.RaiseGpe(1);
  EXPECT_TRUE(sci_.asserted());
  EXPECT_EQ(In(kGpeStatus, 1), 3u);
  Out(kGpeStatus, 0x02, 1);
  EXPECT_FALSE(sci_.asserted());
  EXPECT_EQ(In(kGpeStatus, 8), 1u);
  Out(kGpeEnable + 7, 0x80, 1);
  pm_.RaiseGpe(63);
  EXPECT_TRUE(sci_.asserted());
}

TEST_F(AcpiPmTest, OnlyS5SwitchesOff) {
  Out(kPm1Control, 1 << 13 | 3 << 10 | 1, 2);
  EXPECT_EQ(power_offs_, 0);
  Out(kPm1Control, 5 << 10 | 1, 2);
  EXPECT_EQ(power_offs_, 0) << "no SLP_EN";
  EXPECT_EQ(In(kPm1Control, 2), 5u << 10 | 1);
  Out(kPm1Control, 1 << 13 | 5 << 10 | 1, 2);
  EXPECT_EQ(power_offs_, 1);
  EXPECT_EQ(In(kPm1Control, 2) & 1 << 13, 0u) << "SLP_EN is write-only";
  Out(kPm1Control + 1, (1 << 13 | 5 << 10) >> 8, 1);
  EXPECT_EQ(power_offs_, 2);
}

TEST_F(AcpiPmTest, TheTimerCountsAtItsFrequency) {
  EXPECT_EQ(In(kTimer, 4), 0u);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(In(kTimer, 4), AcpiPm::kTimerHertz);
  clock_.Advance(absl::Seconds(9));
  EXPECT_EQ(In(kTimer, 4), 10 * AcpiPm::kTimerHertz % (1 << 24)) << "24 bits";
  Out(kTimer, 0, 4);
  EXPECT_EQ(In(kTimer, 4), 10 * AcpiPm::kTimerHertz % (1 << 24));
}

TEST_F(AcpiPmTest, TheTimersStatusIsLazyUntilAskedFor) {
  clock_.Advance(absl::Seconds(3));  // Bit 23 has changed.
  EXPECT_EQ(clock_.armed_timers(), 0);
  EXPECT_EQ(In(kPm1Status, 2), 1u);
  Out(kPm1Status, 1, 2);
  EXPECT_EQ(In(kPm1Status, 2), 0u);
  Out(kPm1Enable, 1, 2);
  EXPECT_EQ(clock_.armed_timers(), 1);
  EXPECT_FALSE(sci_.asserted());
  clock_.Advance(absl::Seconds(3));
  EXPECT_TRUE(sci_.asserted());
  EXPECT_EQ(clock_.armed_timers(), 0);
  Out(kPm1Status, 1, 2);
  EXPECT_FALSE(sci_.asserted());
  EXPECT_EQ(clock_.armed_timers(), 1);
  loop_->RunTask(pm_.Quiesce());
  EXPECT_EQ(clock_.armed_timers(), 0);
  pm_.Resume();
  EXPECT_EQ(clock_.armed_timers(), 1);
}

TEST_F(AcpiPmTest, SmiEnableShowsApmAsDone) {
  EXPECT_EQ(In(0x30, 4), 0x20u);
  Out(0x30, 0x03, 4);
  EXPECT_EQ(In(0x30, 4), 0x23u);
  EXPECT_EQ(In(0x34, 4), 0u);
}

TEST_F(AcpiPmTest, ResetIsThePowerOnState) {
  Out(kPm1Enable, kPowerButton, 2);
  pm_.PressPowerButton();
  Out(kGpeEnable, ~uint64_t{0}, 8);
  loop_->RunTask(pm_.Reset());
  EXPECT_FALSE(sci_.asserted());
  EXPECT_EQ(In(kPm1Status, 4), 0u);
  EXPECT_EQ(In(kPm1Control, 4), 1u);
  EXPECT_EQ(In(kGpeEnable, 8), 0u);
}

TEST_F(AcpiPmTest, SavedAndRestoredWithAnEventPending) {
  Out(kPm1Enable, kPowerButton, 2);
  pm_.PressPowerButton();
  Out(kGpeEnable, 0x12, 1);
  Out(0x30, 0x01, 4);
  clock_.Advance(absl::Seconds(1));
  loop_->RunTask(pm_.Quiesce());
  const EncodedState state = pm_.Save();

  Pm other;
  other.clock_.Advance(absl::Seconds(100));
  ASSERT_TRUE(other.pm_.Restore(state).ok());
  other.pm_.Resume();
  EXPECT_TRUE(other.sci_.asserted());
  EXPECT_EQ(other.In(kTimer, 4), AcpiPm::kTimerHertz) << "counts on from where it was";
  EXPECT_EQ(other.pm_.Save().bytes, state.bytes);
  other.Out(kPm1Status, kPowerButton, 2);
  EXPECT_FALSE(other.sci_.asserted());
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(pm_.Restore(cut).ok()) << length;
  }
}

TEST_F(AcpiPmTest, RandomAccessesNeverGoWrong) {
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    BusDevice& device = random() % 8 == 0 ? pm_.apm_ports() : pm_;
    switch (random() % 4) {
      case 0:
        device.Read(random() % AcpiPm::kBlockBytes, data);
        break;
      case 1:
        clock_.Advance(absl::Milliseconds(random() % 3000));
        break;
      default:
        device.Write(random() % AcpiPm::kBlockBytes, data);
        break;
    }
  }
}

class ResetControlTest : public testing::Test {
 protected:
  void Out(uint8_t value) { Pm::Out(control_, 0, value, 1); }

  std::vector<ResetControl::Kind> resets_;
  ResetControl control_{[this](ResetControl::Kind kind) { resets_.push_back(kind); }};
};

TEST_F(ResetControlTest, TheValueSaysWhichReset) {
  Out(0x04);
  Out(0x00);
  Out(0x02);
  Out(0x06);
  Out(0x00);
  Out(0x0e);
  EXPECT_THAT(resets_, ElementsAre(ResetControl::Kind::kSoft, ResetControl::Kind::kHard,
                                   ResetControl::Kind::kFull));
  EXPECT_EQ(Pm::In(control_, 0, 1), 0x0eu);
}

TEST_F(ResetControlTest, OnlySettingTheBitTriggers) {
  Out(0x06);
  Out(0x06);
  Out(0x0e);
  EXPECT_EQ(resets_.size(), 1u);
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  loop->RunTask(control_.Reset());
  EXPECT_EQ(Pm::In(control_, 0, 1), 0u);
  Out(0x06);
  EXPECT_EQ(resets_.size(), 2u);
}

TEST_F(ResetControlTest, SavedAndRestored) {
  Out(0x02);
  const EncodedState state = control_.Save();
  ResetControl fresh([](ResetControl::Kind) {});
  ASSERT_TRUE(fresh.Restore(state).ok());
  EXPECT_EQ(Pm::In(fresh, 0, 1), 0x02u);
}

}  // namespace
}  // namespace vireo
