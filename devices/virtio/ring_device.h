// A virtio device that serves its rings itself, on its loop, with one coroutine per queue. Gives
// activation, reset, pause and state to block, net and rng; what a queue means is theirs.

#ifndef VIREO_DEVICES_VIRTIO_RING_DEVICE_H_
#define VIREO_DEVICES_VIRTIO_RING_DEVICE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/async/async_mutex.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/memory/guest_memory.h"
#include "base/state.h"
#include "devices/virtio/device.h"
#include "devices/virtio/virtqueue.h"

namespace vireo::virtio {

// A queue that the driver enabled.
struct ActiveQueue {
  uint16_t index;
  Virtqueue ring;
  const EventFd& kick;
  // Everything that holds a chain of this queue; absent while the device is quiet.
  std::optional<TaskScope> scope;
  bool publish_pending = false;
};

class RingDevice : public VirtioDevice {
 public:
  absl::Status Activate(const Activation& activation) final;
  absl::Status StartQueue(const QueueActivation& queue) final;
  Task<void> ResetQueue(uint16_t index) final;

  Task<void> Quiesce() final;
  void Resume() final;
  Task<void> Reset() final;
  EncodedState Save() const final;
  absl::Status Restore(const EncodedState& state) final;

 protected:
  // `loop` and `memory` outlive the device. `name` is for messages and names the type of its state.
  RingDevice(EventLoop& loop, GuestMemory& memory, std::string name);
  ~RingDevice() override;

  // Serves the queue until queue.scope asks to stop or the ring is broken; started again after a
  // pause. `queue` stays until the task has ended. Chains it took are used or given back by then,
  // or held by tasks in the same scope.
  virtual Task<void> ServeQueue(ActiveQueue& queue) = 0;

  // The driver is ready, features() are final; no queue is served yet, and none is on an error.
  virtual absl::Status OnActivate() { return absl::OkStatus(); }
  // No chain is held: back to what config and behaviour are at power-on.
  virtual void OnReset() {}
  // Whoever stops the device waits for its requests: from here on they are to take no turns, until
  // they are all over.
  virtual void OnDrain(bool /*draining*/) {}
  // The queue is gone, and with it what the device kept of its chains.
  virtual void OnQueueReset(uint16_t /*index*/) {}
  // Chains of the queue that the quiet device keeps, to serve them when it is resumed.
  virtual uint16_t held_chains(uint16_t /*index*/) const { return 0; }
  // What the device keeps besides queues and features.
  virtual void SaveDevice(StateWriter& /*writer*/) const {}
  virtual absl::Status RestoreDevice(StateReader& /*reader*/) { return absl::OkStatus(); }

  EventLoop& loop() { return loop_; }
  GuestMemory& memory() { return memory_; }
  uint64_t features() const { return features_; }
  bool has_feature(uint64_t bit) const { return (features_ & bit) != 0; }
  bool active() const { return active_; }
  const std::string& name() const { return name_; }

  // Shows the driver what was used, with an interrupt if it wants one.
  void Publish(ActiveQueue& queue);
  // Ends one chain, and publishes it together with what else ends in this turn of the loop: one
  // interrupt for all of it.
  void Complete(ActiveQueue& queue, uint16_t head, uint64_t written);
  // Asks the driver for a reset, and says why at most once a second.
  void ReportBroken(const ActiveQueue& queue);
  // Returns true when there may be chains: at once if some came meanwhile, else after a kick. False
  // when asked to stop.
  Task<bool> WaitForChains(ActiveQueue& queue);

 private:
  absl::Status AddQueue(const QueueActivation& activation);
  void StartServing(ActiveQueue& queue);
  Task<void> StopServing();
  Task<void> PublishThisTurn(ActiveQueue& queue);

  EventLoop& loop_;
  GuestMemory& memory_;
  const std::string name_;
  const std::string state_type_;
  RateLimited broken_log_;
  // One at a time, in the order asked: quiesce, reset and reset of a queue all wait for requests.
  AsyncMutex transition_;
  bool active_ = false;
  bool quiet_ = false;
  uint64_t features_ = 0;
  std::vector<std::unique_ptr<ActiveQueue>> queues_;  // By index; null when not enabled.
  // From Restore() until the Activate() that follows it.
  std::vector<std::optional<VirtqueuePosition>> restored_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_RING_DEVICE_H_
