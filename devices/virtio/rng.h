// virtio-rng (virtio 1.2 §5.4): the host's random bytes.

#ifndef VIREO_DEVICES_VIRTIO_RNG_H_
#define VIREO_DEVICES_VIRTIO_RNG_H_

#include <cstdint>
#include <vector>

#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/memory/guest_memory.h"
#include "devices/virtio/ring_device.h"

namespace vireo::virtio {

class VirtioRng final : public RingDevice {
 public:
  // One request gets at most this much, however large its buffer (§5.4.6: a device may give less).
  static constexpr uint64_t kMaxBytesPerRequest = 4096;

  // `loop` and `memory` outlive the device.
  VirtioRng(EventLoop& loop, GuestMemory& memory) : RingDevice(loop, memory, "rng") {}

  DeviceType type() const override { return DeviceType::kRng; }
  std::vector<uint16_t> queue_sizes() const override { return {64}; }
  uint64_t offered_features() const override { return 0; }
  std::vector<uint8_t> config() const override { return {}; }

 protected:
  Task<void> ServeQueue(ActiveQueue& queue) override;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_RNG_H_
