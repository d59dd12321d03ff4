// A 16550A serial port (National Semiconductor PC16550D datasheet), as the Linux 8250 driver,
// firmware and boot loaders use it. Eight byte-wide registers; the line is instant: the transmitter
// is always empty, and received bytes wait in the FIFO of 16 until the guest reads them.
//
//   offset  DLAB 0 read / write     DLAB 1
//   0       RBR / THR               divisor, low byte
//   1       IER                     divisor, high byte
//   2       IIR / FCR
//   3       LCR (bit 7 is DLAB)
//   4       MCR
//   5       LSR
//   6       MSR
//   7       scratch
//
// Registers are used by vCPU threads, Receive() by any thread: one mutex, never held in a callback.

#ifndef VIREO_DEVICES_SERIAL_16550_H_
#define VIREO_DEVICES_SERIAL_16550_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "base/mutex.h"
#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/lifecycle.h"

namespace vireo {

class Serial16550 final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint64_t kPorts = 8;
  static constexpr uint16_t kCom1 = 0x3f8;  // IRQ 4.
  static constexpr uint16_t kCom2 = 0x2f8;  // IRQ 3.

  struct Callbacks {
    // The guest sent `bytes`. On a vCPU thread, one call at a time, and quick: the vCPU waits.
    absl::AnyInvocable<void(std::span<const uint8_t> bytes)> transmitted;
    // Receive() refused bytes before and would now take some. Any thread. May be null.
    absl::AnyInvocable<void()> room;
  };

  // `interrupt` outlives the port.
  Serial16550(InterruptLine& interrupt, Callbacks callbacks);

  // Bytes for the guest, in order. Returns how many were taken: as many as the FIFO has room for,
  // none while quiet or looped back. When some were refused, `room` says when to offer them again.
  // Any thread.
  size_t Receive(std::span<const uint8_t> bytes);

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  Task<void> Quiesce() override;
  void Resume() override;
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  static constexpr size_t kFifoBytes = 16;

  // All that the guest can see.
  struct Registers {
    uint8_t interrupt_enable = 0;
    uint8_t fifo_control = 0;
    uint8_t line_control = 0;
    uint8_t modem_control = 0;
    uint8_t line_errors = 0;    // LSR bits that reading clears.
    uint8_t modem_changes = 0;  // MSR bits that reading clears.
    uint8_t scratch = 0;
    uint16_t divisor = 12;  // 9600 baud, as a BIOS leaves it.
    bool transmit_interrupt =
        false;  // The transmitter became empty, and the guest was not yet told.
    std::array<uint8_t, kFifoBytes> fifo = {};
    uint8_t fifo_first = 0;
    uint8_t fifo_count = 0;
  };

  // What a register access leaves to do when the mutex is released.
  struct Aftermath {
    bool transmit = false;
    uint8_t byte = 0;
    bool room = false;
  };

  uint8_t ReadRegister(uint64_t offset, Aftermath& aftermath) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegister(uint64_t offset, uint8_t value, Aftermath& aftermath)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(const Aftermath& aftermath);

  size_t Capacity() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PushReceived(uint8_t byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t PopReceived() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ModemInputs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t InterruptCause() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AcceptsInput() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True when refused input should be offered again; forgets that it was refused.
  bool TakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateInterrupt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  InterruptLine& interrupt_;
  Callbacks callbacks_;
  Mutex transmit_mutex_;  // Orders calls of callbacks_.transmitted; taken without mutex_.

  mutable Mutex mutex_;
  Registers registers_ ABSL_GUARDED_BY(mutex_);
  bool interrupt_asserted_ ABSL_GUARDED_BY(mutex_) = false;
  bool refused_input_ ABSL_GUARDED_BY(mutex_) = false;
  bool quiet_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_SERIAL_16550_H_
