// How a device asks for a vCPU's attention. Implemented by the machine (irqfds and MSI routes), by
// a fake in tests. Everything here may be called on any thread and takes no lock of the device.

#ifndef VIREO_DEVICES_INTERRUPT_H_
#define VIREO_DEVICES_INTERRUPT_H_

#include <cstdint>

#include "absl/status/status.h"

namespace vireo {

// A wire to an interrupt controller. Level: asserting an asserted line, or deasserting an idle one,
// changes nothing. An edge-triggered input sees each change from idle to asserted as one interrupt,
// so a device whose interrupt is a pulse calls Assert() and then Deassert().
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void Assert() = 0;
  virtual void Deassert() = 0;
};

// What a message signalled interrupt writes, and where (PCI 3.0 §6.8).
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;

  friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

// The message signalled interrupts of one function: a fixed number of vectors, each of which raises
// the message it was last programmed with.
class MsiSink {
 public:
  virtual ~MsiSink() = default;

  // How many vectors there are; `vector` below is less than this.
  virtual uint16_t vectors() const = 0;

  // From now on Signal(vector) raises `message`. RESOURCE_EXHAUSTED when the host has no route
  // left; the vector then raises nothing. Costs a system call or two, so callers skip what has not
  // changed. Calls of Program and Clear for one sink come one at a time.
  virtual absl::Status Program(uint16_t vector, const MsiMessage& message) = 0;

  // Signal(vector) raises nothing any more.
  virtual void Clear(uint16_t vector) = 0;

  // One eventfd write; takes no lock and never waits.
  virtual void Signal(uint16_t vector) = 0;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_INTERRUPT_H_
