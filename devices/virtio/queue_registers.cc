#include "devices/virtio/queue_registers.h"

#include "base/align.h"
#include "base/memory/guest_address.h"

namespace vireo::virtio {

void QueueRegisters::Clear() {
  vector.store(kNoVector, std::memory_order_relaxed);
  size = max_size;
  enabled = false;
  descriptors = 0;
  driver = 0;
  device = 0;
  resetting.reset();
}

void QueueRegisters::PlaceAtPage(uint32_t page) {
  size = max_size;
  descriptors = page * kLegacyPageBytes;
  driver = descriptors + DescriptorTableBytes(size);
  device = AlignUp<uint64_t>(driver + AvailableRingBytes(size), kLegacyPageBytes);
}

QueueActivation QueueRegisters::Activation(uint16_t index, uint64_t features) const {
  return {.index = index,
          .ring = {.size = size,
                   .descriptors = GuestAddress(descriptors),
                   .available = GuestAddress(driver),
                   .used = GuestAddress(device),
                   .event_idx = (features & kFeatureEventIdx) != 0,
                   .indirect = (features & kFeatureIndirectDesc) != 0},
          .kick = &kick};
}

void QueueRegisters::Save(StateWriter& writer) const {
  writer.U16(vector.load(std::memory_order_relaxed));
  writer.U16(size);
  writer.Bool(enabled);
  writer.U64(descriptors);
  writer.U64(driver);
  writer.U64(device);
}

void QueueRegisters::Restore(StateReader& reader) {
  vector.store(reader.U16(), std::memory_order_relaxed);
  size = reader.U16();
  enabled = reader.Bool();
  descriptors = reader.U64();
  driver = reader.U64();
  device = reader.U64();
}

}  // namespace vireo::virtio
