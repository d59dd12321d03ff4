// The ACPI fixed hardware of an ICH9 (ACPI 6.3 §4.8; I/O Controller Hub 9 datasheet, "Power
// Management I/O Registers"): power button, sleep control, power management timer, general purpose
// events, and the system control interrupt (SCI) that they share.
//
//   PMBASE + 0x00  PM1_STS  16 bits, ones clear      + 0x20  GPE0_STS  64 bits, ones clear
//          + 0x02  PM1_EN   16                       + 0x28  GPE0_EN   64
//          + 0x04  PM1_CNT  32                       + 0x30  SMI_EN    32, storage
//          + 0x08  PM_TMR   32, read-only            + 0x34  SMI_STS   32, ones clear
//   ports 0xb2, 0xb3: APM_CNT (switches ACPI on and off), APM_STS (storage)
//   port 0xcf9: reset control
//
// There is no system management mode: SMI_EN reads with APMC_EN set, which firmware takes as done
// already. The LPC bridge places the block at PMBASE. Registers are used by vCPU threads, events
// come on any thread: one mutex, not held in callbacks.

#ifndef VIREO_DEVICES_ACPI_PM_H_
#define VIREO_DEVICES_ACPI_PM_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "base/mutex.h"
#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/interrupt.h"
#include "devices/lifecycle.h"

namespace vireo {

class AcpiPm final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint64_t kBlockBytes = 128;
  static constexpr uint16_t kDefaultBase = 0x600;
  static constexpr uint64_t kTimerHertz = 3'579'545;

  // Offsets in the block, as the FADT tells them.
  static constexpr uint16_t kPm1Event = 0x00;
  static constexpr uint16_t kPm1Control = 0x04;
  static constexpr uint16_t kPmTimer = 0x08;
  static constexpr uint16_t kGpe0 = 0x20;
  static constexpr uint16_t kGpe0Bytes = 16;

  static constexpr uint16_t kApmPort = 0xb2;
  static constexpr uint64_t kApmPorts = 2;
  static constexpr uint8_t kAcpiEnableCommand = 0x02;   // FADT ACPI_ENABLE.
  static constexpr uint8_t kAcpiDisableCommand = 0x03;  // FADT ACPI_DISABLE.

  struct Options {
    // ACPI is on at power-on (SCI_EN is set), for a machine that boots without firmware.
    bool acpi_at_power_on = false;
    // The sleep type of S5, as the DSDT's \_S5 says.
    uint8_t s5_sleep_type = 0;
    // The guest switched itself off. On a vCPU thread, which must not enter the guest again.
    absl::AnyInvocable<void()> powered_off;
  };

  // `clock` and `sci` (level, active high) outlive the device, which is quiesced before it is
  // destroyed.
  AcpiPm(Clock& clock, InterruptLine& sci, Options options);

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  // Ports 0xb2 and 0xb3.
  BusDevice& apm_ports() { return apm_; }

  // --- Any thread. ---

  // The guest sees its power button pressed, if it looks.
  void PressPowerButton();
  // Sets bit `event` (0 to 63) of GPE0_STS; the guest clears it.
  void RaiseGpe(int event);
  // The guest has switched ACPI on and would hear the power button.
  bool listens_to_power_button() const;

  Task<void> Quiesce() override;
  void Resume() override;
  Task<void> Reset() override;
  // The timer counts on from where it was.
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  struct Registers {
    uint16_t pm1_status = 0;
    uint16_t pm1_enable = 0;
    uint16_t pm1_control = 0;
    uint64_t gpe0_status = 0;
    uint64_t gpe0_enable = 0;
    uint32_t smi_enable = 0;
    uint32_t smi_status = 0;
    uint8_t apm_control = 0;
    uint8_t apm_status = 0;
  };

  class ApmPorts final : public BusDevice {
   public:
    explicit ApmPorts(AcpiPm& pm) : pm_(pm) {}
    void Read(uint64_t offset, std::span<uint8_t> data) override;
    std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

   private:
    AcpiPm& pm_;
  };

  Registers PowerOn() const;
  uint8_t ReadByte(uint64_t offset, uint32_t timer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True when the guest asked to power off.
  bool WriteByte(uint64_t offset, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Timer ticks since power-on.
  uint64_t TimerCount() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sets TMR_STS if bit 23 of the timer changed since the last call.
  void CatchUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnTimer();

  Clock& clock_;
  InterruptLine& sci_;
  const bool acpi_at_power_on_;
  const uint8_t s5_sleep_type_;
  Mutex callback_mutex_;  // One call of powered_off_ at a time.
  absl::AnyInvocable<void()> powered_off_;
  ApmPorts apm_{*this};

  mutable Mutex mutex_;
  Registers registers_ ABSL_GUARDED_BY(mutex_);
  uint64_t timer_base_ ABSL_GUARDED_BY(mutex_) = 0;  // Count at `timer_start_`.
  absl::Duration timer_start_ ABSL_GUARDED_BY(mutex_);
  uint64_t timer_half_periods_ ABSL_GUARDED_BY(mutex_) =
      0;  // Changes of bit 23 that TMR_STS shows.
  bool sci_asserted_ ABSL_GUARDED_BY(mutex_) = false;
  bool quiet_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<Timer> timer_;  // Last: its callback uses the rest.
};

// Port 0xcf9 (ICH9 datasheet, "RST_CNT"): a write that sets bit 2, which was clear, resets. It lies
// within PCI's address port, so pci::RootBus hands it its accesses.
class ResetControl final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint16_t kPort = 0xcf9;
  static constexpr uint8_t kResetValue =
      0x06;  // What the FADT tells guests to write: a hard reset.

  enum class Kind {
    kSoft,  // The processors only (INIT).
    kHard,  // The platform.
    kFull,  // The platform, with a power cycle.
  };

  // On a vCPU thread, one call at a time; the vCPU must not enter the guest again before the reset.
  explicit ResetControl(absl::AnyInvocable<void(Kind)> reset) : reset_(std::move(reset)) {}

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  Task<void> Quiesce() override;
  void Resume() override {}
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  Mutex callback_mutex_;
  absl::AnyInvocable<void(Kind)> reset_;
  mutable Mutex mutex_;
  uint8_t value_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_ACPI_PM_H_
