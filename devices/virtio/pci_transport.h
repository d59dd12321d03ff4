// virtio over PCI (virtio 1.2 §4.1): the function and the register layout of any VirtioDevice. No
// knowledge of what the device is, but for the identity that its type has.
//
//   one memory BAR (32 KiB)
//   0x0000 common configuration     0x3000 notify: four bytes per queue, one doorbell each
//   0x1000 ISR status               0x4000 MSI-X table
//   0x2000 device configuration     0x7000 MSI-X pending bits
//
// A transitional device has it in BAR 4, and the layout of legacy drivers (legacy_layout.h) in I/O
// BAR 0: a driver of either kind finds what it knows.
//
// The registers' values, and what they start, are DeviceRegisters's; where they are is said here.

#ifndef VIREO_DEVICES_VIRTIO_PCI_TRANSPORT_H_
#define VIREO_DEVICES_VIRTIO_PCI_TRANSPORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/event_fd.h"
#include "base/state.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/pci/function.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device.h"
#include "devices/virtio/device_registers.h"
#include "devices/virtio/legacy_layout.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {

class PciTransport final : public pci::Function, public BusDevice {
 public:
  static constexpr int kBarIndex = 0;
  static constexpr int kTransitionalBarIndex = 4;
  static constexpr int kLegacyBarIndex = 0;
  static constexpr uint64_t kBarBytes = 0x8000;
  static constexpr uint64_t kCommonOffset = 0x0000;
  static constexpr uint64_t kIsrOffset = 0x1000;
  static constexpr uint64_t kDeviceOffset = 0x2000;
  static constexpr uint64_t kNotifyOffset = 0x3000;
  static constexpr uint64_t kMsixTableOffset = 0x4000;
  static constexpr uint64_t kMsixPbaOffset = 0x7000;
  static constexpr uint32_t kNotifyMultiplier = 4;

  // All references outlive the transport.
  struct Options {
    std::string name;      // For messages: "00:03.0 virtio-blk".
    VirtioDevice& device;  // Served by `loop`; of one transport only.
    EventLoop& loop;
    AddressSpace& address_space;
    // One vector for each queue and one for configuration changes are enough; with fewer, drivers
    // share.
    MsiSink& msi;
    InterruptLine& intx;        // For drivers that do not use MSI-X.
    uint8_t interrupt_pin = 1;  // 1 INTA to 4 INTD.
    pci::BarKind bar_kind = pci::BarKind::kMemory64Prefetchable;
    // Legacy drivers may have the device, too. Of net and block only.
    bool transitional = false;
    // For the expansion ROM, as Function::AddExpansionRom() wants it; empty: there is none.
    std::span<uint8_t> rom = {};
    // The driver broke a ring, and DEVICE_NEEDS_RESET was set. On the loop. May be empty.
    std::function<void()> needs_reset = {};
  };

  // Before the loop runs, or on it. Errors are AddressSpace's and EventFd's.
  static absl::StatusOr<std::unique_ptr<PciTransport>> Create(const Options& options);

  // The device holds no request: Reset() was the last thing done to it.
  ~PciTransport() override;

  // Lifecycle, of the function and the device together. On the loop.
  Task<void> Quiesce() override;
  void Resume() override;
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

  // Which BAR has the layout above.
  int bar_index() const { return legacy_.has_value() ? kTransitionalBarIndex : kBarIndex; }

  // That BAR. Any vCPU thread.
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  // DRIVER_OK is set: a driver is at work. Any thread.
  bool driver_ready() const { return (registers_.status() & kStatusDriverOk) != 0; }
  // DEVICE_NEEDS_RESET is set: the driver broke a ring. Any thread.
  bool needs_reset() const { return (registers_.status() & kStatusNeedsReset) != 0; }

 protected:
  // VIRTIO_PCI_CAP_PCI_CFG: the BAR by way of configuration space (§4.1.4.9).
  void OnConfigRead(uint16_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t> data) override;

 private:
  PciTransport(const Options& options, std::vector<EventFd> kicks);
  absl::Status Construct(const Options& options);
  absl::Status AddLegacyBar(const Options& options);
  absl::Status AddCapabilities(uint64_t config_bytes);
  // Doorbells of the legacy layout come and go with the device's being active. On the loop.
  void SetLegacyDoorbells(bool active);

  void ReadCommon(uint64_t offset, std::span<uint8_t> data) const;
  std::shared_ptr<Parking> WriteCommon(uint64_t offset, std::span<const uint8_t> data);
  void WriteQueueAddress(uint64_t offset, uint64_t value, size_t width);

  // What VIRTIO_PCI_CAP_PCI_CFG asks for now; nothing when that makes no sense.
  struct ConfigAccess {
    uint32_t offset = 0;
    uint32_t length = 0;
  };
  std::optional<ConfigAccess> PendingAccess() const;

  pci::Msix msix_;
  DeviceRegisters registers_;
  std::optional<LegacyLayout> legacy_;  // Of a transitional device.
  uint8_t pci_access_ = 0;              // Offset of VIRTIO_PCI_CAP_PCI_CFG in configuration space.
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_PCI_TRANSPORT_H_
