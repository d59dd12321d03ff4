// The registers of one AHCI port (AHCI 1.3.1 §3.3) as values: what is read, what a write keeps,
// what starting, stopping and the link do to them, and their saved state. No lock, no memory, no
// device: the port guards them, and acts on what was written.

#ifndef VIREO_DEVICES_STORAGE_CONTROLLERS_PORT_REGISTERS_H_
#define VIREO_DEVICES_STORAGE_CONTROLLERS_PORT_REGISTERS_H_

#include <cstdint>

#include "base/state.h"
#include "devices/storage_controllers/ahci_spec.h"

namespace vireo::ahci {

struct PortRegisters {
  uint64_t clb = 0;  // A multiple of 1,024.
  uint64_t fb = 0;   // A multiple of 256.
  uint32_t is = 0;   // But for PCS, which is PxSERR's.
  uint32_t ie = 0;
  uint32_t cmd = 0;  // ST, FRE and ATAPI; the rest follows from what happens.
  uint32_t ccs = 0;
  uint32_t tfd = 0;
  uint32_t sig = 0;
  uint32_t sctl = 0;
  uint32_t serr = 0;
  uint32_t ci = 0;
  // What the port remembers besides.
  uint32_t last_slot = kSlots - 1;  // The next search begins after it.
  bool halted = false;              // After an error, until ST is set again.
  bool held_in_reset = false;       // SRST is set.
  bool signature_unsent = false;    // Received, and not yet in the guest's memory.

  bool started() const { return (cmd & kCmdSt) != 0; }
  bool receives() const { return (cmd & kCmdFre) != 0; }
  bool link_up() const;
  bool asks_for_interrupt() const { return (shown_is() & ie) != 0; }
  bool has_commands() const { return started() && link_up() && !halted && ci != 0; }

  // `offset` is a multiple of four.
  uint32_t Read(uint32_t offset) const;
  // Of the bits in `mask`. PxCMD changes with no consequences but CLO's, PxSCTL with none.
  void Write(uint32_t offset, uint32_t value, uint32_t mask);

  // ST has changed: what was issued is forgotten and errors are, and the search for slots begins
  // anew. The device is done with whatever it was at.
  void OnStartOrStop();

  // The link comes up, and the device's first frame with it, whose status and error are `tfd`.
  void ConnectDevice(uint32_t task_file);
  void DisconnectDevice();

  // An error: nothing is served any more until the guest has cleared and set ST; the command's bit
  // stays in PxCI (§6.1).
  void Halt(uint32_t is_bits);

  // The issued slot that comes after the last one, lowest first (§5.3.2.3). One is issued.
  uint32_t NextSlot() const;

  void Save(StateWriter& writer) const;
  // What cannot be fails the reader; the registers are then of no use.
  void Restore(StateReader& reader);

 private:
  uint32_t shown_is() const;
};

}  // namespace vireo::ahci

#endif  // VIREO_DEVICES_STORAGE_CONTROLLERS_PORT_REGISTERS_H_
