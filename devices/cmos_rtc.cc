#include "devices/cmos_rtc.h"

#include <algorithm>

#include "absl/time/civil_time.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "cmos-rtc";
constexpr uint32_t kStateVersion = 1;

constexpr uint8_t kSeconds = 0x00;
constexpr uint8_t kSecondsAlarm = 0x01;
constexpr uint8_t kMinutes = 0x02;
constexpr uint8_t kMinutesAlarm = 0x03;
constexpr uint8_t kHours = 0x04;
constexpr uint8_t kHoursAlarm = 0x05;
constexpr uint8_t kWeekday = 0x06;
constexpr uint8_t kDay = 0x07;
constexpr uint8_t kMonth = 0x08;
constexpr uint8_t kYear = 0x09;
constexpr uint8_t kA = 0x0a;
constexpr uint8_t kB = 0x0b;
constexpr uint8_t kC = 0x0c;
constexpr uint8_t kD = 0x0d;
constexpr uint8_t kCentury = 0x32;

constexpr uint8_t kAUpdateInProgress = 1 << 7;
constexpr uint8_t kADividerReset = 0x60;   // 110b and 111b hold the divider in reset.
constexpr uint8_t kADividerNormal = 0x20;  // 010b: a 32.768 kHz crystal.

constexpr uint8_t kBSet = 1 << 7;
constexpr uint8_t kBPeriodic = 1 << 6;
constexpr uint8_t kBAlarm = 1 << 5;
constexpr uint8_t kBUpdate = 1 << 4;
constexpr uint8_t kBSquareWave = 1 << 3;
constexpr uint8_t kBBinary = 1 << 2;
constexpr uint8_t kB24Hour = 1 << 1;

// Register C; its bits 6 to 4 are where register B enables them.
constexpr uint8_t kCInterrupt = 1 << 7;
constexpr uint8_t kCFlags = kBPeriodic | kBAlarm | kBUpdate;

constexpr uint8_t kDValid = 1 << 7;
constexpr uint8_t kHourPm = 1 << 7;
constexpr uint8_t kAlarmAny = 0xc0;  // Both bits set: any value matches.

constexpr int64_t kTicksPerSecond = 32768;
constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;
// Update-in-progress rises 244 us before the registers change.
constexpr int64_t kUpdateNanoseconds = 244'000;
constexpr int64_t kSecondsPerDay = int64_t{24} * 60 * 60;

bool IsTime(uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours ||
         (index >= kWeekday && index <= kYear) || index == kCentury;
}

int64_t Ticks(int64_t seconds, int64_t nanoseconds) {
  return seconds * kTicksPerSecond + nanoseconds * kTicksPerSecond / kNanosecondsPerSecond;
}

absl::CivilSecond Civil(int64_t seconds) {
  return absl::ToCivilSecond(absl::FromUnixSeconds(seconds), absl::UTCTimeZone());
}

}  // namespace

CmosRtc::CmosRtc(Clock& clock, InterruptLine& interrupt, const Options& options)
    : clock_(clock), interrupt_(interrupt), offset_(options.offset) {
  memory_[kA] = kADividerNormal | 0x06;  // 1024 Hz, as a BIOS leaves it.
  memory_[kB] = kB24Hour;
  const auto set16 = [](std::array<uint8_t, kBytes>& memory, uint8_t index, uint64_t value) {
    const uint64_t capped = std::min<uint64_t>(value, 0xffff);
    memory[index] = static_cast<uint8_t>(capped);
    memory[index + 1] = static_cast<uint8_t>(capped >> 8);
  };
  const uint64_t below = options.ram_below_4g_bytes;
  const uint64_t above_1m = below > (1 << 20) ? below - (1 << 20) : 0;
  const uint64_t above_16m = below > (16 << 20) ? below - (16 << 20) : 0;
  set16(memory_, 0x15, std::min<uint64_t>(below >> 10, 640));  // KiB below 1 MiB.
  set16(memory_, 0x17, above_1m >> 10);                        // KiB above it.
  set16(memory_, 0x30, above_1m >> 10);
  set16(memory_, 0x34, above_16m >> 16);  // 64 KiB units above 16 MiB.
  const uint64_t high = std::min<uint64_t>(options.ram_above_4g_bytes >> 16, 0xffffff);
  for (int i = 0; i < 3; ++i) memory_[0x5b + i] = static_cast<uint8_t>(high >> (8 * i));
  caught_up_ = Now();
  timer_ = clock_.CreateTimer([this] { OnTimer(); });
}

CmosRtc::Moment CmosRtc::Now() const {
  const absl::Time time = clock_.Wall() + offset_;
  const int64_t seconds = absl::ToUnixSeconds(time);  // Rounds down.
  return {.seconds = seconds,
          .nanoseconds = absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))};
}

bool CmosRtc::Running() const {
  return (memory_[kB] & kBSet) == 0 && (memory_[kA] & kADividerReset) != kADividerReset;
}

uint8_t CmosRtc::Encode(int value) const {
  if ((memory_[kB] & kBBinary) != 0) return static_cast<uint8_t>(value);
  return static_cast<uint8_t>(value / 10 << 4 | value % 10);
}

int CmosRtc::Decode(uint8_t value) const {
  if ((memory_[kB] & kBBinary) != 0) return value;
  return (value >> 4) * 10 + (value & 0x0f);
}

int CmosRtc::DecodeHour(uint8_t value) const {
  if ((memory_[kB] & kB24Hour) != 0) return Decode(value);
  return Decode(value & ~kHourPm) % 12 + ((value & kHourPm) != 0 ? 12 : 0);
}

void CmosRtc::LatchTime(const Moment& moment) {
  const absl::CivilSecond civil = Civil(moment.seconds);
  memory_[kSeconds] = Encode(civil.second());
  memory_[kMinutes] = Encode(civil.minute());
  if ((memory_[kB] & kB24Hour) != 0) {
    memory_[kHours] = Encode(civil.hour());
  } else {
    const int hour = civil.hour() % 12 == 0 ? 12 : civil.hour() % 12;
    memory_[kHours] = Encode(hour) | (civil.hour() >= 12 ? kHourPm : 0);
  }
  // absl's Monday is 0, the clock's Sunday 1.
  memory_[kWeekday] = Encode((static_cast<int>(absl::GetWeekday(civil)) + 1) % 7 + 1);
  memory_[kDay] = Encode(civil.day());
  memory_[kMonth] = Encode(civil.month());
  const int year = static_cast<int>(std::clamp<int64_t>(civil.year(), 0, 9999));
  memory_[kYear] = Encode(year % 100);
  memory_[kCentury] = Encode(year / 100);
}

void CmosRtc::SetTimeFromRegisters(int64_t nanoseconds) {
  // Impossible values carry over into the next field: a 32nd of January is the 1st of February.
  const absl::CivilSecond civil(Decode(memory_[kCentury]) * 100 + Decode(memory_[kYear]),
                                Decode(memory_[kMonth]), Decode(memory_[kDay]),
                                DecodeHour(memory_[kHours]), Decode(memory_[kMinutes]),
                                Decode(memory_[kSeconds]));
  const absl::Time time =
      absl::FromCivil(civil, absl::UTCTimeZone()) + absl::Nanoseconds(nanoseconds);
  offset_ = time - clock_.Wall();
  caught_up_ = Now();
}

int64_t CmosRtc::PeriodTicks() const {
  const int rate = memory_[kA] & 0x0f;
  if (rate == 0) return 0;
  // Rates 1 and 2 repeat 8 and 9.
  return int64_t{1} << ((rate <= 2 ? rate + 7 : rate) - 1);
}

std::optional<int> CmosRtc::AlarmField(uint8_t index) const {
  const uint8_t value = memory_[index];
  if ((value & kAlarmAny) == kAlarmAny) return std::nullopt;
  return index == kHoursAlarm ? DecodeHour(value) : Decode(value);
}

std::optional<int64_t> CmosRtc::NextAlarm(int64_t after) const {
  const std::optional<int> hour = AlarmField(kHoursAlarm);
  const std::optional<int> minute = AlarmField(kMinutesAlarm);
  const std::optional<int> second = AlarmField(kSecondsAlarm);
  // At most 24 steps of an hour, 60 of a minute and 60 of a second.
  for (int64_t at = after + 1; at <= after + kSecondsPerDay;) {
    const absl::CivilSecond civil = Civil(at);
    if (hour.has_value() && civil.hour() != *hour) {
      at += 3600 - civil.minute() * 60 - civil.second();
    } else if (minute.has_value() && civil.minute() != *minute) {
      at += 60 - civil.second();
    } else if (second.has_value() && civil.second() != *second) {
      ++at;
    } else {
      return at;
    }
  }
  return std::nullopt;
}

void CmosRtc::CatchUp() {
  if (!Running()) return;
  const Moment now = Now();
  const Moment last = caught_up_;
  caught_up_ = now;
  if (now <= last) return;  // The host's clock was set back.
  if (now.seconds > last.seconds) {
    flags_ |= kBUpdate;
    const std::optional<int64_t> alarm = NextAlarm(last.seconds);
    if (alarm.has_value() && *alarm <= now.seconds) flags_ |= kBAlarm;
  }
  const int64_t period = PeriodTicks();
  if (period != 0 && Ticks(now.seconds, now.nanoseconds) / period >
                         Ticks(last.seconds, last.nanoseconds) / period) {
    flags_ |= kBPeriodic;
  }
}

void CmosRtc::Update() {
  const uint8_t enabled = memory_[kB] & kCFlags;
  const bool wanted = (flags_ & enabled) != 0;
  if (wanted != interrupt_asserted_) {
    interrupt_asserted_ = wanted;
    if (wanted) {
      interrupt_.Assert();
    } else {
      interrupt_.Deassert();
    }
  }
  // Until the guest has read register C nothing that happens can raise the line again.
  if (enabled == 0 || wanted || quiet_ || !Running()) {
    timer_->Cancel();
    return;
  }
  const Moment now = caught_up_;
  absl::Duration next = absl::InfiniteDuration();
  const auto consider = [&](int64_t seconds, int64_t nanoseconds) {
    next = std::min(next, absl::Seconds(seconds - now.seconds) +
                              absl::Nanoseconds(nanoseconds - now.nanoseconds));
  };
  if ((enabled & kBUpdate) != 0) consider(now.seconds + 1, 0);
  if ((enabled & kBAlarm) != 0) {
    if (const std::optional<int64_t> alarm = NextAlarm(now.seconds)) consider(*alarm, 0);
  }
  const int64_t period = PeriodTicks();
  if ((enabled & kBPeriodic) != 0 && period != 0) {
    const int64_t ticks = (Ticks(now.seconds, now.nanoseconds) / period + 1) * period;
    const int64_t rest = ticks - now.seconds * kTicksPerSecond;
    // Rounded up, so that the tick has come when the timer fires.
    consider(now.seconds, (rest * kNanosecondsPerSecond + kTicksPerSecond - 1) / kTicksPerSecond);
  }
  if (next == absl::InfiniteDuration()) {
    timer_->Cancel();
  } else {
    timer_->Arm(clock_.Monotonic() + next);
  }
}

void CmosRtc::OnTimer() {
  const MutexLock lock(mutex_);
  CatchUp();
  Update();
}

uint8_t CmosRtc::ReadMemory(uint8_t index) {
  if (IsTime(index)) {
    if (Running()) LatchTime(Now());
    return memory_[index];
  }
  switch (index) {
    case kA: {
      const bool updating =
          Running() && Now().nanoseconds >= kNanosecondsPerSecond - kUpdateNanoseconds;
      return memory_[kA] | (updating ? kAUpdateInProgress : 0);
    }
    case kC: {
      CatchUp();
      const uint8_t value = flags_ | ((flags_ & memory_[kB] & kCFlags) != 0 ? kCInterrupt : 0);
      flags_ = 0;
      Update();
      return value;
    }
    case kD:
      return kDValid;
    default:
      return memory_[index];
  }
}

void CmosRtc::WriteMemory(uint8_t index, uint8_t value) {
  if (IsTime(index)) {
    CatchUp();
    if (Running()) {
      const Moment now = Now();
      LatchTime(now);
      memory_[index] = value;
      SetTimeFromRegisters(now.nanoseconds);
    } else {
      memory_[index] = value;
    }
    Update();
    return;
  }
  switch (index) {
    case kA:
    case kB: {
      CatchUp();
      const bool was_running = Running();
      const bool was_reset = (memory_[kA] & kADividerReset) == kADividerReset;
      const Moment now = Now();
      if (was_running) LatchTime(now);
      const int64_t nanoseconds = now.nanoseconds;
      if (index == kA) {
        memory_[kA] = value & ~kAUpdateInProgress;
      } else {
        memory_[kB] = value;
        // SET ends the update-ended interrupt (datasheet, "Register B").
        if ((value & kBSet) != 0) memory_[kB] &= ~kBUpdate;
        // A change of format leaves the running time as it is.
        if (was_running) LatchTime(now);
      }
      if (!was_running && Running()) {
        // The first update comes half a second after the divider is released.
        SetTimeFromRegisters(was_reset ? kNanosecondsPerSecond / 2 : nanoseconds);
      }
      Update();
      return;
    }
    case kC:
    case kD:
      return;
    case kSecondsAlarm:
    case kMinutesAlarm:
    case kHoursAlarm:
      CatchUp();
      memory_[index] = value;
      Update();
      return;
    default:
      memory_[index] = value;
      return;
  }
}

void CmosRtc::Read(uint64_t offset, std::span<uint8_t> data) {
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    // The index is write-only. Bit 7 masked NMIs once.
    data[i] = offset + i == 1 ? ReadMemory(index_) : 0xff;
  }
}

std::shared_ptr<Parking> CmosRtc::Write(uint64_t offset, std::span<const uint8_t> data) {
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    if (offset + i == 0) {
      index_ = data[i] & 0x7f;
    } else if (offset + i == 1) {
      WriteMemory(index_, data[i]);
    }
  }
  return nullptr;
}

void CmosRtc::SetMemory(uint8_t index, uint8_t value) {
  VIREO_CHECK(index > kD && index < kBytes, "registers are not memory");
  const MutexLock lock(mutex_);
  memory_[index] = value;
}

absl::Duration CmosRtc::offset() const {
  const MutexLock lock(mutex_);
  return offset_;
}

Task<void> CmosRtc::Quiesce() {
  {
    const MutexLock lock(mutex_);
    quiet_ = true;
  }
  co_await timer_->Stop();
}

void CmosRtc::Resume() {
  const MutexLock lock(mutex_);
  quiet_ = false;
  CatchUp();
  Update();
}

Task<void> CmosRtc::Reset() {
  const MutexLock lock(mutex_);
  CatchUp();
  memory_[kB] &= ~(kBPeriodic | kBAlarm | kBUpdate | kBSquareWave);
  flags_ = 0;
  index_ = 0;
  Update();
  co_return;
}

EncodedState CmosRtc::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.Bytes(memory_);
  writer.U8(index_);
  writer.U8(flags_);
  const int64_t seconds = absl::ToInt64Seconds(offset_);
  writer.I64(seconds);
  writer.I64(absl::ToInt64Nanoseconds(offset_ - absl::Seconds(seconds)));
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status CmosRtc::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  const std::vector<uint8_t> memory = reader.Bytes();
  const uint8_t index = reader.U8();
  const uint8_t flags = reader.U8();
  const int64_t seconds = reader.I64();
  const int64_t nanoseconds = reader.I64();
  if (memory.size() != kBytes) reader.Fail("not 128 bytes of memory");
  RETURN_IF_ERROR(reader.Finish());
  const MutexLock lock(mutex_);
  std::ranges::copy(memory, memory_.begin());
  memory_[kA] &= ~kAUpdateInProgress;
  index_ = index & 0x7f;
  flags_ = flags & kCFlags;
  // Ten thousand years, beyond which the registers cannot tell anyway.
  constexpr int64_t kFarthest = int64_t{10'000} * 366 * kSecondsPerDay;
  offset_ = absl::Seconds(std::clamp(seconds, -kFarthest, kFarthest)) +
            absl::Nanoseconds(nanoseconds % kNanosecondsPerSecond);
  caught_up_ = Now();
  Update();
  return absl::OkStatus();
}

}  // namespace vireo
