// 00:1f.0 of a Q35 machine: the LPC bridge of an ICH9 (Intel I/O Controller Hub 9 datasheet, "LPC
// Interface Bridge Registers"). PMBASE places the ACPI register block, the PIRQ registers say which
// ISA interrupt an INTx line reaches besides its I/O APIC input. RCBA and the decode ranges are
// storage.

#ifndef VIREO_DEVICES_PCI_LPC_BRIDGE_H_
#define VIREO_DEVICES_PCI_LPC_BRIDGE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/functional/any_invocable.h"
#include "base/mutex.h"
#include "devices/address_space.h"
#include "devices/pci/function.h"

namespace vireo::pci {

class LpcBridge final : public Function {
 public:
  static constexpr uint16_t kPmBase = 0x40;
  static constexpr uint16_t kAcpiControl = 0x44;
  static constexpr uint16_t kPirqA = 0x60;  // PIRQA to D, one byte each.
  static constexpr uint16_t kPirqE = 0x68;  // PIRQE to H.
  static constexpr uint16_t kRcba = 0xf0;
  static constexpr uint64_t kPmBlockBytes = 128;

  struct Options {
    // The ACPI register block, kPmBlockBytes of ports (devices/acpi_pm.h); outlives the bridge. May
    // be null.
    BusDevice* pm_block = nullptr;
    // Where the block is at power-on, for a machine that boots without firmware; a multiple of 128.
    std::optional<uint16_t> pm_base_at_power_on;
    // INTx line `pirq` (0 is PIRQA, GSI 16) is routed to ISA interrupt `irq`, or to none. Called on
    // a change, on the writing vCPU's thread or the thread that resets or restores; it does not
    // call the bridge. May be null.
    absl::AnyInvocable<void(int pirq, std::optional<uint8_t> irq)> pirq_routed;
  };

  // `address_space` outlives the bridge.
  LpcBridge(AddressSpace& address_space, Options options);
  ~LpcBridge() override;

  // Where the ACPI block answers; nothing when it is disabled. Any thread.
  std::optional<uint16_t> pm_base() const;

  // Takes the ACPI block out of the address space, on top of what a function does.
  void DetachAll();

  void RetryPlacement() override;
  Task<void> Reset() override;
  absl::Status Restore(const EncodedState& state) override;

 protected:
  std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t> data) override;

 private:
  void Update();

  AddressSpace& address_space_;
  std::optional<uint32_t> pm_window_;
  std::atomic<bool> pm_failed_{false};  // Its place was taken.
  mutable Mutex update_mutex_;          // Taken before Function's.
  absl::AnyInvocable<void(int, std::optional<uint8_t>)> pirq_routed_ ABSL_GUARDED_BY(update_mutex_);
  std::optional<uint16_t> pm_placed_ ABSL_GUARDED_BY(update_mutex_);
  std::array<std::optional<uint8_t>, 8> pirq_ ABSL_GUARDED_BY(update_mutex_);
};

}  // namespace vireo::pci

#endif  // VIREO_DEVICES_PCI_LPC_BRIDGE_H_
