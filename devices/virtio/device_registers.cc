#include "devices/virtio/device_registers.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kTransportFeatures =
    kFeatureVersion1 | kFeatureIndirectDesc | kFeatureEventIdx | kFeatureRingReset;

}  // namespace

absl::StatusOr<std::vector<EventFd>> DeviceRegisters::MakeKicks(const VirtioDevice& device) {
  std::vector<EventFd> kicks;
  for (size_t i = 0; i < device.queue_sizes().size(); ++i) {
    ASSIGN_OR_RETURN(EventFd kick, EventFd::Create());
    kicks.push_back(std::move(kick));
  }
  return kicks;
}

DeviceRegisters::DeviceRegisters(Options options, std::vector<EventFd> kicks)
    : name_(std::move(options.name)),
      device_(options.device),
      loop_(options.loop),
      msix_(options.msix),
      report_needs_reset_(std::move(options.needs_reset)),
      active_changed_(std::move(options.active_changed)),
      transitional_(options.transitional),
      offered_features_(device_.offered_features() | kTransportFeatures),
      legacy_features_(static_cast<uint32_t>(offered_features_ | kFeatureAnyLayout)),
      isr_(msix_, std::move(options.set_pin)),
      scope_(options.loop) {
  const std::vector<uint16_t> sizes = device_.queue_sizes();
  VIREO_CHECK(sizes.size() == kicks.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    queues_.push_back(std::make_unique<QueueRegisters>(sizes[i], std::move(kicks[i])));
  }
  device_.Connect(*this);
  MutexLock lock(mutex_);
  config_ = device_.config();
  ClearAll();
}

DeviceRegisters::~DeviceRegisters() = default;

// ---- What the driver finds ----

QueueRegisters* DeviceRegisters::SelectedQueue() const {
  return queue_select_ < queues_.size() ? queues_[queue_select_].get() : nullptr;
}

DeviceRegisters::View DeviceRegisters::Look() const {
  MutexLock lock(mutex_);
  View view = {.status = status_,
               .driver_features = driver_features_,
               .device_feature_select = device_feature_select_,
               .driver_feature_select = driver_feature_select_,
               .config_vector = config_vector_.load(std::memory_order_relaxed),
               .config_generation = config_generation_,
               .queue_select = queue_select_};
  if (const QueueRegisters* const queue = SelectedQueue(); queue != nullptr) {
    view.queue = QueueView{.max_size = queue->max_size,
                           .size = queue->size,
                           .vector = queue->vector.load(std::memory_order_relaxed),
                           .enabled = queue->enabled,
                           .resetting = queue->resetting != nullptr,
                           .descriptors = queue->descriptors,
                           .driver = queue->driver,
                           .device = queue->device};
  }
  return view;
}

uint8_t DeviceRegisters::status() const {
  MutexLock lock(mutex_);
  return status_;
}

void DeviceRegisters::ReadConfig(uint64_t offset, std::span<uint8_t> data) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = offset + i < config_.size() ? config_[offset + i] : 0;
  }
}

// ---- What the driver does ----

bool DeviceRegisters::FeaturesAcceptable() const {
  // §6.1: a device may insist on VERSION_1, and this one knows nothing else.
  return (driver_features_ & ~offered_features_) == 0 &&
         (driver_features_ & kFeatureVersion1) != 0 && device_.AcceptsFeatures(driver_features_);
}

std::shared_ptr<Parking> DeviceRegisters::WriteStatus(uint8_t value) {
  MutexLock lock(mutex_);
  if (value == 0) return BeginReset();
  if (resetting_ != nullptr) return nullptr;
  // Bits are only ever added, until a reset (§2.1.1).
  uint8_t added = value & ~status_;
  added &= kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk | kStatusFailed;
  if ((added & kStatusFeaturesOk) != 0 && (active_ || !FeaturesAcceptable())) {
    added &= ~(kStatusFeaturesOk | kStatusDriverOk);
  }
  if (((status_ | added) & kStatusFeaturesOk) == 0) added &= ~kStatusDriverOk;
  status_ |= added;
  if ((added & kStatusDriverOk) != 0) Activate();
  return nullptr;
}

std::shared_ptr<Parking> DeviceRegisters::BeginReset() {
  if (resetting_ != nullptr) return resetting_;
  if (!touched_) {
    ClearAll();
    return nullptr;
  }
  resetting_ = std::make_shared<Parking>();
  loop_.Post([this, parking = resetting_] { scope_.Spawn(ResetDevice(parking)); });
  return resetting_;
}

void DeviceRegisters::Activate() {
  touched_ = true;
  active_ = true;
  loop_.Post([this, activation = MakeActivation()] { ActivateDevice(activation); });
}

void DeviceRegisters::SelectDeviceFeatures(uint32_t half) {
  MutexLock lock(mutex_);
  if (resetting_ == nullptr) device_feature_select_ = half;
}

void DeviceRegisters::SelectDriverFeatures(uint32_t half) {
  MutexLock lock(mutex_);
  if (resetting_ == nullptr) driver_feature_select_ = half;
}

void DeviceRegisters::WriteDriverFeatures(uint32_t value) {
  MutexLock lock(mutex_);
  if (resetting_ != nullptr || driver_feature_select_ >= 2) return;
  if (active_ || (status_ & kStatusFeaturesOk) != 0) return;  // Final once accepted (§3.1.1).
  const int shift = 32 * static_cast<int>(driver_feature_select_);
  driver_features_ &= ~(uint64_t{0xffffffff} << shift);
  driver_features_ |= uint64_t{value} << shift;
}

uint16_t DeviceRegisters::CheckedVector(uint16_t vector) const {
  return vector < msix_.vectors() ? vector : kNoVector;
}

void DeviceRegisters::WriteConfigVector(uint16_t vector) {
  MutexLock lock(mutex_);
  if (resetting_ != nullptr) return;
  config_vector_.store(CheckedVector(vector), std::memory_order_relaxed);
}

void DeviceRegisters::WriteConfig(uint64_t offset, std::span<const uint8_t> data) {
  MutexLock lock(mutex_);
  if (resetting_ != nullptr) return;
  for (size_t i = 0; i < data.size() && offset + i < config_.size(); ++i) {
    const auto at = static_cast<uint16_t>(offset + i);
    if (!device_.ConfigWritable(at, driver_features_)) continue;
    const uint8_t value = data[i];
    config_[at] = value;
    touched_ = true;
    loop_.Post([this, at, value] {
      device_.WriteConfig(at, std::span<const uint8_t>(&value, 1));
      RefreshConfig();
    });
  }
}

void DeviceRegisters::SelectQueue(uint16_t index) {
  MutexLock lock(mutex_);
  if (resetting_ == nullptr) queue_select_ = index;
}

QueueRegisters* DeviceRegisters::WritableQueue() const {
  return resetting_ == nullptr ? SelectedQueue() : nullptr;
}

void DeviceRegisters::WriteQueueSize(uint16_t size) {
  MutexLock lock(mutex_);
  QueueRegisters* const queue = WritableQueue();
  // Whether it is a possible size is judged, as the addresses are, when the queue starts.
  if (queue != nullptr && !queue->enabled) queue->size = size;
}

void DeviceRegisters::WriteQueueVector(uint16_t vector) {
  MutexLock lock(mutex_);
  QueueRegisters* const queue = WritableQueue();
  if (queue != nullptr) queue->vector.store(CheckedVector(vector), std::memory_order_relaxed);
}

void DeviceRegisters::WriteQueueAddress(QueuePart part, uint64_t value, uint64_t mask) {
  MutexLock lock(mutex_);
  QueueRegisters* const queue = WritableQueue();
  if (queue == nullptr || queue->enabled) return;
  uint64_t& address = part == QueuePart::kDescriptors ? queue->descriptors
                      : part == QueuePart::kDriver    ? queue->driver
                                                      : queue->device;
  address = (address & ~mask) | (value & mask);
}

void DeviceRegisters::EnableQueue() {
  MutexLock lock(mutex_);
  QueueRegisters* const queue = WritableQueue();
  if (queue == nullptr || queue->enabled || queue->resetting != nullptr) return;
  BeginQueue(*queue);
}

void DeviceRegisters::BeginQueue(QueueRegisters& queue) {
  queue.enabled = true;
  if (!active_) return;
  // Enabled again after a queue reset (§2.6.1.2).
  loop_.Post([this, activation = queue.Activation(queue_select_, driver_features_)] {
    StartQueue(activation);
  });
}

std::shared_ptr<Parking> DeviceRegisters::ResetQueue() {
  MutexLock lock(mutex_);
  QueueRegisters* const queue = WritableQueue();
  if (queue == nullptr || (driver_features_ & kFeatureRingReset) == 0) return nullptr;
  return BeginQueueReset(*queue);
}

std::shared_ptr<Parking> DeviceRegisters::BeginQueueReset(QueueRegisters& queue) {
  if (queue.resetting != nullptr) return queue.resetting;
  if (!queue.enabled) return nullptr;
  if (!active_) {
    queue.Clear();
    return nullptr;
  }
  queue.resetting = std::make_shared<Parking>();
  loop_.Post([this, index = queue_select_, parking = queue.resetting] {
    scope_.Spawn(ResetOneQueue(index, parking));
  });
  return queue.resetting;
}

void DeviceRegisters::Notify(uint64_t queue) {
  if (queue < queues_.size()) queues_[queue]->kick.Signal();
}

Activation DeviceRegisters::MakeActivation() const {
  Activation activation;
  activation.features = driver_features_;
  for (uint16_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i]->enabled) continue;
    activation.queues.push_back(queues_[i]->Activation(i, driver_features_));
  }
  return activation;
}

void DeviceRegisters::ClearAll() {
  status_ = 0;
  driver_features_ = 0;
  device_feature_select_ = 0;
  driver_feature_select_ = 0;
  queue_select_ = 0;
  config_vector_.store(kNoVector, std::memory_order_relaxed);
  touched_ = false;
  active_ = false;
  for (const std::unique_ptr<QueueRegisters>& queue : queues_) queue->Clear();
}

// ---- Lifecycle ----

Task<void> DeviceRegisters::Quiesce() {
  quiet_ = true;
  co_await scope_.Join();  // A reset that the driver began.
  if (quiet_) co_await device_.Quiesce();
}

void DeviceRegisters::Resume() {
  quiet_ = false;
  device_.Resume();
}

Task<void> DeviceRegisters::Reset() {
  co_await scope_.Join();
  if (active_changed_) active_changed_(false);
  co_await device_.Reset();
  {
    MutexLock lock(mutex_);
    config_ = device_.config();
    ClearAll();
  }
  isr_.Take();
}

void DeviceRegisters::Save(StateWriter& writer) const {
  {
    MutexLock lock(mutex_);
    VIREO_CHECK(resetting_ == nullptr, "a quiet device has no reset under way");
    writer.U8(status_);
    writer.U64(driver_features_);
    writer.U32(device_feature_select_);
    writer.U32(driver_feature_select_);
    writer.U16(queue_select_);
    writer.U8(config_generation_);
    writer.Bytes(config_);
    writer.Bool(touched_);
    if (transitional_) writer.Bool(active_);
    writer.U16(config_vector_.load(std::memory_order_relaxed));
    writer.U16(queue_count());
    for (const std::unique_ptr<QueueRegisters>& queue : queues_) queue->Save(writer);
  }
  writer.U8(isr_.bits());
  writer.State(device_.Save());
}

absl::Status DeviceRegisters::Restore(StateReader& reader) {
  Activation activation;
  bool activate = false;
  {
    MutexLock lock(mutex_);
    status_ = reader.U8();
    driver_features_ = reader.U64();
    device_feature_select_ = reader.U32();
    driver_feature_select_ = reader.U32();
    queue_select_ = reader.U16();
    config_generation_ = reader.U8();
    std::vector<uint8_t> config = reader.Bytes();
    touched_ = reader.Bool();
    active_ = transitional_ ? reader.Bool() : (status_ & kStatusDriverOk) != 0;
    config_vector_.store(CheckedVector(reader.U16()), std::memory_order_relaxed);
    if (reader.U16() != queues_.size()) reader.Fail("another number of queues");
    for (const std::unique_ptr<QueueRegisters>& queue : queues_) {
      queue->Restore(reader);
      queue->vector.store(CheckedVector(queue->vector.load(std::memory_order_relaxed)),
                          std::memory_order_relaxed);
    }
    RETURN_IF_ERROR(reader.status());
    if (config.size() != config_.size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: the state has %d bytes of configuration, this device %d", name_,
                          config.size(), config_.size()));
    }
    const bool legacy = transitional_ && (status_ & kStatusFeaturesOk) == 0;
    const bool acceptable =
        legacy ? (driver_features_ & ~uint64_t{legacy_features_}) == 0 : FeaturesAcceptable();
    if ((active_ || (status_ & kStatusFeaturesOk) != 0) && !acceptable) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: the state has features %#x, this device offers %#x", name_,
                          driver_features_, offered_features_));
    }
    config_ = std::move(config);
    touched_ |= active_;
    activate = active_;
    if (activate) activation = MakeActivation();
  }
  isr_.Restore(reader.U8() & (kIsrQueue | kIsrConfig));
  const EncodedState device_state = reader.State();
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(device_.Restore(device_state));
  if (activate) ActivateDevice(activation);
  UpdatePin();
  return absl::OkStatus();
}

// ---- On the loop ----

void DeviceRegisters::AskForReset(const absl::Status& reason) {
  if (log_limit_.Allow()) LogWarning("%s needs reset: %s", name_, reason.message());
  SignalNeedsReset();
}

void DeviceRegisters::ActivateDevice(const Activation& activation) {
  // A legacy driver's features are not judged before this. Senseless ones get nothing served.
  const bool accepted = device_.AcceptsFeatures(activation.features);
  absl::Status status = device_.Activate(accepted ? activation : Activation{});
  if (!accepted) {
    status.Update(absl::InvalidArgumentError(
        absl::StrFormat("features %#x make no sense together", activation.features)));
  }
  if (!status.ok()) AskForReset(status);
  if (active_changed_) active_changed_(true);
}

void DeviceRegisters::StartQueue(const QueueActivation& queue) {
  const absl::Status status = device_.StartQueue(queue);
  if (!status.ok()) AskForReset(status);
}

Task<void> DeviceRegisters::ResetDevice(std::shared_ptr<Parking> parking) {
  if (active_changed_) active_changed_(false);
  co_await device_.Reset();
  isr_.Take();
  {
    MutexLock lock(mutex_);
    config_ = device_.config();
    ClearAll();
    resetting_ = nullptr;
  }
  parking->Finish();
}

Task<void> DeviceRegisters::ResetOneQueue(uint16_t index, std::shared_ptr<Parking> parking) {
  co_await device_.ResetQueue(index);
  {
    MutexLock lock(mutex_);
    QueueRegisters& queue = *queues_[index];
    // A reset of the whole device may have come in between.
    if (queue.resetting == parking) queue.Clear();
  }
  parking->Finish();
}

void DeviceRegisters::RefreshConfig() {
  std::vector<uint8_t> config = device_.config();
  MutexLock lock(mutex_);
  if (config == config_) return;
  config_ = std::move(config);
  ++config_generation_;  // §4.1.4.3.1
}

void DeviceRegisters::ConfigChanged() {
  RefreshConfig();
  SignalConfig();
}

void DeviceRegisters::SignalNeedsReset() {
  {
    MutexLock lock(mutex_);
    if ((status_ & kStatusNeedsReset) != 0) return;
    status_ |= kStatusNeedsReset;
  }
  if (report_needs_reset_) report_needs_reset_();
  SignalConfig();  // §2.1.2
}

// ---- Interrupts ----

void DeviceRegisters::SignalConfig() {
  {
    MutexLock lock(mutex_);
    if ((status_ & kStatusDriverOk) == 0) return;  // §3.1.2: silent until the driver is ready.
  }
  isr_.Raise(kIsrConfig);
  msix_.Signal(config_vector_.load(std::memory_order_relaxed));
}

void DeviceRegisters::SignalQueue(uint16_t queue) {
  if (msix_.enabled()) {
    msix_.Signal(queues_[queue]->vector.load(std::memory_order_relaxed));
  } else {
    isr_.Raise(kIsrQueue);
  }
}

}  // namespace vireo::virtio
