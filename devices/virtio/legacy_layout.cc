#include "devices/virtio/legacy_layout.h"

#include <algorithm>
#include <array>
#include <bit>

#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

using namespace legacy_config;  // NOLINT(google-build-using-namespace): register names only.

uint32_t LittleEndian(std::span<const uint8_t> bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < bytes.size() && i < 4; ++i) value |= uint32_t{bytes[i]} << (8 * i);
  return value;
}

}  // namespace

uint64_t LegacyLayout::BarBytes(uint64_t config_bytes) {
  return std::bit_ceil(kDeviceWithMsix + config_bytes);
}

std::vector<Doorbell> LegacyLayout::Doorbells() const {
  std::vector<Doorbell> doorbells;
  for (uint16_t i = 0; i < registers_.queue_count(); ++i) {
    doorbells.push_back(
        {.offset = kQueueNotify, .length = 2, .match = i, .event = &registers_.kick(i)});
  }
  return doorbells;
}

uint64_t LegacyLayout::header_bytes() const {
  return msix_.enabled() ? kDeviceWithMsix : kDeviceWithoutMsix;
}

void LegacyLayout::Read(uint64_t offset, std::span<uint8_t> data) {
  const uint64_t header = header_bytes();
  const size_t within = offset < header ? std::min<uint64_t>(data.size(), header - offset) : 0;
  if (within != 0) ReadHeader(offset, data.first(within));
  if (within != data.size()) {
    registers_.ReadConfig(offset + within - header, data.subspan(within));
  }
}

void LegacyLayout::ReadHeader(uint64_t offset, std::span<uint8_t> data) {
  std::array<uint8_t, kDeviceWithMsix> image = {};
  const auto put = [&image](uint16_t at, uint64_t value, int width) {
    for (int i = 0; i < width; ++i) image[at + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  const DeviceRegisters::View view = registers_.Look();
  put(kDeviceFeatures, registers_.legacy_features(), 4);
  put(kDriverFeatures, view.driver_features, 4);
  put(kQueueSelect, view.queue_select, 2);
  put(kDeviceStatus, view.status, 1);
  put(kConfigMsixVector, view.config_vector, 2);
  put(kQueueMsixVector, kNoVector, 2);
  // A size of 0 says that there is no such queue, a page of 0 that it is not in use.
  if (view.queue.has_value()) {
    put(kQueueSize, view.queue->max_size, 2);
    if (view.queue->enabled) put(kQueuePfn, view.queue->descriptors / kLegacyPageBytes, 4);
    put(kQueueMsixVector, view.queue->vector, 2);
  }
  // Only who asks for it clears it.
  if (offset == kIsrStatus) image[kIsrStatus] = registers_.TakeIsr();
  std::copy_n(image.begin() + static_cast<ptrdiff_t>(offset), data.size(), data.begin());
}

std::shared_ptr<Parking> LegacyLayout::Write(uint64_t offset, std::span<const uint8_t> data) {
  const uint64_t header = header_bytes();
  if (offset >= header) {
    registers_.WriteConfig(offset - header, data);
    return nullptr;
  }
  // §4.1.3.1: each field has its own width.
  const uint32_t value = LittleEndian(data);
  const auto value16 = static_cast<uint16_t>(value);
  if (data.size() == 4 && offset == kDriverFeatures) return registers_.WriteLegacyFeatures(value);
  if (data.size() == 4 && offset == kQueuePfn) return registers_.WriteLegacyQueuePage(value);
  if (data.size() == 1 && offset == kDeviceStatus) {
    return registers_.WriteLegacyStatus(static_cast<uint8_t>(value));
  }
  if (data.size() != 2) return nullptr;
  switch (offset) {
    case kQueueSelect:
      registers_.SelectQueue(value16);
      break;
    case kQueueNotify:
      registers_.NotifyLegacy(value16);
      break;
    case kConfigMsixVector:
      registers_.WriteConfigVector(value16);
      break;
    case kQueueMsixVector:
      registers_.WriteQueueVector(value16);
      break;
  }
  return nullptr;
}

}  // namespace vireo::virtio
