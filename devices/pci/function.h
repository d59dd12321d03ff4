// One PCI function: its configuration space, its BARs, which follow the guest's writes through an
// AddressSpace, its MSI-X and its INTx pin. Device models derive from it (virtio::PciTransport) or
// use it as it is (the host bridge).
//
// Configuration accesses come on any vCPU thread; one mutex guards the registers. It is held while
// windows are placed (which never waits for an access), never while the derived class works.

#ifndef VIREO_DEVICES_PCI_FUNCTION_H_
#define VIREO_DEVICES_PCI_FUNCTION_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/state.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/lifecycle.h"
#include "devices/pci/config_space.h"
#include "devices/pci/msix.h"

namespace vireo::pci {

enum class BarKind { kMemory32, kMemory64, kMemory64Prefetchable, kIo };

struct Bar {
  int index = 0;  // 0 to 5; a 64-bit BAR takes the next one too.
  BarKind kind = BarKind::kMemory32;
  Window window;  // Its size is a power of two, at least 16 (memory) or 4 to 256 (I/O); kind is set
                  // from `kind`.
};

// Where the MSI-X table and the pending bits are. The device routes accesses there to its Msix.
struct MsixLocation {
  int table_bar = 0;
  uint32_t table_offset = 0;  // A multiple of 8.
  int pba_bar = 0;
  uint32_t pba_offset = 0;  // A multiple of 8.
};

class Function : public Lifecycle {
 public:
  struct Identity {
    std::string name;  // For messages: "00:03.0 virtio-blk".
    uint16_t vendor_id = 0;
    uint16_t device_id = 0;
    uint8_t revision_id = 0;
    uint32_t class_code = 0;  // Base class, sub-class, interface: 0x010000.
    uint16_t subsystem_vendor_id = 0;
    uint16_t subsystem_id = 0;
    uint8_t interrupt_pin = 0;  // 0 none, 1 INTA to 4 INTD.
    uint16_t config_bytes = ConfigSpace::kConventionalBytes;
  };

  // `address_space` and `intx` outlive the function; `intx` may be null when there is no pin.
  Function(const Identity& identity, AddressSpace& address_space, InterruptLine* intx);

  // Detaches. A class whose windows trap to itself calls Detach() in its own destructor, while it
  // still is one.
  ~Function() override;

  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;

  const std::string& name() const { return name_; }

  // The guest's accesses. Any vCPU thread, any offset and size: what lies beyond the space reads as
  // ones.
  void ReadConfig(uint16_t offset, std::span<uint8_t> data);
  std::shared_ptr<Parking> WriteConfig(uint16_t offset, std::span<const uint8_t> data);

  // Tries again to place BARs that found their address taken. The root bus calls it when something
  // moved.
  virtual void RetryPlacement();

  // Where BAR `index` answers now; nothing when decoding is off, or its address could not be had.
  // Any thread.
  std::optional<uint64_t> bar_address(int index) const;

  // What there is to place, for whoever gives out addresses, but for the expansion ROM. In order of
  // index; fixed once on a bus.
  struct BarInfo {
    int index = 0;
    BarKind kind = BarKind::kMemory32;
    uint64_t size = 0;
  };
  std::vector<BarInfo> bars() const;

  // Removes the windows and idles the pin. On return no access to them is running. Idempotent.
  void Detach();

  // A function without requests of its own has nothing to drain. Overriders that want the
  // registers' part call ResetFunction(), SaveFunction() and RestoreFunction().
  Task<void> Quiesce() override;
  void Resume() override {}
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 protected:
  // --- Construction, before the function is on a bus. ---

  // INVALID_ARGUMENT when the index is taken or the size impossible, or what AddressSpace::Add
  // answers.
  absl::Status AddBar(Bar bar);

  // The expansion ROM (PCI 3.0 §6.2.5.2): `image`, which the guest reads where it places it, and
  // which outlives the function. INVALID_ARGUMENT unless it is whole pages, a power of two of them,
  // or when there is one; else what AddressSpace::Add answers.
  absl::Status AddExpansionRom(std::span<uint8_t> image);

  // Appends a capability with `body` after its two header bytes; the guest may change the bits of
  // `writable` (as long as `body`, or empty for none). Returns its offset. RESOURCE_EXHAUSTED when
  // there is no room.
  absl::StatusOr<uint8_t> AddCapability(uint8_t id, std::span<const uint8_t> body,
                                        std::span<const uint8_t> writable = {});

  // Adds the MSI-X capability of `msix`, which outlives the function's use of it and is then reset,
  // saved and restored with the function.
  absl::Status AddMsix(Msix& msix, const MsixLocation& location);

  // The registers as they are now are the power-on state. Called once, last.
  void FinishConstruction();

  // --- At work, any thread. ---

  uint8_t Config8(uint16_t offset) const;
  uint16_t Config16(uint16_t offset) const;
  uint32_t Config32(uint16_t offset) const;
  // Past the guest's access rules and with no side effects: not for the command register or BARs.
  void SetConfig8(uint16_t offset, uint8_t value);
  void SetConfig16(uint16_t offset, uint16_t value);
  void SetConfig32(uint16_t offset, uint32_t value);

  // The function's interrupt pin: the status bit, and the line unless the guest disabled INTx.
  // Level.
  void SetIntx(bool asserted);

  // Replaces the doorbells of a BAR's window, at once if it is placed. Answers as
  // AddressSpace::SetDoorbells() does; nothing happens once detached.
  absl::Status SetBarDoorbells(int index, std::vector<Doorbell> doorbells);

  // Called after the registers' own answer, which `data` holds, with no lock held.
  virtual void OnConfigRead(uint16_t offset, std::span<uint8_t> data);
  // Called after the registers took what they take, with no lock of the function held. Makes no
  // configuration access through the root bus.
  virtual std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t> data);

  // Power-on registers: BARs placed nowhere, MSI-X off, the pin idle.
  void ResetFunction();
  void SaveFunction(StateWriter& writer) const;
  // Also places the BARs and programs the vectors.
  absl::Status RestoreFunction(StateReader& reader);

  RateLimited log_limit_;  // For what the guest causes.

  // For construction beyond the helpers above.
  ConfigSpace& construction_config() ABSL_NO_THREAD_SAFETY_ANALYSIS { return config_; }

 private:
  struct BarState {
    bool present = false;
    BarKind kind = BarKind::kMemory32;
    uint64_t size = 0;
    uint32_t window = 0;
    std::optional<uint64_t> placed;
  };

  static constexpr int kRomIndex = 6;  // Among bars_, behind the BARs.

  static uint16_t RegisterOf(int index) {
    return static_cast<uint16_t>(index == kRomIndex ? kExpansionRom : kBar0 + 4 * index);
  }
  // Where the registers say the BAR, or the ROM, shall answer; nothing when it shall not.
  std::optional<uint64_t> WantedAddress(int index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateDecoding() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateIntx() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  AddressSpace& address_space_;
  InterruptLine* const intx_;

  mutable Mutex mutex_;
  ConfigSpace config_ ABSL_GUARDED_BY(mutex_);
  uint16_t command_writable_ ABSL_GUARDED_BY(mutex_);
  std::array<BarState, kRomIndex + 1> bars_ ABSL_GUARDED_BY(mutex_);
  Msix* msix_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint16_t msix_control_ ABSL_GUARDED_BY(mutex_) = 0;  // Offset of Message Control.
  bool intx_requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool intx_driven_ ABSL_GUARDED_BY(mutex_) = false;
  bool detached_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> placement_failed_{
      false};  // So that RetryPlacement() is free when there is nothing to do.
};

}  // namespace vireo::pci

#endif  // VIREO_DEVICES_PCI_FUNCTION_H_
