// The physical region descriptor table of one command (AHCI 1.3.1 §4.2.3.3): where in guest memory
// its data goes, piece by piece. An entry is read when the data reaches it, once, and no entry is
// read that no data reaches.
//
// One thread at a time. Whoever writes through it knows that the command is still the guest's.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_PRD_TABLE_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_PRD_TABLE_H_

#include <cstdint>
#include <span>

#include "base/memory/guest_address.h"
#include "base/memory/guest_memory.h"

namespace vireo::ahci {

class PrdTable {
 public:
  enum class Outcome {
    kAll,    // All of it was written.
    kFull,   // The table ended first; the rest is nowhere.
    kFault,  // The table, or what it names, is not RAM. Some of it may have been written.
  };

  // `memory` outlives the table. `at` is the first of `entries` entries.
  PrdTable(GuestMemory& memory, GuestAddress at, uint16_t entries)
      : memory_(&memory), next_(at), entries_left_(entries) {}

  // Writes where the last call ended. Marks the pages dirty.
  Outcome Write(std::span<const uint8_t> bytes);

  uint64_t written() const { return written_; }
  // True when an entry that asks for an interrupt was filled since this was last asked.
  bool TakeInterrupt();

 private:
  // False when the entry is not RAM.
  bool NextEntry();

  GuestMemory* memory_;
  GuestAddress next_;
  uint16_t entries_left_;
  GuestAddress piece_;
  uint32_t piece_left_ = 0;
  bool piece_interrupts_ = false;
  bool interrupt_ = false;
  uint64_t written_ = 0;
};

}  // namespace vireo::ahci

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_PRD_TABLE_H_
