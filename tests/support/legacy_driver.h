// A virtio driver from before virtio 1.0 (virtio 1.2 §4.1.4.10): it knows the ports of BAR 0 and
// the vectors of MSI-X, no capabilities, no FEATURES_OK, and takes queues in the size that the
// device says. No threads: the loop is stepped.

#ifndef VIREO_TESTS_SUPPORT_LEGACY_DRIVER_H_
#define VIREO_TESTS_SUPPORT_LEGACY_DRIVER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "devices/bus.h"
#include "devices/virtio/spec.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {

class LegacyDriver {
 public:
  struct Options {
    uint32_t features = 0;
    bool msix = false;  // Vector 0 for configuration changes, 1 + i for queue i.
  };

  // Both outlive the driver; the host's device is transitional.
  LegacyDriver(VirtioHost& host, FakeGuestMemory& memory) : host_(&host), memory_(memory) {}

  // Resets the device and brings it up to DRIVER_OK.
  void Start(const Options& options);
  // The steps of it.
  void Reset() { host_->Wait(WriteStatus(0)); }
  void Acknowledge(const Options& options);
  void SetUpQueues();
  void SetUpQueue(uint16_t index);
  void SetDriverOk();

  // Goes on with another transport, to which the state was restored.
  void MoveTo(VirtioHost& host) { host_ = &host; }

  uint8_t status() {
    return static_cast<uint8_t>(host_->ReadPort(legacy_config::kDeviceStatus, 1));
  }
  std::shared_ptr<Parking> WriteStatus(uint8_t status) {
    return host_->WritePort(legacy_config::kDeviceStatus, status, 1);
  }
  uint32_t OfferedFeatures() {
    return static_cast<uint32_t>(host_->ReadPort(legacy_config::kDeviceFeatures, 4));
  }
  std::shared_ptr<Parking> WriteFeatures(uint32_t features) {
    return host_->WritePort(legacy_config::kDriverFeatures, features, 4);
  }
  uint64_t ReadDeviceConfig(uint64_t offset, int width) {
    return host_->ReadPort(config_offset() + offset, width);
  }
  void WriteDeviceConfig(uint64_t offset, uint64_t value, int width) {
    host_->WritePort(config_offset() + offset, value, width);
  }
  uint16_t QueueSize(uint16_t index);  // 0: there is no such queue.
  std::shared_ptr<Parking> WriteQueuePage(uint16_t index, uint32_t page);
  uint32_t ReadQueuePage(uint16_t index);

  DriverRing& ring(uint16_t index = 0) { return *rings_.at(index); }
  // Without asking whether it is wanted.
  void Kick(uint16_t index = 0) { host_->WritePort(legacy_config::kQueueNotify, index, 2); }
  // Kicks if the device wants it, and lets the device work.
  void Run(uint16_t index = 0);
  // Sends one chain and waits for its end; nothing if the device does not end it.
  std::optional<UsedChain> Send(const std::vector<Segment>& segments, uint16_t index = 0);

  // Since last asked, with MSI-X.
  int TakeInterrupts(uint16_t index = 0) { return host_->msi().TakeSignals(1 + index); }
  int TakeConfigInterrupts() { return host_->msi().TakeSignals(0); }
  // Without: what the handler of the pin reads.
  uint8_t ReadIsr() { return static_cast<uint8_t>(host_->ReadPort(legacy_config::kIsrStatus, 1)); }

 private:
  uint64_t config_offset() const {
    return options_.msix ? legacy_config::kDeviceWithMsix : legacy_config::kDeviceWithoutMsix;
  }

  VirtioHost* host_;
  FakeGuestMemory& memory_;
  Options options_;
  std::map<uint16_t, std::unique_ptr<DriverRing>> rings_;
};

}  // namespace vireo::virtio

#endif  // VIREO_TESTS_SUPPORT_LEGACY_DRIVER_H_
