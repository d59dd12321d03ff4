#include "devices/serial_16550.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "serial-16550";
constexpr uint32_t kStateVersion = 1;

constexpr uint8_t kIerReceived = 1 << 0;
constexpr uint8_t kIerTransmitterEmpty = 1 << 1;
constexpr uint8_t kIerLineStatus = 1 << 2;
constexpr uint8_t kIerModemStatus = 1 << 3;
constexpr uint8_t kIerMask = 0x0f;

// IIR, highest priority first.
constexpr uint8_t kIirLineStatus = 0x06;
constexpr uint8_t kIirReceived = 0x04;
constexpr uint8_t kIirTimeout = 0x0c;
constexpr uint8_t kIirTransmitterEmpty = 0x02;
constexpr uint8_t kIirModemStatus = 0x00;
constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirFifos = 0xc0;

constexpr uint8_t kFcrEnable = 1 << 0;
constexpr uint8_t kFcrClearReceiver = 1 << 1;
constexpr uint8_t kFcrKept = 0xc9;  // Enable, DMA mode, trigger level.

constexpr uint8_t kLcrDlab = 1 << 7;

constexpr uint8_t kMcrDtr = 1 << 0;
constexpr uint8_t kMcrRts = 1 << 1;
constexpr uint8_t kMcrOut1 = 1 << 2;
constexpr uint8_t kMcrOut2 = 1 << 3;
constexpr uint8_t kMcrLoop = 1 << 4;
constexpr uint8_t kMcrMask = 0x1f;

constexpr uint8_t kLsrDataReady = 1 << 0;
constexpr uint8_t kLsrOverrun = 1 << 1;
constexpr uint8_t kLsrTransmitterEmpty =
    (1 << 5) | (1 << 6);  // Holding register and shift register.

constexpr uint8_t kMsrCts = 1 << 4;
constexpr uint8_t kMsrDsr = 1 << 5;
constexpr uint8_t kMsrRi = 1 << 6;
constexpr uint8_t kMsrDcd = 1 << 7;

}  // namespace

Serial16550::Serial16550(InterruptLine& interrupt, Callbacks callbacks)
    : interrupt_(interrupt), callbacks_(std::move(callbacks)) {}

size_t Serial16550::Capacity() const {
  return (registers_.fifo_control & kFcrEnable) != 0 ? kFifoBytes : 1;
}

bool Serial16550::AcceptsInput() const {
  return !quiet_ && (registers_.modem_control & kMcrLoop) == 0 &&
         registers_.fifo_count < Capacity();
}

bool Serial16550::TakeRoom() {
  if (!refused_input_ || !AcceptsInput()) return false;
  refused_input_ = false;
  return true;
}

void Serial16550::PushReceived(uint8_t byte) {
  if (registers_.fifo_count >= Capacity()) {
    // Only loopback gets here: input from outside waits for room.
    registers_.line_errors |= kLsrOverrun;
    return;
  }
  registers_.fifo[(registers_.fifo_first + registers_.fifo_count) % kFifoBytes] = byte;
  ++registers_.fifo_count;
}

uint8_t Serial16550::PopReceived() {
  if (registers_.fifo_count == 0) return 0;
  const uint8_t byte = registers_.fifo[registers_.fifo_first];
  registers_.fifo_first = (registers_.fifo_first + 1) % kFifoBytes;
  --registers_.fifo_count;
  return byte;
}

size_t Serial16550::Receive(std::span<const uint8_t> bytes) {
  const MutexLock lock(mutex_);
  size_t taken = 0;
  while (taken < bytes.size() && AcceptsInput()) PushReceived(bytes[taken++]);
  if (taken < bytes.size()) refused_input_ = true;
  UpdateInterrupt();
  return taken;
}

// The modem bits in the upper half of MSR. Looped back, they are our own outputs; otherwise a peer
// is there and ready.
uint8_t Serial16550::ModemInputs() const {
  const uint8_t control = registers_.modem_control;
  if ((control & kMcrLoop) == 0) return kMsrDcd | kMsrDsr | kMsrCts;
  return ((control & kMcrRts) != 0 ? kMsrCts : 0) | ((control & kMcrDtr) != 0 ? kMsrDsr : 0) |
         ((control & kMcrOut1) != 0 ? kMsrRi : 0) | ((control & kMcrOut2) != 0 ? kMsrDcd : 0);
}

uint8_t Serial16550::InterruptCause() const {
  const uint8_t enabled = registers_.interrupt_enable;
  if ((enabled & kIerLineStatus) != 0 && registers_.line_errors != 0) return kIirLineStatus;
  if ((enabled & kIerReceived) != 0 && registers_.fifo_count > 0) {
    // Below the trigger level a real part waits four characters' time for more. Nobody gains from
    // that here, but a driver may read as many bytes as the level says without looking: so report a
    // timeout.
    static constexpr std::array<uint8_t, 4> kTriggerLevels = {1, 4, 8, 14};
    const bool fifos = (registers_.fifo_control & kFcrEnable) != 0;
    const uint8_t level = fifos ? kTriggerLevels[registers_.fifo_control >> 6] : 1;
    return registers_.fifo_count >= level ? kIirReceived : kIirTimeout;
  }
  if ((enabled & kIerTransmitterEmpty) != 0 && registers_.transmit_interrupt) {
    return kIirTransmitterEmpty;
  }
  if ((enabled & kIerModemStatus) != 0 && registers_.modem_changes != 0) return kIirModemStatus;
  return kIirNone;
}

// On a PC, OUT2 gates the interrupt. Other virtual machines do not have the gate, and small kernels
// that never set OUT2 rely on it.
void Serial16550::UpdateInterrupt() {
  const bool wanted = InterruptCause() != kIirNone;
  if (wanted == interrupt_asserted_) return;
  interrupt_asserted_ = wanted;
  if (wanted) {
    interrupt_.Assert();
  } else {
    interrupt_.Deassert();
  }
}

uint8_t Serial16550::ReadRegister(uint64_t offset, Aftermath& aftermath) {
  const bool dlab = (registers_.line_control & kLcrDlab) != 0;
  switch (offset) {
    case 0: {
      if (dlab) return static_cast<uint8_t>(registers_.divisor);
      const uint8_t byte = PopReceived();
      aftermath.room |= TakeRoom();
      return byte;
    }
    case 1:
      return dlab ? static_cast<uint8_t>(registers_.divisor >> 8) : registers_.interrupt_enable;
    case 2: {
      const uint8_t cause = InterruptCause();
      // Reading IIR acknowledges this cause only.
      if (cause == kIirTransmitterEmpty) registers_.transmit_interrupt = false;
      return cause | ((registers_.fifo_control & kFcrEnable) != 0 ? kIirFifos : 0);
    }
    case 3:
      return registers_.line_control;
    case 4:
      return registers_.modem_control;
    case 5: {
      const uint8_t errors = std::exchange(registers_.line_errors, 0);
      return errors | kLsrTransmitterEmpty | (registers_.fifo_count > 0 ? kLsrDataReady : 0);
    }
    case 6:
      return ModemInputs() | std::exchange(registers_.modem_changes, 0);
    case 7:
      return registers_.scratch;
    default:
      return 0xff;
  }
}

void Serial16550::WriteRegister(uint64_t offset, uint8_t value, Aftermath& aftermath) {
  const bool dlab = (registers_.line_control & kLcrDlab) != 0;
  switch (offset) {
    case 0:
      if (dlab) {
        registers_.divisor = (registers_.divisor & 0xff00) | value;
        return;
      }
      // Sent at once: the holding register is empty again, which is an event of its own.
      registers_.transmit_interrupt = true;
      if ((registers_.modem_control & kMcrLoop) != 0) {
        PushReceived(value);
      } else {
        aftermath.transmit = true;
        aftermath.byte = value;
      }
      return;
    case 1: {
      if (dlab) {
        registers_.divisor = static_cast<uint16_t>((registers_.divisor & 0x00ff) | value << 8);
        return;
      }
      const uint8_t raised = static_cast<uint8_t>(value & ~registers_.interrupt_enable);
      registers_.interrupt_enable = value & kIerMask;
      // Enabling it while the transmitter is empty interrupts; drivers test their parts for that.
      if ((raised & kIerTransmitterEmpty) != 0) registers_.transmit_interrupt = true;
      return;
    }
    case 2:
      // Switching the FIFOs on or off empties them.
      if ((value & kFcrClearReceiver) != 0 ||
          ((value ^ registers_.fifo_control) & kFcrEnable) != 0) {
        registers_.fifo_count = 0;
      }
      registers_.fifo_control = (value & kFcrEnable) != 0 ? value & kFcrKept : 0;
      aftermath.room |= TakeRoom();
      return;
    case 3:
      registers_.line_control = value;
      return;
    case 4: {
      const uint8_t before = ModemInputs();
      registers_.modem_control = value & kMcrMask;
      const uint8_t after = ModemInputs();
      // Changes of CTS, DSR and DCD; of RI only its end (bit 2 is "trailing edge").
      registers_.modem_changes |= (before ^ after) >> 4 & 0x0b;
      if ((before & kMsrRi) != 0 && (after & kMsrRi) == 0) registers_.modem_changes |= 0x04;
      aftermath.room |= TakeRoom();
      return;
    }
    case 7:
      registers_.scratch = value;
      return;
    default:  // LSR and MSR are read-only.
      return;
  }
}

void Serial16550::Finish(const Aftermath& aftermath) {
  if (aftermath.transmit && callbacks_.transmitted != nullptr) {
    const MutexLock lock(transmit_mutex_);
    callbacks_.transmitted({&aftermath.byte, 1});
  }
  if (aftermath.room && callbacks_.room != nullptr) callbacks_.room();
}

void Serial16550::Read(uint64_t offset, std::span<uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    Aftermath aftermath;
    {
      const MutexLock lock(mutex_);
      data[i] = ReadRegister(offset + i, aftermath);
      UpdateInterrupt();
    }
    Finish(aftermath);
  }
}

std::shared_ptr<Parking> Serial16550::Write(uint64_t offset, std::span<const uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    Aftermath aftermath;
    {
      const MutexLock lock(mutex_);
      WriteRegister(offset + i, data[i], aftermath);
      UpdateInterrupt();
    }
    Finish(aftermath);
  }
  return nullptr;
}

Task<void> Serial16550::Quiesce() {
  const MutexLock lock(mutex_);
  quiet_ = true;
  co_return;
}

void Serial16550::Resume() {
  Aftermath aftermath;
  {
    const MutexLock lock(mutex_);
    quiet_ = false;
    aftermath.room = TakeRoom();
  }
  Finish(aftermath);
}

Task<void> Serial16550::Reset() {
  Aftermath aftermath;
  {
    const MutexLock lock(mutex_);
    registers_ = Registers();
    UpdateInterrupt();
    aftermath.room = TakeRoom();
  }
  Finish(aftermath);
  co_return;
}

EncodedState Serial16550::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.U8(registers_.interrupt_enable);
  writer.U8(registers_.fifo_control);
  writer.U8(registers_.line_control);
  writer.U8(registers_.modem_control);
  writer.U8(registers_.line_errors);
  writer.U8(registers_.modem_changes);
  writer.U8(registers_.scratch);
  writer.U16(registers_.divisor);
  writer.Bool(registers_.transmit_interrupt);
  std::array<uint8_t, kFifoBytes> received;
  for (size_t i = 0; i < registers_.fifo_count; ++i) {
    received[i] = registers_.fifo[(registers_.fifo_first + i) % kFifoBytes];
  }
  writer.Bytes(std::span(received).first(registers_.fifo_count));
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status Serial16550::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  Registers registers;
  registers.interrupt_enable = reader.U8() & kIerMask;
  registers.fifo_control = reader.U8() & kFcrKept;
  registers.line_control = reader.U8();
  registers.modem_control = reader.U8() & kMcrMask;
  registers.line_errors = reader.U8() & kLsrOverrun;
  registers.modem_changes = reader.U8() & 0x0f;
  registers.scratch = reader.U8();
  registers.divisor = reader.U16();
  registers.transmit_interrupt = reader.Bool();
  const std::vector<uint8_t> received = reader.Bytes();
  if (received.size() > kFifoBytes) reader.Fail("more bytes than the FIFO holds");
  RETURN_IF_ERROR(reader.Finish());
  registers.fifo_count = static_cast<uint8_t>(received.size());
  std::ranges::copy(received, registers.fifo.begin());
  const MutexLock lock(mutex_);
  registers_ = registers;
  UpdateInterrupt();
  return absl::OkStatus();
}

}  // namespace vireo
