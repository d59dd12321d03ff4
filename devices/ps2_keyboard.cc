#include "devices/ps2_keyboard.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"

namespace vireo {
namespace {

constexpr uint8_t kSetLeds = 0xed;  // The first of the commands.
constexpr uint8_t kEcho = 0xee;
constexpr uint8_t kScanCodeSet = 0xf0;
constexpr uint8_t kIdentify = 0xf2;
constexpr uint8_t kSetTypematic = 0xf3;
constexpr uint8_t kEnable = 0xf4;
constexpr uint8_t kDefaultsAndDisable = 0xf5;
constexpr uint8_t kDefaults = 0xf6;
constexpr uint8_t kAllKeysTypematic = 0xf7;
constexpr uint8_t kAllKeysAllKinds = 0xfa;
constexpr uint8_t kKeyTypematic = 0xfb;
constexpr uint8_t kKeyMakeBreak = 0xfc;
constexpr uint8_t kKeyMake = 0xfd;
constexpr uint8_t kResend = 0xfe;
constexpr uint8_t kReset = 0xff;

constexpr uint8_t kAcknowledge = 0xfa;
constexpr uint8_t kSelfTestPassed = 0xaa;
constexpr uint8_t kSendAgain = 0xfe;  // What the host sent was no command.

bool WaitsForValue(uint8_t command) {
  switch (command) {
    case kSetLeds:
    case kScanCodeSet:
    case kSetTypematic:
    case kKeyTypematic:
    case kKeyMakeBreak:
    case kKeyMake:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Ps2Keyboard::Answer(std::initializer_list<uint8_t> bytes) {
  VIREO_CHECK(bytes.size() <= answer_.size());
  std::ranges::copy(bytes, answer_.begin());
  answer_bytes_ = static_cast<uint8_t>(bytes.size());
  sent_ = 0;
}

uint8_t Ps2Keyboard::Take() {
  VIREO_CHECK(HasOutput());
  last_sent_ = answer_[sent_++];
  return last_sent_;
}

void Ps2Keyboard::SetDefaults() {
  scan_code_set_ = 2;
  typematic_ = 0x2b;
}

void Ps2Keyboard::Write(uint8_t byte) {
  const uint8_t waiting = std::exchange(pending_command_, 0);
  // A command where a value is due ends the command before it.
  if (waiting != 0 && byte < kSetLeds) {
    Value(waiting, byte);
  } else {
    Command(byte);
  }
}

void Ps2Keyboard::Command(uint8_t command) {
  switch (command) {
    case kEcho:
      Answer({kEcho});
      break;
    case kIdentify:
      Answer({kAcknowledge, 0xab, 0x83});
      break;
    case kEnable:
      scanning_ = true;
      Answer({kAcknowledge});
      break;
    case kDefaultsAndDisable:
      SetDefaults();
      scanning_ = false;
      Answer({kAcknowledge});
      break;
    case kDefaults:
      SetDefaults();
      Answer({kAcknowledge});
      break;
    case kResend:
      Answer({last_sent_});
      break;
    case kReset:
      SetDefaults();
      leds_ = 0;
      scanning_ = true;
      Answer({kAcknowledge, kSelfTestPassed});
      break;
    default:
      if (WaitsForValue(command)) {
        pending_command_ = command;
        Answer({kAcknowledge});
      } else if (command >= kAllKeysTypematic && command <= kAllKeysAllKinds) {
        // Which keys repeat and tell of their release, in scan code set 3.
        Answer({kAcknowledge});
      } else {
        Answer({kSendAgain});
      }
  }
}

void Ps2Keyboard::Value(uint8_t command, uint8_t value) {
  switch (command) {
    case kSetLeds:
      leds_ = value & 7;
      break;
    case kSetTypematic:
      typematic_ = value & 0x7f;
      break;
    case kScanCodeSet:
      if (value == 0) {
        Answer({kAcknowledge, scan_code_set_});
        return;
      }
      if (value > 3) {
        Answer({kSendAgain});
        return;
      }
      scan_code_set_ = value;
      break;
    default:
      // A list of keys, of scan code set 3: it ends with the next command.
      pending_command_ = command;
      break;
  }
  Answer({kAcknowledge});
}

void Ps2Keyboard::Save(StateWriter& writer) const {
  writer.Bytes(std::span(answer_).first(answer_bytes_));
  writer.U8(sent_);
  writer.U8(last_sent_);
  writer.U8(pending_command_);
  writer.U8(scan_code_set_);
  writer.U8(typematic_);
  writer.U8(leds_);
  writer.Bool(scanning_);
}

void Ps2Keyboard::Restore(StateReader& reader) {
  const std::vector<uint8_t> answer = reader.Bytes();
  sent_ = reader.U8();
  if (answer.size() > answer_.size() || sent_ > answer.size()) {
    reader.Fail("a keyboard's answer that is too long");
    return;
  }
  answer_ = {};
  std::ranges::copy(answer, answer_.begin());
  answer_bytes_ = static_cast<uint8_t>(answer.size());
  last_sent_ = reader.U8();
  pending_command_ = reader.U8();
  if (pending_command_ != 0 && !WaitsForValue(pending_command_)) {
    reader.Fail("a keyboard's command that waits for nothing");
  }
  scan_code_set_ = reader.U8();
  if (reader.status().ok() && (scan_code_set_ < 1 || scan_code_set_ > 3)) {
    reader.Fail("a scan code set that is not 1, 2 or 3");
  }
  typematic_ = reader.U8();
  leds_ = reader.U8();
  scanning_ = reader.Bool();
}

}  // namespace vireo
