#include "devices/virtio/pci_transport.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

using namespace common_config;  // NOLINT(google-build-using-namespace): register names only.

constexpr char kStateType[] = "virtio.pci";
constexpr uint32_t kStateVersion = 1;
constexpr uint64_t kRegionBytes = 0x1000;
constexpr uint64_t kTransportFeatures =
    kFeatureVersion1 | kFeatureIndirectDesc | kFeatureEventIdx | kFeatureRingReset;
// Subsystem and revision by which drivers that look closer know a modern device.
constexpr uint16_t kSubsystem = 0x1100;

uint32_t ClassCode(DeviceType type) {
  switch (type) {
    case DeviceType::kNet:
      return 0x020000;
    case DeviceType::kBlock:
      return 0x010000;
    case DeviceType::kConsole:
      return 0x078000;
    case DeviceType::kRng:
    case DeviceType::kBalloon:
      break;
  }
  return 0x00ff00;
}

uint64_t LittleEndian(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes.size() && i < 8; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

// The body of a virtio vendor capability, behind its ID and next pointer (§4.1.4).
std::vector<uint8_t> CapabilityBody(PciCapabilityType type, uint64_t offset, uint64_t size,
                                    size_t extra_bytes) {
  PciCapability capability = {};
  capability.length = static_cast<uint8_t>(sizeof(capability) + extra_bytes);
  capability.type = static_cast<uint8_t>(type);
  capability.bar = PciTransport::kBarIndex;
  capability.offset = static_cast<uint32_t>(offset);
  capability.size = static_cast<uint32_t>(size);
  std::vector<uint8_t> bytes(sizeof(capability) + extra_bytes);
  std::memcpy(bytes.data(), &capability, sizeof(capability));
  bytes.erase(bytes.begin(), bytes.begin() + 2);
  return bytes;
}

// Where the fields of VIRTIO_PCI_CAP_PCI_CFG are, from its start.
constexpr uint16_t kAccessBar = 4;
constexpr uint16_t kAccessOffset = 8;
constexpr uint16_t kAccessLength = 12;
constexpr uint16_t kAccessData = 16;
constexpr uint16_t kAccessBytes = 20;

bool Overlaps(uint16_t offset, size_t size, uint16_t field, size_t field_size) {
  return offset < field + field_size && field < offset + size;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PciTransport>> PciTransport::Create(const Options& options) {
  std::vector<std::unique_ptr<Queue>> queues;
  for (const uint16_t size : options.device.queue_sizes()) {
    ASSIGN_OR_RETURN(EventFd kick, EventFd::Create());
    queues.push_back(std::make_unique<Queue>(size, std::move(kick)));
  }
  std::unique_ptr<PciTransport> transport(new PciTransport(options, std::move(queues)));
  RETURN_IF_ERROR(transport->Construct(options));
  return transport;
}

PciTransport::PciTransport(const Options& options, std::vector<std::unique_ptr<Queue>> queues)
    : Function(
          {
              .name = options.name,
              .vendor_id = kPciVendor,
              .device_id = static_cast<uint16_t>(kPciModernDeviceBase +
                                                 static_cast<uint16_t>(options.device.type())),
              .revision_id = kPciModernRevision,
              .class_code = ClassCode(options.device.type()),
              .subsystem_vendor_id = kPciVendor,
              .subsystem_id = kSubsystem,
              .interrupt_pin = options.interrupt_pin,
          },
          options.address_space, &options.intx),
      device_(options.device),
      loop_(options.loop),
      offered_features_(options.device.offered_features() | kTransportFeatures),
      report_needs_reset_(options.needs_reset),
      msix_(options.msi),
      queues_(std::move(queues)),
      scope_(options.loop) {}

absl::Status PciTransport::Construct(const Options& options) {
  VIREO_CHECK(queues_.size() * kNotifyMultiplier <= kRegionBytes);
  VIREO_CHECK(kMsixTableOffset + msix_.table_bytes() <= kMsixPbaOffset);
  Window window;
  window.kind = Window::Kind::kMmio;
  window.size = kBarBytes;
  window.trapped = this;
  window.name = absl::StrFormat("%s BAR %d", options.name, kBarIndex);
  for (size_t i = 0; i < queues_.size(); ++i) {
    window.doorbells.push_back(
        {.offset = kNotifyOffset + i * kNotifyMultiplier, .event = &queues_[i]->kick});
  }
  RETURN_IF_ERROR(
      AddBar({.index = kBarIndex, .kind = options.bar_kind, .window = std::move(window)}));

  device_.Connect(*this);
  {
    MutexLock lock(mutex_);
    config_ = device_.config();
    ResetRegisters();
  }
  const auto add = [this](std::vector<uint8_t> body, std::span<const uint8_t> writable = {}) {
    return AddCapability(pci::kCapabilityVendorSpecific, body, writable);
  };
  RETURN_IF_ERROR(
      add(CapabilityBody(PciCapabilityType::kCommon, kCommonOffset, kSize, 0)).status());
  RETURN_IF_ERROR(add(CapabilityBody(PciCapabilityType::kIsr, kIsrOffset, 1, 0)).status());
  const uint64_t config_bytes = device_.config().size();
  VIREO_CHECK(config_bytes <= kRegionBytes);
  if (config_bytes != 0) {
    RETURN_IF_ERROR(
        add(CapabilityBody(PciCapabilityType::kDevice, kDeviceOffset, config_bytes, 0)).status());
  }
  std::vector<uint8_t> notify = CapabilityBody(PciCapabilityType::kNotify, kNotifyOffset,
                                               queues_.size() * kNotifyMultiplier, 4);
  notify[sizeof(PciCapability) - 2] = kNotifyMultiplier;
  RETURN_IF_ERROR(add(std::move(notify)).status());
  std::vector<uint8_t> writable(kAccessBytes - 2, 0);
  writable[kAccessBar - 2] = 0xff;
  std::fill(writable.begin() + kAccessOffset - 2, writable.end(), 0xff);
  ASSIGN_OR_RETURN(pci_access_,
                   add(CapabilityBody(PciCapabilityType::kPciAccess, 0, 0, 4), writable));
  RETURN_IF_ERROR(AddMsix(msix_, {.table_bar = kBarIndex,
                                  .table_offset = kMsixTableOffset,
                                  .pba_bar = kBarIndex,
                                  .pba_offset = kMsixPbaOffset}));
  FinishConstruction();
  return absl::OkStatus();
}

PciTransport::~PciTransport() { Detach(); }

// ---- Lifecycle ----

Task<void> PciTransport::Quiesce() {
  quiet_ = true;
  co_await scope_.Join();  // A reset that the driver began.
  if (quiet_) co_await device_.Quiesce();
}

void PciTransport::Resume() {
  quiet_ = false;
  device_.Resume();
}

Task<void> PciTransport::Reset() {
  co_await scope_.Join();
  co_await device_.Reset();
  {
    MutexLock lock(mutex_);
    config_ = device_.config();
    ResetRegisters();
  }
  ClearIsr();
  ResetFunction();
}

EncodedState PciTransport::Save() const {
  StateWriter writer;
  SaveFunction(writer);
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
    writer.U16(config_vector_.load(std::memory_order_relaxed));
    writer.U16(static_cast<uint16_t>(queues_.size()));
    for (const std::unique_ptr<Queue>& queue : queues_) {
      writer.U16(queue->vector.load(std::memory_order_relaxed));
      writer.U16(queue->size);
      writer.Bool(queue->enabled);
      writer.U64(queue->descriptors);
      writer.U64(queue->driver);
      writer.U64(queue->device);
    }
  }
  {
    MutexLock lock(isr_mutex_);
    writer.U8(isr_);
  }
  writer.State(device_.Save());
  return EncodedState{.type = kStateType, .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status PciTransport::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  RETURN_IF_ERROR(RestoreFunction(reader));
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
    config_vector_.store(CheckedVector(reader.U16()), std::memory_order_relaxed);
    if (reader.U16() != queues_.size()) reader.Fail("another number of queues");
    for (const std::unique_ptr<Queue>& queue : queues_) {
      queue->vector.store(CheckedVector(reader.U16()), std::memory_order_relaxed);
      queue->size = reader.U16();
      queue->enabled = reader.Bool();
      queue->descriptors = reader.U64();
      queue->driver = reader.U64();
      queue->device = reader.U64();
    }
    RETURN_IF_ERROR(reader.status());
    if (config.size() != config_.size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: the state has %d bytes of configuration, this device %d", name(),
                          config.size(), config_.size()));
    }
    if ((status_ & kStatusFeaturesOk) != 0 && !FeaturesAcceptable()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: the state has features %#x, this device offers %#x", name(),
                          driver_features_, offered_features_));
    }
    config_ = std::move(config);
    activate = (status_ & kStatusDriverOk) != 0;
    if (activate) activation = MakeActivation();
  }
  {
    MutexLock lock(isr_mutex_);
    isr_ = reader.U8() & (kIsrQueue | kIsrConfig);
  }
  const EncodedState device_state = reader.State();
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(device_.Restore(device_state));
  if (activate) ActivateDevice(activation);
  MutexLock lock(isr_mutex_);
  UpdateIntx();
  return absl::OkStatus();
}

// ---- Register accesses, on vCPU threads ----

void PciTransport::Read(uint64_t offset, std::span<uint8_t> data) {
  std::fill(data.begin(), data.end(), 0);
  if (offset >= kMsixPbaOffset) {
    msix_.ReadPba(offset - kMsixPbaOffset, data);
  } else if (offset >= kMsixTableOffset) {
    msix_.ReadTable(offset - kMsixTableOffset, data);
  } else if (offset >= kNotifyOffset) {
    // Write-only.
  } else if (offset >= kDeviceOffset) {
    ReadDeviceConfig(offset - kDeviceOffset, data);
  } else if (offset == kIsrOffset) {
    ReadIsr(data);
  } else if (offset < kIsrOffset) {
    ReadCommon(offset - kCommonOffset, data);
  }
}

std::shared_ptr<Parking> PciTransport::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (offset >= kMsixPbaOffset) return nullptr;  // Read-only.
  if (offset >= kMsixTableOffset) {
    msix_.WriteTable(offset - kMsixTableOffset, data);
  } else if (offset >= kNotifyOffset) {
    // A kick that found no doorbell: the host refused it, or it came through PCI configuration
    // space.
    const uint64_t index = (offset - kNotifyOffset) / kNotifyMultiplier;
    if (index < queues_.size()) queues_[index]->kick.Signal();
  } else if (offset >= kDeviceOffset) {
    WriteDeviceConfig(offset - kDeviceOffset, data);
  } else if (offset < kIsrOffset) {
    return WriteCommon(offset - kCommonOffset, data);
  }
  return nullptr;
}

bool PciTransport::driver_ready() const {
  MutexLock lock(mutex_);
  return (status_ & kStatusDriverOk) != 0;
}

bool PciTransport::needs_reset() const {
  MutexLock lock(mutex_);
  return (status_ & kStatusNeedsReset) != 0;
}

PciTransport::Queue* PciTransport::SelectedQueue() const {
  return queue_select_ < queues_.size() ? queues_[queue_select_].get() : nullptr;
}

void PciTransport::ReadCommon(uint64_t offset, std::span<uint8_t> data) const {
  std::array<uint8_t, kSize + 4> image = {};
  const auto put = [&image](uint16_t at, uint64_t value, int width) {
    for (int i = 0; i < width; ++i) image[at + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  {
    MutexLock lock(mutex_);
    put(kDeviceFeatureSelect, device_feature_select_, 4);
    if (device_feature_select_ < 2) {
      put(kDeviceFeature, offered_features_ >> (32 * device_feature_select_), 4);
    }
    put(kDriverFeatureSelect, driver_feature_select_, 4);
    if (driver_feature_select_ < 2) {
      put(kDriverFeature, driver_features_ >> (32 * driver_feature_select_), 4);
    }
    put(kConfigMsixVector, config_vector_.load(std::memory_order_relaxed), 2);
    put(kNumQueues, queues_.size(), 2);
    put(kDeviceStatus, status_, 1);
    put(kConfigGeneration, config_generation_, 1);
    put(kQueueSelect, queue_select_, 2);
    // §4.1.4.3.1: a queue_size of 0 says that there is no such queue.
    if (const Queue* const queue = SelectedQueue(); queue != nullptr) {
      put(kQueueSize, queue->size, 2);
      put(kQueueMsixVector, queue->vector.load(std::memory_order_relaxed), 2);
      put(kQueueEnable, queue->enabled ? 1 : 0, 2);
      put(kQueueNotifyOff, queue_select_, 2);
      put(kQueueDesc, queue->descriptors, 8);
      put(kQueueDriver, queue->driver, 8);
      put(kQueueDevice, queue->device, 8);
      put(kQueueNotifyData, queue_select_, 2);
      put(kQueueReset, queue->resetting != nullptr ? 1 : 0, 2);
    }
  }
  for (size_t i = 0; i < data.size() && offset + i < image.size(); ++i) data[i] = image[offset + i];
}

void PciTransport::ReadIsr(std::span<uint8_t> data) {
  MutexLock lock(isr_mutex_);
  data[0] = std::exchange(isr_, 0);  // §4.1.4.5.1: reading clears it, and with it the pin.
  UpdateIntx();
}

void PciTransport::ReadDeviceConfig(uint64_t offset, std::span<uint8_t> data) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < data.size() && offset + i < config_.size(); ++i) {
    data[i] = config_[offset + i];
  }
}

void PciTransport::WriteDeviceConfig(uint64_t offset, std::span<const uint8_t> data) {
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

std::shared_ptr<Parking> PciTransport::WriteCommon(uint64_t offset, std::span<const uint8_t> data) {
  // §4.1.3.1: the driver uses each field's own width. Anything else is no field and changes
  // nothing.
  const uint64_t value = LittleEndian(data);
  const size_t width = data.size();
  MutexLock lock(mutex_);
  if (offset == kDeviceStatus && width == 1) return WriteStatus(static_cast<uint8_t>(value));
  if (resetting_ != nullptr) return nullptr;  // Until it has ended there is nothing to set up.
  if (width == 4) {
    switch (offset) {
      case kDeviceFeatureSelect:
        device_feature_select_ = static_cast<uint32_t>(value);
        return nullptr;
      case kDriverFeatureSelect:
        driver_feature_select_ = static_cast<uint32_t>(value);
        return nullptr;
      case kDriverFeature:
        // Final once accepted (§3.1.1).
        if (driver_feature_select_ < 2 && (status_ & kStatusFeaturesOk) == 0) {
          const int shift = 32 * static_cast<int>(driver_feature_select_);
          driver_features_ &= ~(uint64_t{0xffffffff} << shift);
          driver_features_ |= value << shift;
        }
        return nullptr;
    }
  }
  if (width == 2) {
    Queue* const queue = SelectedQueue();
    switch (offset) {
      case kConfigMsixVector:
        config_vector_.store(CheckedVector(value), std::memory_order_relaxed);
        return nullptr;
      case kQueueSelect:
        queue_select_ = static_cast<uint16_t>(value);
        return nullptr;
      case kQueueSize:
        // Whether it is a possible size is judged, as the addresses are, when the queue starts.
        if (queue != nullptr && !queue->enabled) queue->size = static_cast<uint16_t>(value);
        return nullptr;
      case kQueueMsixVector:
        if (queue != nullptr) queue->vector.store(CheckedVector(value), std::memory_order_relaxed);
        return nullptr;
      case kQueueEnable:
        // §4.1.4.3.2: the driver never writes 0.
        if (queue != nullptr && value == 1) EnableQueue(*queue);
        return nullptr;
      case kQueueReset:
        return WriteQueueReset(static_cast<uint16_t>(value));
    }
  }
  if ((width == 4 || width == 8) && offset >= kQueueDesc && offset < kQueueNotifyData) {
    WriteQueueAddress(offset, value, width);
  }
  return nullptr;
}

void PciTransport::WriteQueueAddress(uint64_t offset, uint64_t value, size_t width) {
  Queue* const queue = SelectedQueue();
  if (queue == nullptr || queue->enabled || offset % width != 0) return;
  uint64_t* const field = offset < kQueueDriver   ? &queue->descriptors
                          : offset < kQueueDevice ? &queue->driver
                                                  : &queue->device;
  if (width == 8) {
    *field = value;
  } else if (offset % 8 == 0) {
    *field = (*field & ~uint64_t{0xffffffff}) | value;
  } else {
    *field = (*field & 0xffffffff) | value << 32;
  }
}

uint16_t PciTransport::CheckedVector(uint64_t value) const {
  // §4.1.5.1.2.1: a vector that cannot be had reads back as "none".
  return value < msix_.vectors() ? static_cast<uint16_t>(value) : kNoVector;
}

bool PciTransport::FeaturesAcceptable() const {
  // §6.1: a device may insist on VERSION_1, and this one knows nothing else.
  return (driver_features_ & ~offered_features_) == 0 &&
         (driver_features_ & kFeatureVersion1) != 0 && device_.AcceptsFeatures(driver_features_);
}

std::shared_ptr<Parking> PciTransport::WriteStatus(uint8_t value) {
  if (resetting_ != nullptr) return value == 0 ? resetting_ : nullptr;
  if (value == 0) {
    if (!touched_) {
      ResetRegisters();
      return nullptr;
    }
    resetting_ = std::make_shared<Parking>();
    loop_.Post([this, parking = resetting_] { scope_.Spawn(ResetDevice(parking)); });
    return resetting_;
  }
  // Bits are only ever added, until a reset (§2.1.1).
  uint8_t added = value & ~status_;
  added &= kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk | kStatusFailed;
  if ((added & kStatusFeaturesOk) != 0 && !FeaturesAcceptable()) {
    added &= ~(kStatusFeaturesOk | kStatusDriverOk);
  }
  if (((status_ | added) & kStatusFeaturesOk) == 0) added &= ~kStatusDriverOk;
  status_ |= added;
  if ((added & kStatusDriverOk) != 0) {
    touched_ = true;
    loop_.Post([this, activation = MakeActivation()] { ActivateDevice(activation); });
  }
  return nullptr;
}

void PciTransport::EnableQueue(Queue& queue) {
  if (queue.enabled || queue.resetting != nullptr) return;
  queue.enabled = true;
  if ((status_ & kStatusDriverOk) == 0) return;
  // Enabled again after a queue reset (§2.6.1.2).
  loop_.Post([this, activation = ActivationOf(queue_select_)] { StartQueue(activation); });
}

std::shared_ptr<Parking> PciTransport::WriteQueueReset(uint16_t value) {
  Queue* const queue = SelectedQueue();
  if (queue == nullptr || value != 1 || (driver_features_ & kFeatureRingReset) == 0) return nullptr;
  if (queue->resetting != nullptr) return queue->resetting;
  if (!queue->enabled) return nullptr;
  if ((status_ & kStatusDriverOk) == 0) {
    ResetQueueRegisters(*queue);
    return nullptr;
  }
  queue->resetting = std::make_shared<Parking>();
  loop_.Post([this, index = queue_select_, parking = queue->resetting] {
    scope_.Spawn(ResetQueue(index, parking));
  });
  return queue->resetting;
}

QueueActivation PciTransport::ActivationOf(uint16_t index) const {
  const Queue& queue = *queues_[index];
  return {.index = index,
          .ring = {.size = queue.size,
                   .descriptors = GuestAddress(queue.descriptors),
                   .available = GuestAddress(queue.driver),
                   .used = GuestAddress(queue.device),
                   .event_idx = (driver_features_ & kFeatureEventIdx) != 0,
                   .indirect = (driver_features_ & kFeatureIndirectDesc) != 0},
          .kick = &queue.kick};
}

Activation PciTransport::MakeActivation() const {
  Activation activation;
  activation.features = driver_features_;
  for (uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i]->enabled) activation.queues.push_back(ActivationOf(i));
  }
  return activation;
}

void PciTransport::ResetQueueRegisters(Queue& queue) {
  queue.vector.store(kNoVector, std::memory_order_relaxed);
  queue.size = queue.max_size;
  queue.enabled = false;
  queue.descriptors = 0;
  queue.driver = 0;
  queue.device = 0;
  queue.resetting.reset();
}

void PciTransport::ResetRegisters() {
  status_ = 0;
  driver_features_ = 0;
  device_feature_select_ = 0;
  driver_feature_select_ = 0;
  queue_select_ = 0;
  config_vector_.store(kNoVector, std::memory_order_relaxed);
  touched_ = false;
  for (const std::unique_ptr<Queue>& queue : queues_) ResetQueueRegisters(*queue);
}

// ---- On the loop ----

void PciTransport::ActivateDevice(const Activation& activation) {
  const absl::Status status = device_.Activate(activation);
  if (!status.ok()) {
    if (log_limit_.Allow()) LogWarning("%s needs reset: %s", name(), status.message());
    SignalNeedsReset();
  }
}

void PciTransport::StartQueue(const QueueActivation& queue) {
  const absl::Status status = device_.StartQueue(queue);
  if (!status.ok()) {
    if (log_limit_.Allow()) LogWarning("%s needs reset: %s", name(), status.message());
    SignalNeedsReset();
  }
}

Task<void> PciTransport::ResetDevice(std::shared_ptr<Parking> parking) {
  co_await device_.Reset();
  ClearIsr();
  {
    MutexLock lock(mutex_);
    config_ = device_.config();
    ResetRegisters();
    resetting_ = nullptr;
  }
  parking->Finish();
}

Task<void> PciTransport::ResetQueue(uint16_t index, std::shared_ptr<Parking> parking) {
  co_await device_.ResetQueue(index);
  {
    MutexLock lock(mutex_);
    Queue& queue = *queues_[index];
    // A reset of the whole device may have come in between.
    if (queue.resetting == parking) ResetQueueRegisters(queue);
  }
  parking->Finish();
}

void PciTransport::RefreshConfig() {
  std::vector<uint8_t> config = device_.config();
  MutexLock lock(mutex_);
  if (config == config_) return;
  config_ = std::move(config);
  ++config_generation_;  // §4.1.4.3.1
}

void PciTransport::ConfigChanged() {
  RefreshConfig();
  SignalConfig();
}

void PciTransport::SignalNeedsReset() {
  {
    MutexLock lock(mutex_);
    if ((status_ & kStatusNeedsReset) != 0) return;
    status_ |= kStatusNeedsReset;
  }
  if (report_needs_reset_) report_needs_reset_();
  SignalConfig();  // §2.1.2
}

void PciTransport::SignalConfig() {
  {
    MutexLock lock(mutex_);
    if ((status_ & kStatusDriverOk) == 0) return;  // §3.1.2: silent until the driver is ready.
  }
  RaiseIsr(kIsrConfig);
  msix_.Signal(config_vector_.load(std::memory_order_relaxed));
}

void PciTransport::SignalQueue(uint16_t queue) {
  if (msix_.enabled()) {
    msix_.Signal(queues_[queue]->vector.load(std::memory_order_relaxed));
  } else {
    RaiseIsr(kIsrQueue);
  }
}

void PciTransport::RaiseIsr(uint8_t bits) {
  MutexLock lock(isr_mutex_);
  isr_ |= bits;
  UpdateIntx();
}

void PciTransport::ClearIsr() {
  MutexLock lock(isr_mutex_);
  isr_ = 0;
  UpdateIntx();
}

void PciTransport::UpdateIntx() { SetIntx(isr_ != 0 && !msix_.enabled()); }

// ---- VIRTIO_PCI_CAP_PCI_CFG, on vCPU threads ----

void PciTransport::OnConfigRead(uint16_t offset, std::span<uint8_t> data) {
  const uint16_t at = pci_access_ + kAccessData;
  if (!Overlaps(offset, data.size(), at, 4)) return;
  const uint32_t bar_offset = Config32(pci_access_ + kAccessOffset);
  const uint32_t length = Config32(pci_access_ + kAccessLength);
  if (Config8(pci_access_ + kAccessBar) != kBarIndex ||
      (length != 1 && length != 2 && length != 4) || bar_offset % length != 0 ||
      bar_offset >= kBarBytes) {
    return;
  }
  std::array<uint8_t, 4> bytes;
  Read(bar_offset, std::span<uint8_t>(bytes.data(), length));
  for (uint32_t i = 0; i < length; ++i) {
    SetConfig8(at + i, bytes[i]);
    if (at + i >= offset && at + i < offset + data.size()) data[at + i - offset] = bytes[i];
  }
}

std::shared_ptr<Parking> PciTransport::OnConfigWritten(uint16_t offset,
                                                       std::span<const uint8_t> data) {
  {
    MutexLock lock(isr_mutex_);
    UpdateIntx();  // MSI-X may have been switched.
  }
  const uint16_t at = pci_access_ + kAccessData;
  if (!Overlaps(offset, data.size(), at, 4)) return nullptr;
  const uint32_t bar_offset = Config32(pci_access_ + kAccessOffset);
  const uint32_t length = Config32(pci_access_ + kAccessLength);
  if (Config8(pci_access_ + kAccessBar) != kBarIndex ||
      (length != 1 && length != 2 && length != 4) || bar_offset % length != 0 ||
      bar_offset >= kBarBytes) {
    return nullptr;
  }
  const uint32_t value = Config32(at);
  std::array<uint8_t, 4> bytes;
  for (uint32_t i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return Write(bar_offset, std::span<const uint8_t>(bytes.data(), length));
}

}  // namespace vireo::virtio
