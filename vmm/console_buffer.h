// What the guest has printed: a ring of the last bytes, and the readers that follow it. vCPU
// threads append, the control loop hands on. A reader that comes late first gets what the ring
// still holds.
#ifndef VIREO_VMM_CONSOLE_BUFFER_H_
#define VIREO_VMM_CONSOLE_BUFFER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "base/mutex.h"
#include "vmm/reader_list.h"
#include "vmm/vm_controller.h"

namespace vireo {

class ConsoleBuffer {
 public:
  // `loop` outlives the buffer and every Post() that it makes; it runs the readers. `history_bytes`
  // is at least 1.
  ConsoleBuffer(EventLoop& loop, size_t history_bytes);
  ~ConsoleBuffer();

  // Before anything was appended.
  void SetHistory(size_t history_bytes);

  // Any thread. When readers are so far behind that they would miss bytes, waits for them, for at
  // most kMaxStall each time: a guest that prints fast is slowed down, one whose readers hang is
  // not.
  void Append(std::span<const uint8_t> bytes);

  // Any thread: OnInputRoom() to every reader.
  void TellOfInputRoom();

  void AddReader(std::shared_ptr<ConsoleReader> reader);
  // Returns when no call to `reader` is running, unless made from within one.
  void RemoveReader(const ConsoleReader* reader);

  // On the loop: hands on what is left, then OnClosed() to every reader, also to later ones.
  void Close();

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;  // Outlived by posted dispatches, which find it closed.
};

}  // namespace vireo

#endif  // VIREO_VMM_CONSOLE_BUFFER_H_
