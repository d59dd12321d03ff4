// virtio over PCI, modern devices only (virtio 1.2 §4.1): registers, feature negotiation,
// notifications and interrupts of any VirtioDevice. No knowledge of what the device is.
//
//   one memory BAR (32 KiB)
//   0x0000 common configuration     0x3000 notify: four bytes per queue, one doorbell each
//   0x1000 ISR status               0x4000 MSI-X table
//   0x2000 device configuration     0x7000 MSI-X pending bits
//
// vCPU threads access registers, under one mutex that is never held while waiting for the loop.
// What a register write starts (activation, reset, a configuration change) runs on the device's
// loop, in the order written. Writing status 0, or queue_reset, parks the vCPU until every request
// has ended: many drivers reuse the ring's memory at once (§2.4.2).

#ifndef VIREO_DEVICES_VIRTIO_PCI_TRANSPORT_H_
#define VIREO_DEVICES_VIRTIO_PCI_TRANSPORT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/state.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/pci/function.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device.h"

namespace vireo::virtio {

class PciTransport final : public pci::Function, public BusDevice, private InterruptSink {
 public:
  static constexpr int kBarIndex = 0;
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

  // The BAR. Any vCPU thread.
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  // DRIVER_OK is set: a driver is at work. Any thread.
  bool driver_ready() const;
  // DEVICE_NEEDS_RESET is set: the driver broke a ring. Any thread.
  bool needs_reset() const;

 protected:
  // VIRTIO_PCI_CAP_PCI_CFG: the BAR by way of configuration space (§4.1.4.9).
  void OnConfigRead(uint16_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t> data) override;

 private:
  struct Queue {
    explicit Queue(uint16_t max, EventFd event) : max_size(max), kick(std::move(event)) {}
    const uint16_t max_size;
    const EventFd kick;
    // Also read on the loop, without the mutex, with each interrupt.
    std::atomic<uint16_t> vector{kNoVector};
    // The rest is guarded by mutex_.
    uint16_t size = 0;
    bool enabled = false;
    uint64_t descriptors = 0;
    uint64_t driver = 0;
    uint64_t device = 0;
    std::shared_ptr<Parking> resetting;  // Not null while queue_reset is under way.
  };

  PciTransport(const Options& options, std::vector<std::unique_ptr<Queue>> queues);
  absl::Status Construct(const Options& options);

  // InterruptSink, on the loop.
  void SignalQueue(uint16_t queue) override;
  void SignalNeedsReset() override;
  void ConfigChanged() override;

  void ReadCommon(uint64_t offset, std::span<uint8_t> data) const;
  void ReadIsr(std::span<uint8_t> data);
  void ReadDeviceConfig(uint64_t offset, std::span<uint8_t> data) const;
  std::shared_ptr<Parking> WriteCommon(uint64_t offset, std::span<const uint8_t> data);
  void WriteDeviceConfig(uint64_t offset, std::span<const uint8_t> data);

  std::shared_ptr<Parking> WriteStatus(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Parking> WriteQueueReset(uint16_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EnableQueue(Queue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteQueueAddress(uint64_t offset, uint64_t value, size_t width)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The queue that queue_select names; null if there is none.
  Queue* SelectedQueue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool FeaturesAcceptable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint16_t CheckedVector(uint64_t value) const;
  QueueActivation ActivationOf(uint16_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Activation MakeActivation() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetQueueRegisters(Queue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetRegisters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On the loop.
  void ActivateDevice(const Activation& activation);
  void StartQueue(const QueueActivation& queue);
  void RefreshConfig();
  Task<void> ResetDevice(std::shared_ptr<Parking> parking);
  Task<void> ResetQueue(uint16_t index, std::shared_ptr<Parking> parking);

  // Sets bits of the ISR status and takes the pin along.
  void RaiseIsr(uint8_t bits);
  void SignalConfig();
  void ClearIsr();
  void UpdateIntx() ABSL_EXCLUSIVE_LOCKS_REQUIRED(isr_mutex_);

  VirtioDevice& device_;
  EventLoop& loop_;
  const uint64_t offered_features_;
  const std::function<void()> report_needs_reset_;
  pci::Msix msix_;
  uint8_t pci_access_ = 0;  // Offset of VIRTIO_PCI_CAP_PCI_CFG in configuration space.
  RateLimited log_limit_;
  const std::vector<std::unique_ptr<Queue>> queues_;
  std::atomic<uint16_t> config_vector_{kNoVector};

  mutable Mutex mutex_;
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t driver_features_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t device_feature_select_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t driver_feature_select_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t queue_select_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t config_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint8_t> config_ ABSL_GUARDED_BY(mutex_);  // The device's, as vCPUs see it.
  // The device has seen something of the driver since the last reset; otherwise a reset is at once.
  bool touched_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Parking> resetting_ ABSL_GUARDED_BY(mutex_);  // Not null while under way.

  // Taken before the function's own, never with mutex_.
  mutable Mutex isr_mutex_;
  uint8_t isr_ ABSL_GUARDED_BY(isr_mutex_) = 0;

  // Resets that are under way; on the loop.
  TaskScope scope_;
  bool quiet_ = false;  // Between Quiesce() and Resume().
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_PCI_TRANSPORT_H_
