// The registers of a virtio device as legacy drivers know them (virtio 1.2 §4.1.4.10): an I/O BAR
// with a header of 20 bytes, or 24 while MSI-X is enabled, and the device's configuration behind
// it. Values are in the guest's byte order, which here is little-endian.
//
// Accesses come on any vCPU thread, of any size at any offset. What is no field changes nothing.

#ifndef VIREO_DEVICES_VIRTIO_LEGACY_LAYOUT_H_
#define VIREO_DEVICES_VIRTIO_LEGACY_LAYOUT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device_registers.h"

namespace vireo::virtio {

class LegacyLayout final : public BusDevice {
 public:
  // Both outlive the layout.
  LegacyLayout(DeviceRegisters& registers, const pci::Msix& msix)
      : registers_(registers), msix_(msix) {}

  static uint64_t BarBytes(uint64_t config_bytes);

  // One port for all queues, told apart by what is written. For an active device only: the first
  // kick of a driver that has not set DRIVER_OK must be seen here.
  std::vector<Doorbell> Doorbells() const;

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

 private:
  uint64_t header_bytes() const;
  void ReadHeader(uint64_t offset, std::span<uint8_t> data);

  DeviceRegisters& registers_;
  const pci::Msix& msix_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_LEGACY_LAYOUT_H_
