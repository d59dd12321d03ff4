// What a driver sets up of one virtqueue, whatever registers it uses. No locks: whoever owns it
// guards it, except that vectors are read on any thread.

#ifndef VIREO_DEVICES_VIRTIO_QUEUE_REGISTERS_H_
#define VIREO_DEVICES_VIRTIO_QUEUE_REGISTERS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/event_fd.h"
#include "base/state.h"
#include "devices/bus.h"
#include "devices/virtio/device.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {

struct QueueRegisters {
  QueueRegisters(uint16_t max, EventFd event) : max_size(max), kick(std::move(event)) { Clear(); }

  // As after a reset of the queue or of the device.
  void Clear();

  // The one area that a legacy driver has for it, of the size that the device says (§2.7.2):
  //
  //   page * 4096   descriptors | available ring | padding to 4096 | used ring
  void PlaceAtPage(uint32_t page);

  // For the device, with the features that the driver accepted.
  QueueActivation Activation(uint16_t index, uint64_t features) const;

  void Save(StateWriter& writer) const;
  // The vector is still to be checked.
  void Restore(StateReader& reader);

  const uint16_t max_size;
  const EventFd kick;
  // Also read on the loop, without the owner's lock, with each interrupt.
  std::atomic<uint16_t> vector{kNoVector};
  uint16_t size = 0;
  bool enabled = false;
  uint64_t descriptors = 0;
  uint64_t driver = 0;
  uint64_t device = 0;
  std::shared_ptr<Parking> resetting;  // Not null while a reset of the queue is under way.
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_QUEUE_REGISTERS_H_
