// A virtio device without its transport (virtio 1.2 §2): features, configuration, and queues to
// serve. It knows guest memory and its loop; registers, vectors and PCI are the transport's.
//
//   offered_features, queue_sizes, config     known before any driver
//   Activate --> requests are served --> Reset
//                  ResetQueue / StartQueue for a single queue (§2.6.1)
//                  Quiesce / Resume and Save / Restore: Lifecycle
//
// All calls come on the device's loop, or before that loop runs, unless said otherwise.

#ifndef VIREO_DEVICES_VIRTIO_DEVICE_H_
#define VIREO_DEVICES_VIRTIO_DEVICE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "base/event_fd.h"
#include "devices/lifecycle.h"
#include "devices/virtio/spec.h"
#include "devices/virtio/virtqueue.h"

namespace vireo::virtio {

// What a device tells its driver of its own accord. Called on the device's loop.
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  // Used entries of `queue` want to be seen. One eventfd write.
  virtual void SignalQueue(uint16_t queue) = 0;
  // The driver broke a ring: sets DEVICE_NEEDS_RESET and says so (§2.1.2).
  virtual void SignalNeedsReset() = 0;
  // config() has changed: the driver gets the new one, and is told (§2.5, §4.1.5.4).
  virtual void ConfigChanged() = 0;
};

// A queue as the driver set it up.
struct QueueActivation {
  uint16_t index = 0;
  VirtqueueConfig ring;
  const EventFd* kick = nullptr;  // Signalled by the driver's doorbell. Outlives the device's use.
};

struct Activation {
  uint64_t features = 0;  // Negotiated: a subset of what was offered.
  std::vector<QueueActivation> queues;
};

class VirtioDevice : public Lifecycle {
 public:
  virtual DeviceType type() const = 0;

  // The largest size of each queue, powers of two up to kMaxQueueSize.
  virtual std::vector<uint16_t> queue_sizes() const = 0;

  // Bits of the device type (§5); ring and transport bits are the transport's. Fixed.
  virtual uint64_t offered_features() const = 0;

  // Whether a subset of the offered bits makes sense together (§2.2.2), bits of ring and transport
  // aside. Any thread.
  virtual bool AcceptsFeatures(uint64_t /*features*/) const { return true; }

  // The device-specific configuration now. The transport serves vCPUs from a copy.
  virtual std::vector<uint8_t> config() const = 0;

  // Whether the driver, having negotiated `features`, may change the byte. Any thread.
  virtual bool ConfigWritable(uint16_t /*offset*/, uint64_t /*features*/) const { return false; }

  // The driver changed writable bytes. It may see its own value before this is called.
  virtual void WriteConfig(uint16_t /*offset*/, std::span<const uint8_t> /*bytes*/) {}

  // The driver set DRIVER_OK, or is a legacy one that kicked before. INVALID_ARGUMENT when a queue
  // cannot be where the driver put it, and what the host answers to the features; nothing is served
  // then. After a Restore() queues go on from the restored positions, once Resume() was called.
  virtual absl::Status Activate(const Activation& activation) = 0;

  // The driver enabled one more queue, after ResetQueue() or late. As Activate().
  virtual absl::Status StartQueue(const QueueActivation& queue) = 0;

  // Ends when no chain of the queue is held; it is served no more (§2.6.1).
  virtual Task<void> ResetQueue(uint16_t index) = 0;

  // Called once, by the transport, before anything else; `interrupts` outlives the device's use.
  void Connect(InterruptSink& interrupts) { interrupts_ = &interrupts; }

 protected:
  InterruptSink& interrupts() { return *interrupts_; }
  bool connected() const { return interrupts_ != nullptr; }

 private:
  InterruptSink* interrupts_ = nullptr;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_DEVICE_H_
