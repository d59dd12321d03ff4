// A keyboard controller (Intel 8042, as the IBM PC/AT and PS/2 wired it) with a keyboard and
// without a mouse. Drivers find it, test it and learn at once, not after a time-out, what is there
// and what is not. Command 0xfe resets the machine, and A20 can be asked for.
//
//   port 0x60  data
//   port 0x64  command (write), status (read)
//   port 0x92  "fast A20": bit 1 A20, bit 0 reset
//
// Port 0x61 belongs to the timer. Any vCPU thread; one mutex, not held in the callback.

#ifndef VIREO_DEVICES_I8042_H_
#define VIREO_DEVICES_I8042_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "base/mutex.h"
#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/lifecycle.h"
#include "devices/ps2_keyboard.h"

namespace vireo {

class I8042 final : public Lifecycle {
 public:
  static constexpr uint16_t kDataPort = 0x60;
  static constexpr uint16_t kCommandPort = 0x64;
  static constexpr uint16_t kFastA20Port = 0x92;

  // `keyboard_interrupt` (IRQ 1) outlives the controller. `reset` asks for a reset of the machine;
  // it is called on a vCPU thread, which must not enter the guest again before that is done.
  I8042(InterruptLine& keyboard_interrupt, absl::AnyInvocable<void()> reset);

  // Each is one port wide.
  BusDevice& data_port() { return data_; }
  BusDevice& command_port() { return command_; }
  BusDevice& fast_a20_port() { return fast_a20_; }

  Task<void> Quiesce() override;
  void Resume() override {}
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  class Port final : public BusDevice {
   public:
    using Getter = uint8_t (I8042::*)();
    using Setter = void (I8042::*)(uint8_t);
    Port(I8042& controller, Getter get, Setter set)
        : controller_(controller), get_(get), set_(set) {}
    void Read(uint64_t offset, std::span<uint8_t> data) override;
    std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

   private:
    I8042& controller_;
    const Getter get_;
    const Setter set_;
  };

  struct Registers {
    uint8_t command_byte = 0;
    uint8_t output_port = 0;
    uint8_t pending_command = 0;  // Waits for its data byte; 0: data goes to the keyboard.
    uint8_t status = 0;           // Output full, system flag, command, time-out.
    uint8_t output = 0;
    std::array<uint8_t, 32> ram = {};  // Byte 0 is the command byte and kept there.
  };

  static Registers PowerOn();

  uint8_t ReadData();
  void WriteData(uint8_t value);
  uint8_t ReadStatus();
  void WriteCommand(uint8_t command);
  uint8_t ReadFastA20();
  void WriteFastA20(uint8_t value);

  void Answer(uint8_t value, uint8_t status_bits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the keyboard's next byte if there is one and it may be sent, and has the interrupt line
  // follow. Last in whatever changes a register.
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateInterrupt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True when bit 0 asks for a reset.
  bool SetOutputPort(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RequestReset();

  InterruptLine& keyboard_interrupt_;
  Mutex reset_mutex_;  // One call of reset_ at a time.
  absl::AnyInvocable<void()> reset_;
  Port data_;
  Port command_;
  Port fast_a20_;

  mutable Mutex mutex_;
  Registers registers_ ABSL_GUARDED_BY(mutex_);
  Ps2Keyboard keyboard_ ABSL_GUARDED_BY(mutex_);
  bool interrupt_asserted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_I8042_H_
