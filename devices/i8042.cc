#include "devices/i8042.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace vireo {
namespace {

constexpr std::string_view kStateType = "i8042";
constexpr uint32_t kStateVersion = 2;  // 1 had no keyboard.

constexpr uint8_t kStatusOutputFull = 1 << 0;
constexpr uint8_t kStatusSystem = 1 << 2;   // The self test has passed.
constexpr uint8_t kStatusCommand = 1 << 3;  // The last write was a command.
constexpr uint8_t kStatusUnlocked = 1 << 4;
constexpr uint8_t kStatusAuxOutput = 1 << 5;
constexpr uint8_t kStatusTimeout = 1 << 6;

constexpr uint8_t kByteKeyboardInterrupt = 1 << 0;
constexpr uint8_t kByteSystem = 1 << 2;
constexpr uint8_t kByteKeyboardDisabled = 1 << 4;
constexpr uint8_t kByteAuxDisabled = 1 << 5;
constexpr uint8_t kByteTranslate = 1 << 6;

constexpr uint8_t kOutputPortNoReset = 1 << 0;
constexpr uint8_t kOutputPortA20 = 1 << 1;

constexpr uint8_t kReadRam = 0x20;   // To 0x3f.
constexpr uint8_t kWriteRam = 0x60;  // To 0x7f.
constexpr uint8_t kDisableAux = 0xa7;
constexpr uint8_t kEnableAux = 0xa8;
constexpr uint8_t kTestAux = 0xa9;
constexpr uint8_t kSelfTest = 0xaa;
constexpr uint8_t kTestKeyboard = 0xab;
constexpr uint8_t kDisableKeyboard = 0xad;
constexpr uint8_t kEnableKeyboard = 0xae;
constexpr uint8_t kReadInputPort = 0xc0;
constexpr uint8_t kReadOutputPort = 0xd0;
constexpr uint8_t kWriteOutputPort = 0xd1;
constexpr uint8_t kWriteKeyboardOutput = 0xd2;
constexpr uint8_t kWriteAuxOutput = 0xd3;
constexpr uint8_t kWriteToAux = 0xd4;
constexpr uint8_t kPulse = 0xf0;  // To 0xff.

constexpr uint8_t kSelfTestPassed = 0x55;
constexpr uint8_t kInterfacePassed = 0x00;
constexpr uint8_t kClockStuckHigh = 0x02;  // Interface test: nothing pulls the line.
constexpr uint8_t kResend = 0xfe;  // What the controller says for a device that stays silent.

// From scan code set 2 to set 1, for the bytes that a keyboard on which nobody types can send: the
// second byte of its identity, and which scan code set it has. Its other answers stay as they are.
uint8_t Translate(uint8_t byte) {
  switch (byte) {
    case 0x01:
      return 0x43;
    case 0x02:
      return 0x41;
    case 0x03:
      return 0x3f;
    case 0x83:
      return 0x41;
    default:
      return byte;
  }
}

}  // namespace

void I8042::Port::Read(uint64_t offset, std::span<uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = offset + i == 0 ? (controller_.*get_)() : 0xff;
  }
}

std::shared_ptr<Parking> I8042::Port::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (offset == 0 && !data.empty()) (controller_.*set_)(data[0]);
  return nullptr;
}

I8042::I8042(InterruptLine& keyboard_interrupt, absl::AnyInvocable<void()> reset)
    : keyboard_interrupt_(keyboard_interrupt),
      reset_(std::move(reset)),
      data_(*this, &I8042::ReadData, &I8042::WriteData),
      command_(*this, &I8042::ReadStatus, &I8042::WriteCommand),
      fast_a20_(*this, &I8042::ReadFastA20, &I8042::WriteFastA20),
      registers_(PowerOn()) {}

I8042::Registers I8042::PowerOn() {
  Registers registers;
  registers.command_byte = kByteSystem | kByteKeyboardDisabled | kByteAuxDisabled;
  registers.output_port = kOutputPortNoReset | kOutputPortA20;
  registers.status = kStatusSystem | kStatusUnlocked;
  return registers;
}

void I8042::Answer(uint8_t value, uint8_t status_bits) {
  registers_.output = value;
  registers_.status &= ~(kStatusAuxOutput | kStatusTimeout);
  registers_.status |= kStatusOutputFull | status_bits;
}

void I8042::Update() {
  if (keyboard_.HasOutput() && (registers_.status & kStatusOutputFull) == 0 &&
      (registers_.command_byte & kByteKeyboardDisabled) == 0) {
    const uint8_t byte = keyboard_.Take();
    Answer((registers_.command_byte & kByteTranslate) != 0 ? Translate(byte) : byte, 0);
  }
  UpdateInterrupt();
}

void I8042::UpdateInterrupt() {
  const bool wanted = (registers_.status & kStatusOutputFull) != 0 &&
                      (registers_.status & kStatusAuxOutput) == 0 &&
                      (registers_.command_byte & kByteKeyboardInterrupt) != 0;
  if (wanted == interrupt_asserted_) return;
  interrupt_asserted_ = wanted;
  if (wanted) {
    keyboard_interrupt_.Assert();
  } else {
    keyboard_interrupt_.Deassert();
  }
}

bool I8042::SetOutputPort(uint8_t value) {
  // The reset line is a level: what is kept is that it was released again.
  registers_.output_port = value | kOutputPortNoReset;
  return (value & kOutputPortNoReset) == 0;
}

void I8042::RequestReset() {
  const MutexLock lock(reset_mutex_);
  if (reset_ != nullptr) reset_();
}

uint8_t I8042::ReadStatus() {
  const MutexLock lock(mutex_);
  return registers_.status;
}

uint8_t I8042::ReadData() {
  const MutexLock lock(mutex_);
  const uint8_t value = registers_.output;
  registers_.status &= ~(kStatusOutputFull | kStatusAuxOutput | kStatusTimeout);
  UpdateInterrupt();  // IRQ 1 is an edge: it falls before it rises for the next byte.
  Update();
  return value;
}

void I8042::WriteCommand(uint8_t command) {
  bool reset = false;
  {
    const MutexLock lock(mutex_);
    registers_.status |= kStatusCommand;
    registers_.pending_command = 0;
    if (command >= kReadRam && command < kReadRam + 0x20) {
      Answer(command == kReadRam ? registers_.command_byte : registers_.ram[command & 0x1f], 0);
    } else if (command >= kWriteRam && command < kWriteRam + 0x20) {
      registers_.pending_command = command;
    } else if (command >= kPulse) {
      // Pulls the output port bits that are 0 in the command; bit 0 is the processor's reset.
      reset = (command & kOutputPortNoReset) == 0;
    } else {
      switch (command) {
        case kDisableAux:
          registers_.command_byte |= kByteAuxDisabled;
          break;
        case kEnableAux:
          registers_.command_byte &= ~kByteAuxDisabled;
          break;
        case kDisableKeyboard:
          registers_.command_byte |= kByteKeyboardDisabled;
          break;
        case kEnableKeyboard:
          registers_.command_byte &= ~kByteKeyboardDisabled;
          break;
        case kSelfTest:
          registers_.command_byte |= kByteSystem;
          registers_.status |= kStatusSystem;
          Answer(kSelfTestPassed, 0);
          break;
        case kTestKeyboard:
          Answer(kInterfacePassed, 0);
          break;
        case kTestAux:
          Answer(kClockStuckHigh, 0);
          break;
        case kReadInputPort:
          Answer(0x80, 0);  // Keyboard not locked.
          break;
        case kReadOutputPort:
          Answer(registers_.output_port, 0);
          break;
        case kWriteOutputPort:
        case kWriteKeyboardOutput:
        case kWriteAuxOutput:
        case kWriteToAux:
          registers_.pending_command = command;
          break;
        default:
          break;
      }
    }
    Update();
  }
  if (reset) RequestReset();
}

void I8042::WriteData(uint8_t value) {
  bool reset = false;
  {
    const MutexLock lock(mutex_);
    registers_.status &= ~kStatusCommand;
    const uint8_t command = std::exchange(registers_.pending_command, 0);
    if (command == kWriteRam) {
      registers_.command_byte = value;
    } else if (command > kWriteRam && command < kWriteRam + 0x20) {
      registers_.ram[command & 0x1f] = value;
    } else {
      switch (command) {
        case kWriteOutputPort:
          reset = SetOutputPort(value);
          break;
        case kWriteKeyboardOutput:
          Answer(value, 0);
          break;
        case kWriteAuxOutput:
          // Without an auxiliary port the byte comes back as a keyboard's: a driver that looks for
          // the port sees at once that there is none.
          Answer(value, 0);
          break;
        case kWriteToAux:
          Answer(kResend, kStatusAuxOutput | kStatusTimeout);
          break;
        default:
          // To the keyboard, whose interface this enables.
          registers_.command_byte &= ~kByteKeyboardDisabled;
          keyboard_.Write(value);
          break;
      }
    }
    Update();
  }
  if (reset) RequestReset();
}

uint8_t I8042::ReadFastA20() {
  const MutexLock lock(mutex_);
  return registers_.output_port & kOutputPortA20;
}

void I8042::WriteFastA20(uint8_t value) {
  {
    const MutexLock lock(mutex_);
    registers_.output_port = (registers_.output_port & ~kOutputPortA20) | (value & kOutputPortA20);
  }
  if ((value & 1) != 0) RequestReset();
}

Task<void> I8042::Quiesce() { co_return; }

Task<void> I8042::Reset() {
  const MutexLock lock(mutex_);
  registers_ = PowerOn();
  keyboard_ = Ps2Keyboard();
  Update();
  co_return;
}

EncodedState I8042::Save() const {
  const MutexLock lock(mutex_);
  StateWriter writer;
  writer.U8(registers_.command_byte);
  writer.U8(registers_.output_port);
  writer.U8(registers_.pending_command);
  writer.U8(registers_.status);
  writer.U8(registers_.output);
  writer.Bytes(registers_.ram);
  keyboard_.Save(writer);
  return {.type = std::string(kStateType), .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status I8042::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  Registers registers;
  registers.command_byte = reader.U8();
  registers.output_port = reader.U8();
  registers.pending_command = reader.U8();
  registers.status = reader.U8();
  registers.output = reader.U8();
  const std::vector<uint8_t> ram = reader.Bytes();
  if (ram.size() != registers.ram.size()) reader.Fail("not 32 bytes of controller memory");
  Ps2Keyboard keyboard;
  if (state.version >= 2) keyboard.Restore(reader);
  RETURN_IF_ERROR(reader.Finish());
  std::ranges::copy(ram, registers.ram.begin());
  const MutexLock lock(mutex_);
  registers_ = registers;
  keyboard_ = keyboard;
  Update();
  return absl::OkStatus();
}

}  // namespace vireo
