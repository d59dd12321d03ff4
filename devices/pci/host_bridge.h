// 00:00.0 of a Q35 machine (Intel 3 Series Express Chipset datasheet, "DRAM Controller Registers").
// Firmware knows the machine by its identity and programs PCIEXBAR, which places the ECAM window,
// and PAM, which says what of the firmware's place below 1 MiB is ROM
// (devices/firmware/shadow_memory.h; without it all is RAM, whatever the registers hold). SMRAM and
// its like are storage.

#ifndef VIREO_DEVICES_PCI_HOST_BRIDGE_H_
#define VIREO_DEVICES_PCI_HOST_BRIDGE_H_

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

class HostBridge final : public Function {
 public:
  static constexpr uint16_t kPciExpressBar = 0x60;  // 64 bits.
  static constexpr uint16_t kPam0 = 0x90;
  static constexpr size_t kPamRegisters = 7;
  static constexpr uint16_t kSmram = 0x9d;
  static constexpr uint16_t kEsmramc = 0x9e;

  struct Options {
    // Where ECAM (256 MiB) is at power-on, for a machine that boots without firmware; a multiple of
    // 256 MiB. Firmware finds it disabled and places it.
    std::optional<uint64_t> ecam_base_at_power_on;
    // The guest, a reset or a restored state has written PAM, which now is `pam`. One call at a
    // time, on the writing vCPU's thread or the one that resets or restores; it does not call the
    // bridge. May be null.
    absl::AnyInvocable<void(const std::array<uint8_t, kPamRegisters>& pam)> pam_written;
  };

  // `ecam` takes the accesses to the window; it and `address_space` outlive the bridge.
  HostBridge(AddressSpace& address_space, BusDevice& ecam, Options options);
  ~HostBridge() override;

  // Where ECAM answers now, and how many bytes of it; nothing when it is disabled. ACPI's MCFG says
  // the same. Any thread.
  struct EcamPlace {
    uint64_t base;
    uint64_t bytes;
  };
  std::optional<EcamPlace> ecam() const;

  // Takes the ECAM windows out of the address space, on top of what a function does.
  void DetachAll();

  void RetryPlacement() override;
  Task<void> Reset() override;
  absl::Status Restore(const EncodedState& state) override;

 protected:
  std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t> data) override;

 private:
  // PCIEXBAR bits 2:1 choose among these; the fourth value is reserved.
  static constexpr std::array<uint64_t, 3> kEcamBytes = {256 << 20, 128 << 20, 64 << 20};

  void UpdateEcam();
  void UpdatePam();

  AddressSpace& address_space_;
  std::array<std::optional<uint32_t>, 3> windows_;  // One for each length.
  std::atomic<bool> ecam_failed_{false};            // Its place was taken.
  mutable Mutex ecam_mutex_;                        // Taken before Function's.
  std::optional<size_t> placed_window_ ABSL_GUARDED_BY(ecam_mutex_);
  std::optional<EcamPlace> place_ ABSL_GUARDED_BY(ecam_mutex_);
  Mutex pam_mutex_;  // Taken before Function's.
  absl::AnyInvocable<void(const std::array<uint8_t, kPamRegisters>&)> pam_written_
      ABSL_GUARDED_BY(pam_mutex_);
};

}  // namespace vireo::pci

#endif  // VIREO_DEVICES_PCI_HOST_BRIDGE_H_
