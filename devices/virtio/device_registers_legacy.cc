// What a legacy driver does in other ways than a modern one.

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "devices/virtio/device_registers.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {

std::shared_ptr<Parking> DeviceRegisters::WriteLegacyStatus(uint8_t value) {
  MutexLock lock(mutex_);
  if (value == 0) return BeginReset();
  if (resetting_ != nullptr) return nullptr;
  // FEATURES_OK is not among what such a driver knows (§3.1.2).
  status_ |= value & (kStatusAcknowledge | kStatusDriver | kStatusDriverOk | kStatusFailed);
  if ((status_ & kStatusDriverOk) != 0) ActivateForLegacy();
  return nullptr;
}

void DeviceRegisters::ActivateForLegacy() {
  if (active_) return;
  // Halves of both kinds of driver do not make a whole: what the legacy one cannot see is not set.
  if ((status_ & kStatusFeaturesOk) == 0) driver_features_ &= legacy_features_;
  Activate();
}

std::shared_ptr<Parking> DeviceRegisters::WriteLegacyFeatures(uint32_t value) {
  MutexLock lock(mutex_);
  if (resetting_ != nullptr || (status_ & kStatusFeaturesOk) != 0) return nullptr;
  const uint64_t features = value & legacy_features_;
  if (!active_) {
    driver_features_ = features;
    return nullptr;
  }
  if (features == driver_features_) return nullptr;
  // Linux until 2009 says what it accepts after its probe, whose queues are at work by then.
  for (const std::unique_ptr<QueueRegisters>& queue : queues_) {
    if (queue->resetting != nullptr) return nullptr;  // Of another vCPU: this is no driver's doing.
  }
  driver_features_ = features;
  resetting_ = std::make_shared<Parking>();
  loop_.Post([this, parking = resetting_] { scope_.Spawn(ChangeFeatures(parking)); });
  return resetting_;
}

std::shared_ptr<Parking> DeviceRegisters::WriteLegacyQueuePage(uint32_t page) {
  MutexLock lock(mutex_);
  QueueRegisters* const queue = WritableQueue();
  if (queue == nullptr) return nullptr;
  if (page == 0) return BeginQueueReset(*queue);
  if (queue->resetting != nullptr || (queue->enabled && active_)) return nullptr;
  queue->PlaceAtPage(page);
  BeginQueue(*queue);
  return nullptr;
}

void DeviceRegisters::NotifyLegacy(uint16_t queue) {
  {
    MutexLock lock(mutex_);
    if (queue >= queues_.size() || resetting_ != nullptr) return;
    // Old Linux reads the partition table within its probe, before DRIVER_OK.
    if (queues_[queue]->enabled && (status_ & kStatusFeaturesOk) == 0) ActivateForLegacy();
  }
  queues_[queue]->kick.Signal();
}

// ---- On the loop ----

Task<void> DeviceRegisters::ChangeFeatures(std::shared_ptr<Parking> parking) {
  // As a move into a fresh device: the rings go on where they are.
  co_await device_.Quiesce();
  const EncodedState state = device_.Save();
  co_await device_.Reset();
  const absl::Status restored = device_.Restore(state);
  Activation activation;
  {
    MutexLock lock(mutex_);
    if (restored.ok()) activation = MakeActivation();
    resetting_ = nullptr;
  }
  ActivateDevice(activation);
  if (!restored.ok()) AskForReset(restored);  // A ring that was broken, say.
  if (!quiet_) device_.Resume();
  parking->Finish();
}

}  // namespace vireo::virtio
