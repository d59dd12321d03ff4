#include "tests/support/virtio_driver.h"

#include <array>
#include <atomic>
#include <utility>

#include "absl/status/statusor.h"
#include "base/align.h"
#include "base/check.h"
#include "devices/pci/config_space.h"

namespace vireo::virtio {
namespace {

uint64_t ReadBus(Bus& bus, std::optional<uint64_t> base, uint64_t offset, int width) {
  std::array<uint8_t, 8> bytes = {};
  VIREO_CHECK(base.has_value(), "the BAR is placed");
  VIREO_CHECK(bus.Read(*base + offset, std::span<uint8_t>(bytes.data(), width)));
  uint64_t value = 0;
  for (int i = 0; i < width; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

std::shared_ptr<Parking> WriteBus(Bus& bus, std::optional<uint64_t> base, uint64_t offset,
                                  uint64_t value, int width) {
  std::array<uint8_t, 8> bytes;
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  VIREO_CHECK(base.has_value(), "the BAR is placed");
  return bus.Write(*base + offset, std::span<const uint8_t>(bytes.data(), width)).second;
}

}  // namespace

Segment Readable(std::vector<uint8_t> bytes) { return {.readable = std::move(bytes)}; }
Segment ReadableZeros(size_t bytes) { return Readable(std::vector<uint8_t>(bytes)); }
Segment Writable(uint32_t bytes) { return {.writable_bytes = bytes}; }

// ---- DriverRing ----

DriverRing::DriverRing(FakeGuestMemory& memory, Options options)
    : memory_(memory),
      options_(options),
      next_avail_(options.start_index),
      next_used_(options.start_index),
      kicked_(options.start_index) {
  const uint64_t descriptor_bytes = DescriptorTableBytes(options.size);
  if (options.legacy) {
    const uint64_t used_offset =
        AlignUp<uint64_t>(descriptor_bytes + AvailableRingBytes(options.size), kLegacyPageBytes);
    descriptors_ = memory.Allocate(used_offset + UsedRingBytes(options.size), kLegacyPageBytes);
    available_ = At(descriptors_, descriptor_bytes);
    used_ = At(descriptors_, used_offset);
  } else {
    descriptors_ = memory.Allocate(descriptor_bytes, 16);
    available_ = memory.Allocate(AvailableRingBytes(options.size), 2);
    used_ = memory.Allocate(UsedRingBytes(options.size), 4);
  }
  memory_.Write(descriptors_, std::vector<uint8_t>(DescriptorTableBytes(options.size)));
  memory_.Write(available_, std::vector<uint8_t>(AvailableRingBytes(options.size)));
  memory_.Write(used_, std::vector<uint8_t>(UsedRingBytes(options.size)));
  SetAvailableIdx(next_avail_);
  Store(At(used_, 2), next_used_);
  for (uint16_t i = options.size; i > 0; --i) free_.push_back(i - 1);
}

VirtqueueConfig DriverRing::config() const {
  return {.size = options_.size,
          .descriptors = descriptors_,
          .available = available_,
          .used = used_,
          .event_idx = options_.event_idx,
          .indirect = options_.indirect};
}

uint16_t DriverRing::Add(const std::vector<Segment>& segments) {
  Chain chain;
  std::vector<Descriptor> descriptors;
  for (const Segment& segment : segments) {
    Buffer buffer;
    buffer.writable = segment.writable_bytes != 0;
    buffer.bytes =
        buffer.writable ? segment.writable_bytes : static_cast<uint32_t>(segment.readable.size());
    buffer.owned = !segment.at.has_value();
    buffer.at = buffer.owned ? memory_.Allocate(buffer.bytes) : *segment.at;
    if (buffer.owned && !buffer.writable) memory_.Write(buffer.at, segment.readable);
    Descriptor descriptor;
    descriptor.address = buffer.at.value();
    descriptor.length = segment.length.value_or(buffer.bytes);
    descriptor.flags = buffer.writable ? kDescWrite : uint16_t{0};
    descriptor.next = uint16_t{0};
    descriptors.push_back(descriptor);
    chain.buffers.push_back(buffer);
  }
  const bool indirect = options_.indirect && descriptors.size() > 1;
  const size_t wanted = indirect ? 1 : descriptors.size();
  VIREO_CHECK(free_.size() >= wanted, "the test leaves room in its ring");
  for (size_t i = 0; i < wanted; ++i) {
    chain.descriptors.push_back(free_.back());
    free_.pop_back();
  }
  for (size_t i = 0; i + 1 < descriptors.size(); ++i) {
    descriptors[i].flags = static_cast<uint16_t>(descriptors[i].flags | kDescNext);
    descriptors[i].next = indirect ? static_cast<uint16_t>(i + 1) : chain.descriptors[i + 1];
  }
  if (indirect) {
    Buffer table;
    table.bytes = static_cast<uint32_t>(descriptors.size() * sizeof(Descriptor));
    table.at = memory_.Allocate(table.bytes);
    for (size_t i = 0; i < descriptors.size(); ++i) {
      memory_.WriteObject(At(table.at, i * sizeof(Descriptor)), descriptors[i]);
    }
    chain.table = table;
    Descriptor reference;
    reference.address = table.at.value();
    reference.length = table.bytes;
    reference.flags = kDescIndirect;
    reference.next = uint16_t{0};
    WriteDescriptor(chain.descriptors[0], reference);
  } else {
    for (size_t i = 0; i < descriptors.size(); ++i) {
      WriteDescriptor(chain.descriptors[i], descriptors[i]);
    }
  }
  const uint16_t head = chain.descriptors[0];
  chains_[head] = std::move(chain);
  SetAvailableEntry(next_avail_, head);
  SetAvailableIdx(++next_avail_);
  return head;
}

std::optional<UsedChain> DriverRing::PopUsed() {
  if (used_idx() == next_used_) return std::nullopt;
  const uint64_t slot = next_used_++ & (options_.size - 1);
  const auto element =
      memory_.ReadObject<UsedElement>(At(used_, kRingHeaderBytes + slot * sizeof(UsedElement)));
  UsedChain result;
  result.head = static_cast<uint16_t>(element.id);
  result.written = element.length;
  const auto found = chains_.find(result.head);
  if (found == chains_.end()) return result;  // A hostile test made it by hand.
  for (const Buffer& buffer : found->second.buffers) {
    if (buffer.writable) {
      const std::vector<uint8_t> bytes = memory_.Read(buffer.at, buffer.bytes);
      result.bytes.insert(result.bytes.end(), bytes.begin(), bytes.end());
    }
    if (buffer.owned) memory_.Free(buffer.at, buffer.bytes);
  }
  if (found->second.table.has_value()) {
    memory_.Free(found->second.table->at, found->second.table->bytes);
  }
  const std::vector<uint16_t>& descriptors = found->second.descriptors;
  free_.insert(free_.end(), descriptors.rbegin(), descriptors.rend());
  chains_.erase(found);
  return result;
}

bool DriverRing::TakeKickWanted() {
  const uint16_t before = std::exchange(kicked_, next_avail_);
  if (!options_.event_idx) return before != next_avail_ && (used_flags() & kUsedNoNotify) == 0;
  return static_cast<uint16_t>(next_avail_ - avail_event() - 1) <
         static_cast<uint16_t>(next_avail_ - before);
}

void DriverRing::SetUsedEvent(uint16_t more) {
  Store(At(available_, kRingHeaderBytes + 2 * options_.size),
        static_cast<uint16_t>(next_used_ + more - 1));
}

void DriverRing::SuppressInterrupts(bool suppress) {
  Store(available_, suppress ? kAvailNoInterrupt : uint16_t{0});
}

void DriverRing::WriteDescriptor(uint16_t index, const Descriptor& descriptor) {
  memory_.WriteObject(At(descriptors_, uint64_t{index} * sizeof(Descriptor)), descriptor);
}

void DriverRing::SetAvailableEntry(uint16_t position, uint16_t head) {
  const uint64_t slot = position & (options_.size - 1);
  memory_.WriteObject(At(available_, kRingHeaderBytes + 2 * slot), Le16(head));
}

void DriverRing::SetAvailableIdx(uint16_t idx) { Store(At(available_, 2), idx); }

uint16_t DriverRing::used_idx() const { return Load(At(used_, 2)); }
uint16_t DriverRing::used_flags() const { return Load(used_); }
uint16_t DriverRing::avail_event() const {
  return Load(At(used_, kRingHeaderBytes + sizeof(UsedElement) * options_.size));
}

// Shared with the device, which may be on another thread.
uint16_t DriverRing::Load(GuestAddress at) const {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(memory_.Host(at, 2))).load();
}

void DriverRing::Store(GuestAddress at, uint16_t value) {
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(memory_.Host(at, 2))).store(value);
}

// ---- VirtioHost ----

VirtioHost::VirtioHost(VirtioDevice& device, EventLoop& loop, Options options)
    : loop_(loop), options_(options), msi_(options.vectors) {
  absl::StatusOr<std::unique_ptr<PciTransport>> transport =
      PciTransport::Create({.name = "00:01.0 test",
                            .device = device,
                            .loop = loop,
                            .address_space = space_,
                            .msi = msi_,
                            .intx = intx_,
                            .transitional = options.transitional});
  VIREO_CHECK(transport.ok());
  transport_ = *std::move(transport);
  if (options.transitional) MovePorts(kPortBase);
  MoveBar(kBarBase);
}

VirtioHost::~VirtioHost() {
  Settle();
  if (options_.mode == LoopMode::kStepped) {
    loop_.RunTask(transport_->Reset());
  } else {
    loop_.RunOn([this] { return transport_->Reset(); });
  }
}

void VirtioHost::Settle() {
  if (options_.mode == LoopMode::kStepped) loop_.RunUntilIdle();
}

void VirtioHost::Wait(const std::shared_ptr<Parking>& parking) {
  Settle();
  if (parking == nullptr) return;
  VIREO_CHECK(options_.mode == LoopMode::kThreaded || parking->done(), "nothing holds the vCPU up");
  parking->Wait([] { return false; });
}

void VirtioHost::MoveBar(uint64_t base) {
  const auto bar = static_cast<uint16_t>(pci::kBar0 + 4 * transport_->bar_index());
  WriteConfig(bar, static_cast<uint32_t>(base), 4);
  WriteConfig(bar + 4, static_cast<uint32_t>(base >> 32), 4);
  WriteConfig(pci::kCommand,
              ReadConfig(pci::kCommand, 2) | pci::kCommandMemory | pci::kCommandBusMaster, 2);
}

void VirtioHost::MovePorts(uint64_t base) {
  const uint16_t bar = pci::kBar0 + 4 * PciTransport::kLegacyBarIndex;
  WriteConfig(bar, static_cast<uint32_t>(base), 4);
  WriteConfig(pci::kCommand, ReadConfig(pci::kCommand, 2) | pci::kCommandIo, 2);
}

void VirtioHost::EnableMsix(uint16_t vectors) {
  for (uint16_t i = 0; i < vectors; ++i) {
    const uint64_t entry = PciTransport::kMsixTableOffset + uint64_t{i} * pci::Msix::kEntryBytes;
    Write(entry, 0xfee00000, 4);
    Write(entry + 4, 0, 4);
    Write(entry + 8, 0x20u + i, 4);
    Write(entry + 12, 0, 4);
  }
  uint32_t at = ReadConfig(pci::kCapabilityPointer, 1);
  while (ReadConfig(static_cast<uint16_t>(at), 1) != pci::kCapabilityMsix) {
    at = ReadConfig(static_cast<uint16_t>(at + 1), 1);
    VIREO_CHECK(at != 0, "there is an MSI-X capability");
  }
  WriteConfig(static_cast<uint16_t>(at + 2), pci::Msix::kControlEnable, 2);
}

uint32_t VirtioHost::ReadConfig(uint16_t offset, int width) {
  std::array<uint8_t, 4> bytes = {};
  transport_->ReadConfig(offset, std::span<uint8_t>(bytes.data(), width));
  uint32_t value = 0;
  for (int i = 0; i < width; ++i) value |= uint32_t{bytes[i]} << (8 * i);
  return value;
}

std::shared_ptr<Parking> VirtioHost::WriteConfig(uint16_t offset, uint32_t value, int width) {
  std::array<uint8_t, 4> bytes;
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return transport_->WriteConfig(offset, std::span<const uint8_t>(bytes.data(), width));
}

uint64_t VirtioHost::Read(uint64_t offset, int width) {
  return ReadBus(space_.mmio(), transport_->bar_address(transport_->bar_index()), offset, width);
}

std::shared_ptr<Parking> VirtioHost::Write(uint64_t offset, uint64_t value, int width) {
  return WriteBus(space_.mmio(), transport_->bar_address(transport_->bar_index()), offset, value,
                  width);
}

uint64_t VirtioHost::ReadPort(uint64_t offset, int width) {
  return ReadBus(space_.pio(), transport_->bar_address(PciTransport::kLegacyBarIndex), offset,
                 width);
}

std::shared_ptr<Parking> VirtioHost::WritePort(uint64_t offset, uint64_t value, int width) {
  return WriteBus(space_.pio(), transport_->bar_address(PciTransport::kLegacyBarIndex), offset,
                  value, width);
}

// ---- VirtioDriver ----

void VirtioDriver::Reset() { host_->Wait(WriteStatus(0)); }

uint64_t VirtioDriver::OfferedFeatures() {
  uint64_t features = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    host_->Write(common_config::kDeviceFeatureSelect, half, 4);
    features |= host_->Read(common_config::kDeviceFeature, 4) << (32 * half);
  }
  return features;
}

bool VirtioDriver::Negotiate(uint64_t features) {
  WriteStatus(kStatusAcknowledge);
  WriteStatus(kStatusAcknowledge | kStatusDriver);
  for (uint32_t half = 0; half < 2; ++half) {
    host_->Write(common_config::kDriverFeatureSelect, half, 4);
    host_->Write(common_config::kDriverFeature, static_cast<uint32_t>(features >> (32 * half)), 4);
  }
  WriteStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  return (status() & kStatusFeaturesOk) != 0;
}

void VirtioDriver::SetUpQueue(uint16_t index, const Options& options) {
  rings_[index] = std::make_unique<DriverRing>(
      memory_, DriverRing::Options{.size = options.queue_size,
                                   .event_idx = (options.features & kFeatureEventIdx) != 0,
                                   .indirect = (options.features & kFeatureIndirectDesc) != 0});
  const VirtqueueConfig config = rings_[index]->config();
  host_->Write(common_config::kQueueSelect, index, 2);
  host_->Write(common_config::kQueueSize, config.size, 2);
  host_->Write(common_config::kQueueDesc, config.descriptors.value(), 8);
  host_->Write(common_config::kQueueDriver, config.available.value() & 0xffffffff, 4);
  host_->Write(common_config::kQueueDriver + 4, config.available.value() >> 32, 4);
  host_->Write(common_config::kQueueDevice, config.used.value(), 8);
  if (options.msix) host_->Write(common_config::kQueueMsixVector, 1u + index, 2);
  host_->Write(common_config::kQueueEnable, 1, 2);
}

void VirtioDriver::SetDriverOk() {
  WriteStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  host_->Settle();
}

bool VirtioDriver::Start(const Options& options) {
  Reset();
  if (!Negotiate(options.features | kFeatureVersion1)) return false;
  const auto queues = static_cast<uint16_t>(host_->Read(common_config::kNumQueues, 2));
  if (options.msix) {
    host_->EnableMsix(queues + 1);
    host_->Write(common_config::kConfigMsixVector, 0, 2);
  }
  for (uint16_t i = 0; i < queues; ++i) SetUpQueue(i, options);
  SetDriverOk();
  return true;
}

void VirtioDriver::Kick(uint16_t index) {
  host_->Write(common_config::kQueueSelect, index, 2);
  const uint64_t offset = host_->Read(common_config::kQueueNotifyOff, 2);
  host_->Write(PciTransport::kNotifyOffset + offset * PciTransport::kNotifyMultiplier, index, 2);
}

void VirtioDriver::Run(uint16_t index) {
  if (ring(index).TakeKickWanted()) Kick(index);
  host_->Settle();
}

std::optional<UsedChain> VirtioDriver::Send(const std::vector<Segment>& segments, uint16_t index) {
  ring(index).Add(segments);
  Run(index);
  return ring(index).PopUsed();
}

std::shared_ptr<Parking> VirtioDriver::ResetQueue(uint16_t index) {
  host_->Write(common_config::kQueueSelect, index, 2);
  return host_->Write(common_config::kQueueReset, 1, 2);
}

}  // namespace vireo::virtio
