// The clock and its battery-backed memory (Motorola MC146818), ports 0x70 (index) and 0x71 (data).
//
// The clock shows the host's UTC plus an offset, which is what the guest changes when it sets the
// time; nothing ticks. Flags that nobody waits for are worked out when they are read, and a timer
// runs only while an interrupt is enabled and not yet pending: an idle clock costs nothing.
//
//   0x00 - 0x09  seconds, alarm, minutes, alarm, hours, alarm, weekday, day, month, year
//   0x0a - 0x0d  registers A to D
//   0x0e - 0x7f  memory; 0x32 is the century, some bytes tell firmware how much RAM there is
//
// Registers are used by vCPU threads, the timer by the clock's loop: one mutex.

#ifndef VIREO_DEVICES_CMOS_RTC_H_
#define VIREO_DEVICES_CMOS_RTC_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/interrupt.h"
#include "devices/lifecycle.h"

namespace vireo {

class CmosRtc final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint16_t kPort = 0x70;
  static constexpr uint64_t kPorts = 2;
  static constexpr size_t kBytes = 128;  // Of registers and memory.

  struct Options {
    uint64_t ram_below_4g_bytes = 0;  // As firmware finds it in 0x15-0x18, 0x30, 0x31, 0x34, 0x35,
    uint64_t ram_above_4g_bytes = 0;  // and 0x5b-0x5d.
    absl::Duration offset;            // Of the guest's clock from UTC at the first power-on.
  };

  // `clock` and `interrupt` (IRQ 8) outlive the device, which is quiesced before it is destroyed.
  CmosRtc(Clock& clock, InterruptLine& interrupt, const Options& options);

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  // Memory byte `index` (0x0e to 0x7f), for what the machine tells firmware. Kept over a reset.
  void SetMemory(uint8_t index, uint8_t value);

  // How far the guest's clock is ahead of UTC now. Any thread.
  absl::Duration offset() const;

  Task<void> Quiesce() override;
  void Resume() override;
  // The reset pin: disables interrupts. The battery keeps time and memory.
  Task<void> Reset() override;
  // Time goes on between Save and Restore: the offset is kept, not the time.
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  // A point of the guest's time.
  struct Moment {
    int64_t seconds = 0;  // Since 1970 in the guest's idea.
    int64_t nanoseconds = 0;
    friend auto operator<=>(const Moment&, const Moment&) = default;
  };

  Moment Now() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Running() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t Encode(int value) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Decode(uint8_t value) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int DecodeHour(uint8_t value) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Time to registers and back. While the clock stands, the registers are the time.
  void LatchTime(const Moment& moment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetTimeFromRegisters(int64_t nanoseconds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  uint8_t ReadMemory(uint8_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteMemory(uint8_t index, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // What an alarm register asks for; nothing when any value will do.
  std::optional<int> AlarmField(uint8_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first second after `after` that matches the alarm registers.
  std::optional<int64_t> NextAlarm(int64_t after) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Periods of 1/32768 s between periodic flags; 0 when off.
  int64_t PeriodTicks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sets the flags of everything that happened since the last call.
  void CatchUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drives the line and arms the timer for the next enabled interrupt.
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnTimer();

  Clock& clock_;
  InterruptLine& interrupt_;

  mutable Mutex mutex_;
  std::array<uint8_t, kBytes> memory_ ABSL_GUARDED_BY(mutex_) = {};
  uint8_t index_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t flags_ ABSL_GUARDED_BY(mutex_) = 0;  // Register C without IRQF.
  absl::Duration offset_ ABSL_GUARDED_BY(mutex_);
  Moment caught_up_ ABSL_GUARDED_BY(mutex_);
  bool interrupt_asserted_ ABSL_GUARDED_BY(mutex_) = false;
  bool quiet_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<Timer> timer_;  // Last: its callback uses the rest.
};

}  // namespace vireo

#endif  // VIREO_DEVICES_CMOS_RTC_H_
