#include "devices/cmos_rtc.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_interrupts.h"

namespace vireo {
namespace {

constexpr uint8_t kA = 0x0a;
constexpr uint8_t kB = 0x0b;
constexpr uint8_t kC = 0x0c;
constexpr uint8_t kD = 0x0d;

// Thursday.
const absl::Time kStart =
    absl::FromCivil(absl::CivilSecond(2024, 2, 29, 13, 45, 58), absl::UTCTimeZone());

class Rtc {
 public:
  explicit Rtc(absl::Time now = kStart) : clock_(now) {}

  uint8_t In(uint8_t index) {
    Select(index);
    uint8_t data[1];
    rtc_.Read(1, data);
    return data[0];
  }
  void Out(uint8_t index, uint8_t value) {
    Select(index);
    const uint8_t data[1] = {value};
    rtc_.Write(1, data);
  }
  void Select(uint8_t index) {
    const uint8_t data[1] = {index};
    rtc_.Write(0, data);
  }
  // The registers as they are, in hexadecimal: in BCD that reads as the time.
  std::string Now() {
    return absl::StrFormat("%02x%02x-%02x-%02x %02x:%02x:%02x day %x", In(0x32), In(0x09), In(0x08),
                           In(0x07), In(0x04), In(0x02), In(0x00), In(0x06));
  }
  void SetTime(uint8_t year, uint8_t month, uint8_t day, uint8_t hour, uint8_t minute,
               uint8_t second) {
    Out(0x09, year);
    Out(0x08, month);
    Out(0x07, day);
    Out(0x04, hour);
    Out(0x02, minute);
    Out(0x00, second);
  }

  FakeClock clock_;
  FakeInterruptLine irq_;
  CmosRtc rtc_{
      clock_,
      irq_,
      {.ram_below_4g_bytes = uint64_t{2048} << 20, .ram_above_4g_bytes = uint64_t{6} << 30}};
};

class CmosRtcTest : public testing::Test, protected Rtc {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
};

TEST_F(CmosRtcTest, ShowsTheHostsTime) {
  EXPECT_EQ(Now(), "2024-02-29 13:45:58 day 5");
  EXPECT_EQ(In(kD), 0x80);
  EXPECT_EQ(In(kB), 0x02);
  clock_.Advance(absl::Hours(24));
  EXPECT_EQ(Now(), "2024-03-01 13:45:58 day 6");
  EXPECT_EQ(clock_.armed_timers(), 0);
}

TEST_F(CmosRtcTest, BinaryAndTwelveHourFormats) {
  Out(kB, 0x06);
  EXPECT_EQ(In(0x00), 58);
  EXPECT_EQ(In(0x04), 13);
  EXPECT_EQ(In(0x32), 20);
  Out(kB, 0x04);
  EXPECT_EQ(In(0x04), 0x81);
  Out(kB, 0x00);
  EXPECT_EQ(In(0x04), 0x81);
  clock_.Advance(absl::Hours(11));
  EXPECT_EQ(In(0x04), 0x12) << "midnight";
  clock_.Advance(absl::Hours(12));
  EXPECT_EQ(In(0x04), 0x92) << "noon";
}

TEST_F(CmosRtcTest, TheGuestSetsItsTime) {
  Out(kB, 0x82);
  SetTime(0x31, 0x12, 0x24, 0x23, 0x59, 0x59);
  clock_.Advance(absl::Seconds(10));
  EXPECT_EQ(In(0x00), 0x59) << "stands still while set";
  Out(kB, 0x02);
  EXPECT_EQ(Now(), "2031-12-24 23:59:59 day 4");
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Now(), "2031-12-25 00:00:00 day 5");
  EXPECT_GT(rtc_.offset(), absl::Hours(24 * 365 * 7));
}

TEST_F(CmosRtcTest, TheTimeMayBeSetInTwelveHourFormatToo) {
  Out(kB, 0x80);
  Out(0x04, 0x91);  // 11 in the evening.
  Out(kB, 0x00);
  Out(kB, 0x02);
  EXPECT_EQ(In(0x04), 0x23);
}

TEST_F(CmosRtcTest, ReleasingTheDividerStartsHalfASecondBeforeTheNextUpdate) {
  // As Linux sets the clock.
  Out(kB, 0x82);
  Out(kA, 0x76);
  SetTime(0x24, 0x01, 0x01, 0x00, 0x00, 0x00);
  Out(kB, 0x02);
  clock_.Advance(absl::Seconds(3));
  EXPECT_EQ(In(0x00), 0x00);
  Out(kA, 0x26);
  clock_.Advance(absl::Milliseconds(499));
  EXPECT_EQ(In(0x00), 0x00);
  clock_.Advance(absl::Milliseconds(2));
  EXPECT_EQ(In(0x00), 0x01);
}

TEST_F(CmosRtcTest, ASingleRegisterWrittenWhileRunningTakesEffect) {
  Out(0x02, 0x10);
  EXPECT_EQ(Now(), "2024-02-29 13:10:58 day 5");
  EXPECT_EQ(rtc_.offset(), -absl::Minutes(35));
}

TEST_F(CmosRtcTest, UpdateInProgressIsShownJustBeforeTheSecond) {
  EXPECT_EQ(In(kA) & 0x80, 0);
  clock_.Advance(absl::Microseconds(999'700));
  EXPECT_EQ(In(kA) & 0x80, 0);
  clock_.Advance(absl::Microseconds(100));
  EXPECT_EQ(In(kA) & 0x80, 0x80);
  clock_.Advance(absl::Microseconds(200));
  EXPECT_EQ(In(kA) & 0x80, 0);
  EXPECT_EQ(In(0x00), 0x59);
}

TEST_F(CmosRtcTest, UpdateInterruptsEverySecond) {
  Out(kB, 0x12);
  In(kC);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(irq_.asserted());
    clock_.Advance(absl::Seconds(1));
    EXPECT_TRUE(irq_.asserted());
    EXPECT_EQ(clock_.armed_timers(), 0) << "nothing to do until the guest has looked";
    EXPECT_EQ(In(kC) & 0xb0, 0x90);
    EXPECT_FALSE(irq_.asserted());
  }
  Out(kB, 0x02);
  EXPECT_EQ(clock_.armed_timers(), 0);
}

TEST_F(CmosRtcTest, PeriodicInterruptsAtTheChosenRate) {
  In(kC);
  Out(kA, 0x26);  // 1024 Hz.
  Out(kB, 0x42);
  int interrupts = 0;
  for (int i = 0; i < 10'000; ++i) {
    clock_.Advance(absl::Microseconds(100));
    if (irq_.asserted()) {
      ++interrupts;
      EXPECT_EQ(In(kC) & 0xc0, 0xc0);
    }
  }
  EXPECT_NEAR(interrupts, 1024, 1);
  Out(kA, 0x20);
  EXPECT_EQ(clock_.armed_timers(), 0) << "rate 0 is off";
}

TEST_F(CmosRtcTest, TheAlarmMatchesOnceADay) {
  Out(0x05, 0x14);
  Out(0x03, 0x00);
  Out(0x01, 0x00);
  In(kC);
  Out(kB, 0x22);
  EXPECT_EQ(clock_.armed_timers(), 1);
  clock_.Advance(absl::Minutes(14) + absl::Seconds(1));
  EXPECT_FALSE(irq_.asserted());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(kC) & 0xa0, 0xa0);
  clock_.Advance(absl::Hours(24) - absl::Seconds(1));
  EXPECT_FALSE(irq_.asserted());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(irq_.asserted());
}

TEST_F(CmosRtcTest, AlarmFieldsMayMatchAnything) {
  Out(0x05, 0xff);
  Out(0x03, 0xff);
  Out(0x01, 0x30);
  In(kC);
  Out(kB, 0x22);
  for (int i = 0; i < 3; ++i) {
    clock_.Advance(absl::Seconds(59));
    In(kC);
    EXPECT_FALSE(irq_.asserted());
    clock_.Advance(absl::Seconds(1));
    In(kC);
  }
  Out(0x05, 0x40);  // There is no such hour.
  EXPECT_EQ(clock_.armed_timers(), 0);
}

TEST_F(CmosRtcTest, FlagsAreSetWithoutInterruptsAndClearedByReading) {
  In(kC);
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(In(kC), 0x50) << "update and periodic, no interrupt";
  EXPECT_EQ(In(kC), 0x00);
  EXPECT_FALSE(irq_.asserted());
}

TEST_F(CmosRtcTest, AHostClockSetBackIsSurvived) {
  Out(kB, 0x12);
  In(kC);
  clock_.SetWall(kStart - absl::Hours(1));
  clock_.Advance(absl::Seconds(2));
  In(kC);
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(0x04), 0x12);
}

TEST_F(CmosRtcTest, TellsFirmwareHowMuchMemoryThereIs) {
  const auto in16 = [this](uint8_t index) { return In(index) | In(index + 1) << 8; };
  EXPECT_EQ(in16(0x15), 640);
  EXPECT_EQ(in16(0x17), 0xffff);
  EXPECT_EQ(in16(0x30), 0xffff);
  EXPECT_EQ(in16(0x34), (2048 - 16) * 16);
  EXPECT_EQ(in16(0x5b) | In(0x5d) << 16, 6 * 1024 * 16);
  rtc_.SetMemory(0x5f, 3);
  EXPECT_EQ(In(0x5f), 3);
}

TEST_F(CmosRtcTest, SmallMemoryIsToldInKibibytes) {
  FakeClock clock;
  CmosRtc rtc(clock, irq_, {.ram_below_4g_bytes = 32 << 20});
  uint8_t data[1] = {0x31};
  rtc.Write(0, data);
  rtc.Read(1, data);
  EXPECT_EQ(data[0], (31 * 1024) >> 8);
}

TEST_F(CmosRtcTest, ResetKeepsWhatTheBatteryKeeps) {
  Out(0x02, 0x10);
  Out(0x40, 0x77);
  Out(kB, 0x72);
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(irq_.asserted());
  loop_->RunTask(rtc_.Reset());
  EXPECT_FALSE(irq_.asserted());
  EXPECT_EQ(clock_.armed_timers(), 0);
  EXPECT_EQ(In(kB), 0x02);
  EXPECT_EQ(In(0x02), 0x10);
  EXPECT_EQ(In(0x40), 0x77);
}

TEST_F(CmosRtcTest, QuietClocksRaiseNothingUntilResumed) {
  In(kC);
  Out(kB, 0x12);
  loop_->RunTask(rtc_.Quiesce());
  clock_.Advance(absl::Seconds(5));
  EXPECT_FALSE(irq_.asserted());
  rtc_.Resume();
  EXPECT_TRUE(irq_.asserted());
}

TEST_F(CmosRtcTest, SavedAndRestoredInTheMiddleOfSettingTheTime) {
  Out(kB, 0x92);
  SetTime(0x31, 0x12, 0x24, 0x23, 0x59, 0x59);
  Out(0x40, 0x77);
  Select(0x40);
  loop_->RunTask(rtc_.Quiesce());
  const EncodedState state = rtc_.Save();

  Rtc other(kStart + absl::Hours(5));
  ASSERT_TRUE(other.rtc_.Restore(state).ok());
  other.rtc_.Resume();
  uint8_t data[1];
  other.rtc_.Read(1, data);
  EXPECT_EQ(data[0], 0x77) << "the index is part of the state";
  EXPECT_EQ(other.In(0x00), 0x59);
  other.Out(kB, 0x02);
  EXPECT_EQ(other.Now(), "2031-12-24 23:59:59 day 4");
}

TEST_F(CmosRtcTest, TimeGoesOnBetweenSaveAndRestore) {
  Out(0x02, 0x10);
  In(kC);
  Out(kB, 0x12);
  clock_.Advance(absl::Seconds(1));
  const EncodedState state = rtc_.Save();
  Rtc other(kStart + absl::Minutes(3));
  ASSERT_TRUE(other.rtc_.Restore(state).ok());
  EXPECT_EQ(other.Now(), "2024-02-29 13:13:58 day 5");
  EXPECT_TRUE(other.irq_.asserted()) << "the interrupt that was pending";
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(rtc_.Restore(cut).ok()) << length;
  }
}

TEST_F(CmosRtcTest, RandomAccessesNeverGoWrong) {
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    if (random() % 2 == 0) Select(random() % 16 == 0 ? 0x32 : random() % 14);
    switch (random() % 4) {
      case 0:
        rtc_.Read(random() % 4, data);
        break;
      case 1:
        clock_.Advance(absl::Microseconds(random() % 300'000));
        break;
      default:
        rtc_.Write(random() % 4, data);
        break;
    }
  }
}

}  // namespace
}  // namespace vireo
