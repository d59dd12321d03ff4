// A PS/2 keyboard of 101 keys (IBM PS/2 Hardware Interface Technical Reference, "101- and 102-Key
// Keyboards") on which nobody types: it takes the host's commands and answers them at once, so that
// firmware and drivers that look for a keyboard find one and do not wait for their time to run out.
//
// Not thread safe: it is a part of the keyboard controller (devices/i8042.h), used under its mutex.

#ifndef VIREO_DEVICES_PS2_KEYBOARD_H_
#define VIREO_DEVICES_PS2_KEYBOARD_H_

#include <array>
#include <cstdint>
#include <initializer_list>

#include "base/state.h"

namespace vireo {

class Ps2Keyboard {
 public:
  // A byte from the host: a command, or the value that the last command waits for. As on the wire
  // it cuts off what the keyboard was still sending.
  void Write(uint8_t byte);

  // The bytes of the keyboard to the host, not translated (scan code set 2). Take() wants one.
  bool HasOutput() const { return sent_ < answer_bytes_; }
  uint8_t Take();

  uint8_t leds() const { return leds_; }       // Bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
  bool scanning() const { return scanning_; }  // Keys would be reported.

  void Save(StateWriter& writer) const;
  // Values that cannot be make the reader fail. The keyboard is then not to be used.
  void Restore(StateReader& reader);

 private:
  void Answer(std::initializer_list<uint8_t> bytes);
  void Command(uint8_t command);
  void Value(uint8_t command, uint8_t value);
  void SetDefaults();

  std::array<uint8_t, 3> answer_ = {};
  uint8_t answer_bytes_ = 0;
  uint8_t sent_ = 0;  // Of the answer.
  uint8_t last_sent_ = 0;
  uint8_t pending_command_ = 0;  // Waits for a value; 0: none.
  uint8_t scan_code_set_ = 2;
  uint8_t typematic_ = 0x2b;  // 500 ms until the first repetition, then 10.9 a second.
  uint8_t leds_ = 0;
  bool scanning_ = true;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_PS2_KEYBOARD_H_
