// One VM of KVM: memory slots, the full in-kernel interrupt chips and timer, doorbells and
// interrupts by eventfd, interrupt routing, and the paravirtual clock.
//
// Methods may be called from any thread; KVM orders them. SetGsiRoutes replaces the whole table, so
// callers that build tables from shared state order themselves.

#ifndef VIREO_VMM_KVM_VM_H_
#define VIREO_VMM_KVM_VM_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/event_fd.h"
#include "base/memory/guest_address.h"
#include "base/state.h"
#include "base/unique_fd.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu.h"

namespace vireo::kvm {

struct Memslot {
  uint32_t id = 0;
  GuestAddress guest_base = GuestAddress(0);
  std::span<uint8_t> host;  // Page-aligned, and mapped until the slot is removed or the VM is gone.
  bool read_only = false;   // Guest writes become MMIO exits.
  bool log_dirty = false;
};

// A doorbell: a guest write that becomes an eventfd signal inside the kernel.
struct IoEventFd {
  uint64_t address = 0;
  uint32_t length = 0;  // 1, 2, 4 or 8; 0 matches a write of any width (and then nothing to match).
  bool pio = false;     // Port rather than memory.
  std::optional<uint64_t> match;  // Only writes of this value.
  int fd = -1;                    // An eventfd; KVM keeps its own reference.
};

struct IrqchipPin {
  enum class Chip : uint8_t { kPicMaster, kPicSlave, kIoapic };
  Chip chip;
  uint32_t pin;

  friend bool operator==(const IrqchipPin&, const IrqchipPin&) = default;
};

struct MsiTarget {
  uint64_t address;
  uint32_t data;

  friend bool operator==(const MsiTarget&, const MsiTarget&) = default;
};

// One GSI may have several routes (a PIC pin and an I/O APIC pin), but only one MSI.
struct GsiRoute {
  uint32_t gsi;
  std::variant<IrqchipPin, MsiTarget> target;
};

// Routes of GSI 0..23 as a PC wires them: ISA interrupts reach the PICs and the I/O APIC, the
// timer's IRQ 0 arrives at I/O APIC pin 2 (as the MADT tells the guest), 16..23 reach the I/O APIC
// alone.
std::vector<GsiRoute> PcIrqchipRoutes();

// The paravirtual clock. `realtime_ns` is the host's wall clock at the same instant, where KVM
// gives it: setting both lets the guest's clock advance by the time that passed in between.
struct Clock {
  uint64_t nanoseconds = 0;
  std::optional<uint64_t> realtime_ns;
};

class Vm {
 public:
  struct Options {
    uint64_t tss_address;           // 3 pages below 4 GiB that nobody else uses (Intel hosts).
    uint64_t identity_map_address;  // 1 page, likewise.
    // The slots to begin with. The chips register with KVM's buses, and a slot that comes after
    // them waits until KVM has let go of the old tables, for milliseconds (seen with Linux 6.18).
    std::span<const Memslot> memory = {};
  };

  // `system` outlives the Vm. Makes the irqchip and the PIT; vCPUs come after. Errors of
  // SetMemslot() as well.
  static absl::StatusOr<std::unique_ptr<Vm>> Create(const System& system, const Options& options);

  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  const System& system() const { return system_; }

  // Adds a slot, or changes the flags of (or moves) an existing one. RESOURCE_EXHAUSTED when the
  // host has no memory for it, INVALID_ARGUMENT when it overlaps another.
  absl::Status SetMemslot(const Memslot& slot);
  absl::Status RemoveMemslot(uint32_t id);

  // Pages written by the guest since the last call, one bit each, lowest first; clears the log.
  // `bytes` is the slot's size. KVM does not see writes by the VMM: see base/memory/dirty_log.h.
  absl::StatusOr<std::vector<uint64_t>> FetchDirtyLog(uint32_t slot_id, uint64_t bytes);

  // ALREADY_EXISTS when an equal one is registered.
  absl::Status AssignIoEventFd(const IoEventFd& doorbell);
  absl::Status DeassignIoEventFd(const IoEventFd& doorbell);

  // Each signal of `trigger` raises `gsi`: an edge, or with `resample` a level that KVM lowers at
  // the end of interrupt, signalling `resample` so that the owner can raise it again.
  absl::Status AssignIrqFd(uint32_t gsi, const EventFd& trigger, const EventFd* resample = nullptr);
  // When this returns, no signal of `trigger` reaches the guest any more.
  absl::Status DeassignIrqFd(uint32_t gsi, const EventFd& trigger);

  // The whole routing table; what is not in it is gone.
  absl::Status SetGsiRoutes(std::span<const GsiRoute> routes);

  absl::Status RaiseIrqLine(uint32_t gsi);
  absl::Status LowerIrqLine(uint32_t gsi);
  absl::Status SignalMsi(const MsiTarget& msi);

  absl::StatusOr<Clock> GetClock() const;
  absl::Status SetClock(const Clock& clock);

  // `id` is also the initial APIC ID. In the state KVM gives a new vCPU: 0 at the reset vector,
  // the others waiting for INIT and SIPI.
  absl::StatusOr<std::unique_ptr<Vcpu>> CreateVcpu(uint32_t id);

  // Both PICs, the I/O APIC, the PIT and the clock. vCPUs are stopped. Saving right after Create
  // and restoring that later is how the chips are reset (without the clock, see RestoreChips).
  absl::StatusOr<EncodedState> Save() const;
  absl::Status Restore(const EncodedState& state);
  // Everything of Restore but the clock: a machine reset does not turn back time.
  absl::Status RestoreChips(const EncodedState& state);

 private:
  Vm(const System& system, UniqueFd fd) : system_(system), fd_(std::move(fd)) {}

  absl::StatusOr<Clock> RestoreChipsReturningClock(const EncodedState& state);
  absl::Status SetIrqLine(uint32_t gsi, uint32_t level);
  absl::Status ChangeIoEventFd(const IoEventFd& doorbell, uint32_t flags);

  const System& system_;
  UniqueFd fd_;
};

}  // namespace vireo::kvm

#endif  // VIREO_VMM_KVM_VM_H_
