// The interrupts that devices are given, on one KVM VM: level lines (several may share an input of
// the I/O APIC) and message signalled vectors, each an irqfd with a route of its own.
#ifndef VIREO_VMM_KVM_INTERRUPTS_H_
#define VIREO_VMM_KVM_INTERRUPTS_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/event_fd.h"
#include "base/mutex.h"
#include "devices/interrupt.h"
#include "vmm/kvm/vm.h"
#include "vmm/range_allocator.h"

namespace vireo {

// Owns the routing table of a VM: the irqchip's own pins, and one message for each vector in use.
// Thread-safe.
class KvmInterrupts {
 public:
  // `vm` outlives this object, which outlives every line and sink it made.
  static absl::StatusOr<std::unique_ptr<KvmInterrupts>> Create(kvm::Vm& vm);

  // A line to input `gsi` (0..23). Lines to one input are ORed: it is high while any of them
  // asserts.
  std::unique_ptr<InterruptLine> MakeLine(uint32_t gsi);

  // What drives line `pirq` (0 for input 16 to 7 for input 23) also drives ISA interrupt `irq`, as
  // the LPC bridge was told, or does no longer. Reserved interrupts (0, 1, 2, 8, 13) are none.
  void RoutePirq(int pirq, std::optional<uint8_t> irq);

  // `vectors` vectors, each with an eventfd; GSIs are taken as vectors are programmed.
  absl::StatusOr<std::unique_ptr<MsiSink>> MakeMsiSink(uint16_t vectors);

 private:
  class Line;
  class Sink;
  // An input of the I/O APIC: how many lines assert it.
  struct Input {
    Mutex mutex;  // Of a PIRQ's input before that of an ISA interrupt's.
    uint32_t asserted ABSL_GUARDED_BY(mutex) = 0;
    std::optional<uint32_t> isa ABSL_GUARDED_BY(mutex);  // Of a PIRQ: the input that it drives too.
  };

  explicit KvmInterrupts(kvm::Vm& vm);

  // One line more, or less, asserts the input.
  void Raise(uint32_t gsi);
  void Lower(uint32_t gsi);

  absl::Status CommitRoutes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  kvm::Vm& vm_;
  Mutex mutex_;
  RangeAllocator gsis_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, kvm::MsiTarget> messages_ ABSL_GUARDED_BY(mutex_);  // By GSI.
  std::vector<std::unique_ptr<Input>> inputs_;                           // By GSI, 0..23.
};

}  // namespace vireo

#endif  // VIREO_VMM_KVM_INTERRUPTS_H_
