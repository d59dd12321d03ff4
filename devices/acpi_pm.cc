#include "devices/acpi_pm.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "acpi-pm";
constexpr uint32_t kStateVersion = 1;
constexpr std::string_view kResetStateType = "reset-control";
constexpr uint32_t kResetStateVersion = 1;

// ACPI 6.3 §4.8.3.1, PM1 status; the enable bits are at the same places.
constexpr uint16_t kTimer = 1 << 0;
constexpr uint16_t kGlobalLock = 1 << 5;
constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint16_t kSleepButton = 1 << 9;
constexpr uint16_t kRtc = 1 << 10;
constexpr uint16_t kWake = 1 << 15;
constexpr uint16_t kEnableMask = kTimer | kGlobalLock | kPowerButton | kSleepButton | kRtc;
constexpr uint16_t kStatusMask = kEnableMask | kWake | 1 << 4 /* bus master */;

// §4.8.3.2, PM1 control.
constexpr uint16_t kSciEnable = 1 << 0;
constexpr uint16_t kSleepTypeMask = 7 << 10;
constexpr uint16_t kSleepEnable = 1 << 13;  // Write-only.
constexpr uint16_t kControlMask = kSciEnable | 1 << 1 /* bus master reload */ | kSleepTypeMask;

constexpr uint32_t kSmiApmEnable = 1 << 5;

constexpr int kTimerBits = 24;
constexpr uint64_t kHalfPeriod = uint64_t{1} << (kTimerBits - 1);

uint8_t ByteOf(uint64_t value, uint64_t index) {
  return static_cast<uint8_t>(value >> (8 * index));
}

template <typename T>
void SetByteOf(T& value, uint64_t index, uint8_t byte) {
  const int shift = static_cast<int>(8 * index);
  value = static_cast<T>((value & ~(T{0xff} << shift)) | (T{byte} << shift));
}

template <typename T>
void ClearBitsOf(T& value, uint64_t index, uint8_t ones) {
  value = static_cast<T>(value & ~(T{ones} << (8 * index)));
}

uint64_t TicksIn(absl::Duration duration) {
  const unsigned __int128 nanoseconds =
      static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Nanoseconds(duration), 0));
  return static_cast<uint64_t>(nanoseconds * AcpiPm::kTimerHertz / 1'000'000'000);
}

}  // namespace

AcpiPm::AcpiPm(Clock& clock, InterruptLine& sci, Options options)
    : clock_(clock),
      sci_(sci),
      acpi_at_power_on_(options.acpi_at_power_on),
      s5_sleep_type_(options.s5_sleep_type),
      powered_off_(std::move(options.powered_off)),
      registers_(PowerOn()),
      timer_start_(clock.Monotonic()) {
  VIREO_CHECK(s5_sleep_type_ < 8);
  timer_ = clock_.CreateTimer([this] { OnTimer(); });
}

AcpiPm::Registers AcpiPm::PowerOn() const {
  Registers registers;
  registers.smi_enable = kSmiApmEnable;
  registers.pm1_control = acpi_at_power_on_ ? kSciEnable : 0;
  return registers;
}

uint64_t AcpiPm::TimerCount() const {
  return timer_base_ + TicksIn(clock_.Monotonic() - timer_start_);
}

void AcpiPm::CatchUp() {
  const uint64_t half_periods = TimerCount() / kHalfPeriod;
  if (half_periods != timer_half_periods_) registers_.pm1_status |= kTimer;
  timer_half_periods_ = half_periods;
}

void AcpiPm::Update() {
  const bool wanted = (registers_.pm1_control & kSciEnable) != 0 &&
                      ((registers_.pm1_status & registers_.pm1_enable & kEnableMask) != 0 ||
                       (registers_.gpe0_status & registers_.gpe0_enable) != 0);
  if (wanted != sci_asserted_) {
    sci_asserted_ = wanted;
    if (wanted) {
      sci_.Assert();
    } else {
      sci_.Deassert();
    }
  }
  // The timer's own event is the only one that time brings, and hardly a guest asks for it.
  const bool waits = (registers_.pm1_enable & kTimer) != 0 &&
                     (registers_.pm1_status & kTimer) == 0 &&
                     (registers_.pm1_control & kSciEnable) != 0 && !quiet_;
  if (!waits) {
    timer_->Cancel();
    return;
  }
  const uint64_t ticks = (timer_half_periods_ + 1) * kHalfPeriod - timer_base_;
  // Rounded up, so that the bit has changed when the timer fires.
  const auto nanoseconds =
      static_cast<int64_t>(static_cast<unsigned __int128>(ticks) * 1'000'000'000 / kTimerHertz + 1);
  timer_->Arm(timer_start_ + absl::Nanoseconds(nanoseconds));
}

void AcpiPm::OnTimer() {
  const MutexLock lock(mutex_);
  CatchUp();
  Update();
}

uint8_t AcpiPm::ReadByte(uint64_t offset, uint32_t timer) const {
  if (offset < 0x02) return ByteOf(registers_.pm1_status, offset);
  if (offset < 0x04) return ByteOf(registers_.pm1_enable, offset - 0x02);
  if (offset < 0x08) return offset < 0x06 ? ByteOf(registers_.pm1_control, offset - 0x04) : 0;
  if (offset < 0x0c) return ByteOf(timer, offset - 0x08);
  if (offset < 0x20) return 0;
  if (offset < 0x28) return ByteOf(registers_.gpe0_status, offset - 0x20);
  if (offset < 0x30) return ByteOf(registers_.gpe0_enable, offset - 0x28);
  if (offset < 0x34) return ByteOf(registers_.smi_enable | kSmiApmEnable, offset - 0x30);
  if (offset < 0x38) return ByteOf(registers_.smi_status, offset - 0x34);
  return 0;
}

bool AcpiPm::WriteByte(uint64_t offset, uint8_t value) {
  if (offset < 0x02) {
    ClearBitsOf(registers_.pm1_status, offset, value);
  } else if (offset < 0x04) {
    SetByteOf(registers_.pm1_enable, offset - 0x02, value);
    registers_.pm1_enable &= kEnableMask;
  } else if (offset < 0x06) {
    SetByteOf(registers_.pm1_control, offset - 0x04, value);
    const bool sleeps = (registers_.pm1_control & kSleepEnable) != 0;
    registers_.pm1_control &= kControlMask;
    // Sleep states other than S5 are not offered; a guest that asks for one all the same stays
    // awake.
    return sleeps && (registers_.pm1_control & kSleepTypeMask) >> 10 == s5_sleep_type_;
  } else if (offset >= 0x20 && offset < 0x28) {
    ClearBitsOf(registers_.gpe0_status, offset - 0x20, value);
  } else if (offset >= 0x28 && offset < 0x30) {
    SetByteOf(registers_.gpe0_enable, offset - 0x28, value);
  } else if (offset >= 0x30 && offset < 0x34) {
    SetByteOf(registers_.smi_enable, offset - 0x30, value);
  } else if (offset >= 0x34 && offset < 0x38) {
    ClearBitsOf(registers_.smi_status, offset - 0x34, value);
  }
  return false;
}

void AcpiPm::Read(uint64_t offset, std::span<uint8_t> data) {
  const MutexLock lock(mutex_);
  // One count for all bytes of an access. 24 bits: the FADT does not claim a longer timer.
  const auto timer = static_cast<uint32_t>(TimerCount() & ((uint64_t{1} << kTimerBits) - 1));
  if (offset < 0x02) CatchUp();
  for (size_t i = 0; i < data.size(); ++i) data[i] = ReadByte(offset + i, timer);
}

std::shared_ptr<Parking> AcpiPm::Write(uint64_t offset, std::span<const uint8_t> data) {
  bool power_off = false;
  {
    const MutexLock lock(mutex_);
    CatchUp();
    for (size_t i = 0; i < data.size(); ++i) power_off |= WriteByte(offset + i, data[i]);
    Update();
  }
  if (power_off) {
    const MutexLock lock(callback_mutex_);
    if (powered_off_ != nullptr) powered_off_();
  }
  return nullptr;
}

void AcpiPm::ApmPorts::Read(uint64_t offset, std::span<uint8_t> data) {
  const MutexLock lock(pm_.mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    const uint64_t at = offset + i;
    data[i] = at == 0 ? pm_.registers_.apm_control : at == 1 ? pm_.registers_.apm_status : 0xff;
  }
}

std::shared_ptr<Parking> AcpiPm::ApmPorts::Write(uint64_t offset, std::span<const uint8_t> data) {
  const MutexLock lock(pm_.mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    if (offset + i == 1) pm_.registers_.apm_status = data[i];
    if (offset + i != 0) continue;
    pm_.registers_.apm_control = data[i];
    // ACPI 6.3 §4.8.3.2.1. On hardware this raises an SMI, whose handler does the same.
    if (data[i] == kAcpiEnableCommand) pm_.registers_.pm1_control |= kSciEnable;
    if (data[i] == kAcpiDisableCommand) pm_.registers_.pm1_control &= ~kSciEnable;
  }
  pm_.CatchUp();
  pm_.Update();
  return nullptr;
}

void AcpiPm::PressPowerButton() {
  const MutexLock lock(mutex_);
  registers_.pm1_status |= kPowerButton;
  Update();
}

void AcpiPm::RaiseGpe(int event) {
  VIREO_CHECK(event >= 0 && event < 64);
  const MutexLock lock(mutex_);
  registers_.gpe0_status |= uint64_t{1} << event;
  Update();
}

bool AcpiPm::listens_to_power_button() const {
  const MutexLock lock(mutex_);
  return (registers_.pm1_control & kSciEnable) != 0 && (registers_.pm1_enable & kPowerButton) != 0;
}

Task<void> AcpiPm::Quiesce() {
  {
    const MutexLock lock(mutex_);
    quiet_ = true;
  }
  co_await timer_->Stop();
}

void AcpiPm::Resume() {
  const MutexLock lock(mutex_);
  quiet_ = false;
  CatchUp();
  Update();
}

Task<void> AcpiPm::Reset() {
  const MutexLock lock(mutex_);
  registers_ = PowerOn();
  timer_half_periods_ = TimerCount() / kHalfPeriod;
  Update();
  co_return;
}

EncodedState AcpiPm::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.U16(registers_.pm1_status);
  writer.U16(registers_.pm1_enable);
  writer.U16(registers_.pm1_control);
  writer.U64(registers_.gpe0_status);
  writer.U64(registers_.gpe0_enable);
  writer.U32(registers_.smi_enable);
  writer.U32(registers_.smi_status);
  writer.U8(registers_.apm_control);
  writer.U8(registers_.apm_status);
  writer.U64(TimerCount());
  writer.U64(timer_half_periods_);
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status AcpiPm::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  Registers registers;
  registers.pm1_status = reader.U16() & kStatusMask;
  registers.pm1_enable = reader.U16() & kEnableMask;
  registers.pm1_control = reader.U16() & kControlMask;
  registers.gpe0_status = reader.U64();
  registers.gpe0_enable = reader.U64();
  registers.smi_enable = reader.U32();
  registers.smi_status = reader.U32();
  registers.apm_control = reader.U8();
  registers.apm_status = reader.U8();
  const uint64_t count = reader.U64();
  const uint64_t half_periods = reader.U64();
  // A count that no machine reaches in ten thousand years; larger ones would wrap.
  if (count >> 60 != 0 || half_periods > count / kHalfPeriod) reader.Fail("impossible timer count");
  RETURN_IF_ERROR(reader.Finish());
  const MutexLock lock(mutex_);
  registers_ = registers;
  timer_base_ = count;
  timer_start_ = clock_.Monotonic();
  timer_half_periods_ = half_periods;
  CatchUp();
  Update();
  return absl::OkStatus();
}

void ResetControl::Read(uint64_t offset, std::span<uint8_t> data) {
  std::ranges::fill(data, uint8_t{0xff});
  const MutexLock lock(mutex_);
  if (offset == 0 && !data.empty()) data[0] = value_;
}

std::shared_ptr<Parking> ResetControl::Write(uint64_t offset, std::span<const uint8_t> data) {
  constexpr uint8_t kHard = 1 << 1;
  constexpr uint8_t kTrigger = 1 << 2;
  constexpr uint8_t kFull = 1 << 3;
  if (offset != 0 || data.empty()) return nullptr;
  const uint8_t value = data[0];
  bool triggered = false;
  {
    const MutexLock lock(mutex_);
    triggered = (value & kTrigger) != 0 && (value_ & kTrigger) == 0;
    value_ = value & (kHard | kTrigger | kFull);
  }
  if (!triggered) return nullptr;
  const MutexLock lock(callback_mutex_);
  if (reset_ != nullptr) {
    reset_((value & kFull) != 0 ? Kind::kFull : (value & kHard) != 0 ? Kind::kHard : Kind::kSoft);
  }
  return nullptr;
}

Task<void> ResetControl::Quiesce() { co_return; }

Task<void> ResetControl::Reset() {
  const MutexLock lock(mutex_);
  value_ = 0;
  co_return;
}

EncodedState ResetControl::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.U8(value_);
  return {.type = std::string(kResetStateType),
          .version = kResetStateVersion,
          .bytes = writer.Finish()};
}

absl::Status ResetControl::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kResetStateType, kResetStateVersion));
  StateReader reader(state.bytes);
  const uint8_t value = reader.U8();
  RETURN_IF_ERROR(reader.Finish());
  const MutexLock lock(mutex_);
  value_ = value & 0x0e;
  return absl::OkStatus();
}

}  // namespace vireo
