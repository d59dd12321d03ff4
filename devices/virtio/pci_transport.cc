#include "devices/virtio/pci_transport.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

using namespace common_config;  // NOLINT(google-build-using-namespace): register names only.

constexpr char kStateType[] = "virtio.pci";
constexpr uint32_t kStateVersion = 1;
constexpr uint64_t kRegionBytes = 0x1000;
// The subsystem by which drivers that look closer know a modern device.
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

pci::Function::Identity IdentityOf(const PciTransport::Options& options) {
  const DeviceType type = options.device.type();
  pci::Function::Identity identity = {
      .name = options.name,
      .vendor_id = kPciVendor,
      .device_id = static_cast<uint16_t>(kPciModernDeviceBase + static_cast<uint16_t>(type)),
      .revision_id = kPciModernRevision,
      .class_code = ClassCode(type),
      .subsystem_vendor_id = kPciVendor,
      .subsystem_id = kSubsystem,
      .interrupt_pin = options.interrupt_pin,
  };
  if (!options.transitional) return identity;
  VIREO_CHECK(type == DeviceType::kNet || type == DeviceType::kBlock);
  identity.device_id = type == DeviceType::kNet ? kPciTransitionalNet : kPciTransitionalBlock;
  identity.revision_id = kPciTransitionalRevision;
  identity.subsystem_id = static_cast<uint16_t>(type);
  return identity;
}

uint64_t LittleEndian(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes.size() && i < 8; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

// The body of a virtio vendor capability, behind its ID and next pointer (§4.1.4).
std::vector<uint8_t> CapabilityBody(PciCapabilityType type, int bar, uint64_t offset, uint64_t size,
                                    size_t extra_bytes) {
  PciCapability capability = {};
  capability.length = static_cast<uint8_t>(sizeof(capability) + extra_bytes);
  capability.type = static_cast<uint8_t>(type);
  capability.bar = static_cast<uint8_t>(bar);
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
  ASSIGN_OR_RETURN(std::vector<EventFd> kicks, DeviceRegisters::MakeKicks(options.device));
  std::unique_ptr<PciTransport> transport(new PciTransport(options, std::move(kicks)));
  RETURN_IF_ERROR(transport->Construct(options));
  return transport;
}

PciTransport::PciTransport(const Options& options, std::vector<EventFd> kicks)
    : Function(IdentityOf(options), options.address_space, &options.intx),
      msix_(options.msi),
      registers_({.name = options.name,
                  .device = options.device,
                  .loop = options.loop,
                  .msix = msix_,
                  .set_pin = [this](bool asserted) { SetIntx(asserted); },
                  .needs_reset = options.needs_reset,
                  .transitional = options.transitional,
                  .active_changed = [this](bool active) { SetLegacyDoorbells(active); }},
                 std::move(kicks)) {
  if (options.transitional) legacy_.emplace(registers_, msix_);
}

absl::Status PciTransport::Construct(const Options& options) {
  const uint16_t queues = registers_.queue_count();
  VIREO_CHECK(queues * kNotifyMultiplier <= kRegionBytes);
  VIREO_CHECK(kMsixTableOffset + msix_.table_bytes() <= kMsixPbaOffset);
  if (legacy_.has_value()) RETURN_IF_ERROR(AddLegacyBar(options));
  Window window;
  window.kind = Window::Kind::kMmio;
  window.size = kBarBytes;
  window.trapped = this;
  window.name = absl::StrFormat("%s BAR %d", options.name, bar_index());
  for (uint16_t i = 0; i < queues; ++i) {
    window.doorbells.push_back(
        {.offset = kNotifyOffset + i * kNotifyMultiplier, .event = &registers_.kick(i)});
  }
  RETURN_IF_ERROR(
      AddBar({.index = bar_index(), .kind = options.bar_kind, .window = std::move(window)}));
  RETURN_IF_ERROR(AddCapabilities(options.device.config().size()));
  if (!options.rom.empty()) RETURN_IF_ERROR(AddExpansionRom(options.rom));
  FinishConstruction();
  return absl::OkStatus();
}

absl::Status PciTransport::AddLegacyBar(const Options& options) {
  Window window;
  window.kind = Window::Kind::kPio;
  window.size = LegacyLayout::BarBytes(options.device.config().size());
  window.trapped = &*legacy_;
  window.name = absl::StrFormat("%s BAR %d", options.name, kLegacyBarIndex);
  return AddBar({.index = kLegacyBarIndex, .kind = pci::BarKind::kIo, .window = std::move(window)});
}

void PciTransport::SetLegacyDoorbells(bool active) {
  if (!legacy_.has_value()) return;
  const absl::Status status =
      SetBarDoorbells(kLegacyBarIndex, active ? legacy_->Doorbells() : std::vector<Doorbell>());
  // A doorbell that the host refuses traps instead, which is slower and as right.
  if (!status.ok()) LogWarning("%s: %s", name(), status.message());
}

absl::Status PciTransport::AddCapabilities(uint64_t config_bytes) {
  const int bar = bar_index();
  const auto add = [this](std::vector<uint8_t> body, std::span<const uint8_t> writable = {}) {
    return AddCapability(pci::kCapabilityVendorSpecific, body, writable);
  };
  RETURN_IF_ERROR(
      add(CapabilityBody(PciCapabilityType::kCommon, bar, kCommonOffset, kSize, 0)).status());
  RETURN_IF_ERROR(add(CapabilityBody(PciCapabilityType::kIsr, bar, kIsrOffset, 1, 0)).status());
  VIREO_CHECK(config_bytes <= kRegionBytes);
  if (config_bytes != 0) {
    RETURN_IF_ERROR(
        add(CapabilityBody(PciCapabilityType::kDevice, bar, kDeviceOffset, config_bytes, 0))
            .status());
  }
  std::vector<uint8_t> notify = CapabilityBody(PciCapabilityType::kNotify, bar, kNotifyOffset,
                                               registers_.queue_count() * kNotifyMultiplier, 4);
  notify[sizeof(PciCapability) - 2] = kNotifyMultiplier;
  RETURN_IF_ERROR(add(std::move(notify)).status());
  std::vector<uint8_t> writable(kAccessBytes - 2, 0);
  writable[kAccessBar - 2] = 0xff;
  std::fill(writable.begin() + kAccessOffset - 2, writable.end(), 0xff);
  ASSIGN_OR_RETURN(pci_access_,
                   add(CapabilityBody(PciCapabilityType::kPciAccess, bar, 0, 0, 4), writable));
  return AddMsix(msix_, {.table_bar = bar,
                         .table_offset = kMsixTableOffset,
                         .pba_bar = bar,
                         .pba_offset = kMsixPbaOffset});
}

PciTransport::~PciTransport() { Detach(); }

// ---- Lifecycle ----

Task<void> PciTransport::Quiesce() { return registers_.Quiesce(); }

void PciTransport::Resume() { registers_.Resume(); }

Task<void> PciTransport::Reset() {
  co_await registers_.Reset();
  ResetFunction();
}

EncodedState PciTransport::Save() const {
  StateWriter writer;
  SaveFunction(writer);
  registers_.Save(writer);
  return EncodedState{.type = kStateType, .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status PciTransport::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  RETURN_IF_ERROR(RestoreFunction(reader));
  return registers_.Restore(reader);
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
    registers_.ReadConfig(offset - kDeviceOffset, data);
  } else if (offset == kIsrOffset) {
    data[0] = registers_.TakeIsr();
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
    registers_.Notify((offset - kNotifyOffset) / kNotifyMultiplier);
  } else if (offset >= kDeviceOffset) {
    registers_.WriteConfig(offset - kDeviceOffset, data);
  } else if (offset < kIsrOffset) {
    return WriteCommon(offset - kCommonOffset, data);
  }
  return nullptr;
}

void PciTransport::ReadCommon(uint64_t offset, std::span<uint8_t> data) const {
  std::array<uint8_t, kSize + 4> image = {};
  const auto put = [&image](uint16_t at, uint64_t value, int width) {
    for (int i = 0; i < width; ++i) image[at + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  const DeviceRegisters::View view = registers_.Look();
  put(kDeviceFeatureSelect, view.device_feature_select, 4);
  if (view.device_feature_select < 2) {
    put(kDeviceFeature, registers_.offered_features() >> (32 * view.device_feature_select), 4);
  }
  put(kDriverFeatureSelect, view.driver_feature_select, 4);
  if (view.driver_feature_select < 2) {
    put(kDriverFeature, view.driver_features >> (32 * view.driver_feature_select), 4);
  }
  put(kConfigMsixVector, view.config_vector, 2);
  put(kNumQueues, registers_.queue_count(), 2);
  put(kDeviceStatus, view.status, 1);
  put(kConfigGeneration, view.config_generation, 1);
  put(kQueueSelect, view.queue_select, 2);
  // §4.1.4.3.1: a queue_size of 0 says that there is no such queue.
  if (view.queue.has_value()) {
    put(kQueueSize, view.queue->size, 2);
    put(kQueueMsixVector, view.queue->vector, 2);
    put(kQueueEnable, view.queue->enabled ? 1 : 0, 2);
    put(kQueueNotifyOff, view.queue_select, 2);
    put(kQueueDesc, view.queue->descriptors, 8);
    put(kQueueDriver, view.queue->driver, 8);
    put(kQueueDevice, view.queue->device, 8);
    put(kQueueNotifyData, view.queue_select, 2);
    put(kQueueReset, view.queue->resetting ? 1 : 0, 2);
  }
  for (size_t i = 0; i < data.size() && offset + i < image.size(); ++i) data[i] = image[offset + i];
}

std::shared_ptr<Parking> PciTransport::WriteCommon(uint64_t offset, std::span<const uint8_t> data) {
  // §4.1.3.1: the driver uses each field's own width. Anything else is no field and changes
  // nothing.
  const uint64_t value = LittleEndian(data);
  const size_t width = data.size();
  if (offset == kDeviceStatus && width == 1) {
    return registers_.WriteStatus(static_cast<uint8_t>(value));
  }
  if (width == 4) {
    const auto value32 = static_cast<uint32_t>(value);
    switch (offset) {
      case kDeviceFeatureSelect:
        registers_.SelectDeviceFeatures(value32);
        return nullptr;
      case kDriverFeatureSelect:
        registers_.SelectDriverFeatures(value32);
        return nullptr;
      case kDriverFeature:
        registers_.WriteDriverFeatures(value32);
        return nullptr;
    }
  }
  if (width == 2) {
    const auto value16 = static_cast<uint16_t>(value);
    switch (offset) {
      case kConfigMsixVector:
        registers_.WriteConfigVector(value16);
        return nullptr;
      case kQueueSelect:
        registers_.SelectQueue(value16);
        return nullptr;
      case kQueueSize:
        registers_.WriteQueueSize(value16);
        return nullptr;
      case kQueueMsixVector:
        registers_.WriteQueueVector(value16);
        return nullptr;
      case kQueueEnable:
        if (value == 1) registers_.EnableQueue();  // §4.1.4.3.2: the driver never writes 0.
        return nullptr;
      case kQueueReset:
        return value == 1 ? registers_.ResetQueue() : nullptr;
    }
  }
  if ((width == 4 || width == 8) && offset >= kQueueDesc && offset < kQueueNotifyData) {
    WriteQueueAddress(offset, value, width);
  }
  return nullptr;
}

void PciTransport::WriteQueueAddress(uint64_t offset, uint64_t value, size_t width) {
  if (offset % width != 0) return;
  using Part = DeviceRegisters::QueuePart;
  const Part part = offset < kQueueDriver   ? Part::kDescriptors
                    : offset < kQueueDevice ? Part::kDriver
                                            : Part::kDevice;
  if (width == 8) {
    registers_.WriteQueueAddress(part, value, ~uint64_t{0});
  } else {
    const int shift = offset % 8 == 0 ? 0 : 32;
    registers_.WriteQueueAddress(part, value << shift, uint64_t{0xffffffff} << shift);
  }
}

// ---- VIRTIO_PCI_CAP_PCI_CFG, on vCPU threads ----

std::optional<PciTransport::ConfigAccess> PciTransport::PendingAccess() const {
  const ConfigAccess access = {.offset = Config32(pci_access_ + kAccessOffset),
                               .length = Config32(pci_access_ + kAccessLength)};
  const uint32_t length = access.length;
  if (Config8(pci_access_ + kAccessBar) != bar_index() ||
      (length != 1 && length != 2 && length != 4) || access.offset % length != 0 ||
      access.offset >= kBarBytes) {
    return std::nullopt;
  }
  return access;
}

void PciTransport::OnConfigRead(uint16_t offset, std::span<uint8_t> data) {
  const uint16_t at = pci_access_ + kAccessData;
  if (!Overlaps(offset, data.size(), at, 4)) return;
  const std::optional<ConfigAccess> access = PendingAccess();
  if (!access.has_value()) return;
  std::array<uint8_t, 4> bytes;
  Read(access->offset, std::span<uint8_t>(bytes.data(), access->length));
  for (uint32_t i = 0; i < access->length; ++i) {
    SetConfig8(at + i, bytes[i]);
    if (at + i >= offset && at + i < offset + data.size()) data[at + i - offset] = bytes[i];
  }
}

std::shared_ptr<Parking> PciTransport::OnConfigWritten(uint16_t offset,
                                                       std::span<const uint8_t> data) {
  registers_.UpdatePin();  // MSI-X may have been switched.
  const uint16_t at = pci_access_ + kAccessData;
  if (!Overlaps(offset, data.size(), at, 4)) return nullptr;
  const std::optional<ConfigAccess> access = PendingAccess();
  if (!access.has_value()) return nullptr;
  const uint32_t value = Config32(at);
  std::array<uint8_t, 4> bytes;
  for (uint32_t i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return Write(access->offset, std::span<const uint8_t>(bytes.data(), access->length));
}

}  // namespace vireo::virtio
