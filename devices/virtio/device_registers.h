// What a driver sets up of a virtio device, whatever the layout of the registers through which it
// does so (virtio 1.2 §2, §3): status, features, queues, vectors, and the copy of the device's
// configuration that vCPUs see. Activation, reset, ISR status and interrupts follow from it.
//
// A legacy driver does without VERSION_1 and FEATURES_OK, which is how the two kinds are told
// apart. It may kick before DRIVER_OK, and is served from then on.
//
// vCPU threads access registers, under one mutex that is never held while waiting for the loop.
// What a register write starts (activation, reset, a configuration change) runs on the device's
// loop, in the order written. Writing status 0, or queue_reset, parks the vCPU until every request
// has ended: many drivers reuse the ring's memory at once (§2.4.2).

#ifndef VIREO_DEVICES_VIRTIO_DEVICE_REGISTERS_H_
#define VIREO_DEVICES_VIRTIO_DEVICE_REGISTERS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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
#include "devices/bus.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device.h"
#include "devices/virtio/isr_status.h"
#include "devices/virtio/queue_registers.h"

namespace vireo::virtio {

class DeviceRegisters final : private InterruptSink {
 public:
  // All references outlive the registers.
  struct Options {
    std::string name;      // For messages.
    VirtioDevice& device;  // Served by `loop`; of these registers only.
    EventLoop& loop;
    pci::Msix& msix;
    // The interrupt pin, for drivers that do not use MSI-X. Any thread; takes no lock of these
    // registers.
    std::function<void(bool asserted)> set_pin;
    // DEVICE_NEEDS_RESET was set. On the loop. May be empty.
    std::function<void()> needs_reset = {};
    bool transitional = false;  // Legacy drivers may have the device, too.
    // The device serves its driver from now on, or no more. On the loop. May be empty.
    std::function<void(bool)> active_changed = {};
  };

  // One for each queue of the device. Errors are EventFd's.
  static absl::StatusOr<std::vector<EventFd>> MakeKicks(const VirtioDevice& device);

  DeviceRegisters(Options options, std::vector<EventFd> kicks);
  // The device holds no request: Reset() was the last thing done to it.
  ~DeviceRegisters() override;

  // ---- Fixed. Any thread. ----

  uint16_t queue_count() const { return static_cast<uint16_t>(queues_.size()); }
  uint64_t offered_features() const { return offered_features_; }
  uint32_t legacy_features() const { return legacy_features_; }  // Offered to legacy drivers.
  const EventFd& kick(uint16_t queue) const { return queues_[queue]->kick; }

  // ---- What the driver finds. Any thread. ----

  struct QueueView {
    uint16_t max_size = 0;
    uint16_t size = 0;
    uint16_t vector = 0;
    bool enabled = false;
    bool resetting = false;
    uint64_t descriptors = 0;
    uint64_t driver = 0;
    uint64_t device = 0;
  };
  struct View {
    uint8_t status = 0;
    uint64_t driver_features = 0;
    uint32_t device_feature_select = 0;
    uint32_t driver_feature_select = 0;
    uint16_t config_vector = 0;
    uint8_t config_generation = 0;
    uint16_t queue_select = 0;
    std::optional<QueueView> queue;  // The one that is selected; none: there is no such queue.
  };
  // All of one moment.
  View Look() const;
  uint8_t status() const;
  // The device's configuration; zeros behind its end.
  void ReadConfig(uint64_t offset, std::span<uint8_t> data) const;
  // Reading clears the ISR status (§4.1.4.5.1).
  uint8_t TakeIsr() { return isr_.Take(); }

  // ---- What the driver does. Any thread. While a reset is under way only a status counts. ----

  std::shared_ptr<Parking> WriteStatus(uint8_t value);
  void SelectDeviceFeatures(uint32_t half);
  void SelectDriverFeatures(uint32_t half);
  // The half that is selected.
  void WriteDriverFeatures(uint32_t value);
  // A vector that cannot be had reads back as "none" (§4.1.5.1.2.1).
  void WriteConfigVector(uint16_t vector);
  void WriteConfig(uint64_t offset, std::span<const uint8_t> data);

  void SelectQueue(uint16_t index);
  // The selected queue from here on; nothing happens if there is none.
  void WriteQueueSize(uint16_t size);
  void WriteQueueVector(uint16_t vector);
  enum class QueuePart { kDescriptors, kDriver, kDevice };
  // The bits of `mask` of the address become those of `value`.
  void WriteQueueAddress(QueuePart part, uint64_t value, uint64_t mask);
  void EnableQueue();
  std::shared_ptr<Parking> ResetQueue();

  // A kick that found no doorbell.
  void Notify(uint64_t queue);

  // ---- What a legacy driver does in other ways. Any thread; as above. ----

  std::shared_ptr<Parking> WriteLegacyStatus(uint8_t value);
  // There is no refusal before the driver starts: bits that are not offered count for nothing.
  std::shared_ptr<Parking> WriteLegacyFeatures(uint32_t value);
  // Places and enables the selected queue; 0 gives it up, as a reset of the queue does.
  std::shared_ptr<Parking> WriteLegacyQueuePage(uint32_t page);
  void NotifyLegacy(uint16_t queue);

  // MSI-X may have been switched: the pin is used without it only.
  void UpdatePin() { isr_.UpdatePin(); }

  // ---- Lifecycle, of the registers and the device together. On the loop. ----

  Task<void> Quiesce();
  void Resume();
  Task<void> Reset();
  void Save(StateWriter& writer) const;
  // Takes all that is left of the state.
  absl::Status Restore(StateReader& reader);

 private:
  // InterruptSink, on the loop.
  void SignalQueue(uint16_t queue) override;
  void SignalNeedsReset() override;
  void ConfigChanged() override;

  // The queue that queue_select names; null if there is none, or nothing may be written now.
  QueueRegisters* SelectedQueue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  QueueRegisters* WritableQueue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool FeaturesAcceptable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint16_t CheckedVector(uint16_t vector) const;
  Activation MakeActivation() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClearAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Parking> BeginReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Parking> BeginQueueReset(QueueRegisters& queue)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginQueue(QueueRegisters& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Activate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ActivateForLegacy() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On the loop.
  void ActivateDevice(const Activation& activation);
  void StartQueue(const QueueActivation& queue);
  void AskForReset(const absl::Status& reason);
  void RefreshConfig();
  Task<void> ResetDevice(std::shared_ptr<Parking> parking);
  Task<void> ResetOneQueue(uint16_t index, std::shared_ptr<Parking> parking);
  Task<void> ChangeFeatures(std::shared_ptr<Parking> parking);

  void SignalConfig();

  const std::string name_;
  VirtioDevice& device_;
  EventLoop& loop_;
  pci::Msix& msix_;
  const std::function<void()> report_needs_reset_;
  const std::function<void(bool)> active_changed_;
  const bool transitional_;
  const uint64_t offered_features_;
  const uint32_t legacy_features_;
  IsrStatus isr_;  // Never touched with mutex_ held.
  RateLimited log_limit_;
  std::vector<std::unique_ptr<QueueRegisters>> queues_;  // As many as there ever are.
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
  // The device is at work: since DRIVER_OK, or the first kick of a legacy driver.
  bool active_ ABSL_GUARDED_BY(mutex_) = false;
  // Not null while a reset, or a change of features at work, is under way.
  std::shared_ptr<Parking> resetting_ ABSL_GUARDED_BY(mutex_);

  // Resets that are under way; on the loop.
  TaskScope scope_;
  bool quiet_ = false;  // Between Quiesce() and Resume().
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_DEVICE_REGISTERS_H_
