// virtio-net (virtio 1.2 §5.1) with one queue pair over any PacketPort. One coroutine for each
// direction, each draining in a plain loop. Belongs to its loop; stats() may be read on any thread.

#ifndef VIREO_DEVICES_VIRTIO_NET_H_
#define VIREO_DEVICES_VIRTIO_NET_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/log.h"
#include "base/memory/guest_memory.h"
#include "base/state.h"
#include "devices/virtio/ring_device.h"
#include "net/packet_port.h"

namespace vireo::virtio {

// Since the device was made, as the guest counts: rx is towards the guest. Bytes are of frames
// without their prefix.
struct NetStats {
  uint64_t rx_packets = 0;
  uint64_t rx_bytes = 0;
  uint64_t rx_dropped = 0;
  uint64_t tx_packets = 0;
  uint64_t tx_bytes = 0;
  uint64_t tx_dropped = 0;
};

class VirtioNet final : public RingDevice {
 public:
  static constexpr uint16_t kReceiveQueue = 0;  // §5.1.2
  static constexpr uint16_t kTransmitQueue = 1;

  struct Options {
    std::array<uint8_t, 6> mac = {};
    uint16_t mtu = 1500;        // Told to the guest.
    uint16_t queue_size = 256;  // Of both queues.
    bool offloads = true;       // Checksum and segmentation offload are offered.
    bool mergeable = true;      // Mergeable receive buffers are offered.
  };

  // `loop` and `memory` outlive the device; the port belongs to `loop`.
  VirtioNet(EventLoop& loop, GuestMemory& memory, std::unique_ptr<PacketPort> port,
            Options options);
  ~VirtioNet() override;

  DeviceType type() const override { return DeviceType::kNet; }
  std::vector<uint16_t> queue_sizes() const override;
  uint64_t offered_features() const override;
  bool AcceptsFeatures(uint64_t features) const override;
  std::vector<uint8_t> config() const override;

  // The host's side: pulls or plugs the cable. Frames meet nobody while it is down.
  void SetLink(bool up);
  bool link_up() const { return link_up_; }

  PacketPort& port() { return *port_; }
  NetStats stats() const;

 protected:
  Task<void> ServeQueue(ActiveQueue& queue) override;
  absl::Status OnActivate() override;
  void OnReset() override;
  void SaveDevice(StateWriter& writer) const override;
  absl::Status RestoreDevice(StateReader& reader) override;

 private:
  struct Counters {
    std::atomic<uint64_t> rx_packets{0};
    std::atomic<uint64_t> rx_bytes{0};
    std::atomic<uint64_t> rx_dropped{0};
    std::atomic<uint64_t> tx_packets{0};
    std::atomic<uint64_t> tx_bytes{0};
    std::atomic<uint64_t> tx_dropped{0};
  };

  // Receive buffers taken from the ring and not filled yet, in order. Kept from frame to frame.
  struct ReceiveBuffers {
    std::vector<DescriptorChain> chains;
    uint64_t bytes = 0;

    std::vector<iovec> vectors;  // The first `direct_bytes` of the chains, then the spill.
    uint64_t direct_bytes = 0;

    // As large as frames have been of late: so much room is kept at hand and listed for each, since
    // listing 64 KiB for every small frame costs more than copying the rest of a sudden large one.
    uint64_t expected_bytes = 0;
  };

  Task<void> ServeReceive(ActiveQueue& queue);
  Task<void> ServeTransmit(ActiveQueue& queue);

  // Takes buffers until `wanted` bytes (or, unless mergeable, one buffer) are there or the ring is
  // empty.
  void TakeBuffers(ActiveQueue& queue, ReceiveBuffers& buffers, uint64_t wanted);
  // Lists where a frame goes: the buffers, and what they cannot hold into spill_.
  void ListVectors(ReceiveBuffers& buffers);
  // Ends the buffers that hold the frame of `bytes`, of which what came after direct_bytes is in
  // spill_.
  void Deliver(ActiveQueue& queue, ReceiveBuffers& buffers, uint64_t bytes);
  void DropReceived(ReceiveBuffers& buffers, uint64_t bytes);

  // §5.1.6.1
  size_t WantedHeaderBytes() const;
  bool mergeable() const { return has_feature(kNetFeatureMergeableRx); }
  // A frame without segmentation offload.
  uint64_t ordinary_frame_bytes() const;
  // Whether the guest accepted what the prefix of the frame in `buffers` asks for. Frames from
  // before a reset may not be such (§5.1.6.4.1).
  bool PrefixAccepted(const ReceiveBuffers& buffers) const;
  void SetOffloads(Offloads offloads);

  const std::unique_ptr<PacketPort> port_;
  const Options options_;
  bool link_up_;
  size_t header_bytes_ = PacketPort::kPrefixBytes;  // Of each frame, here and in the port.
  // Takes the end of a frame for which the guest has not given buffers enough, so that none is cut.
  // Untouched memory costs nothing.
  std::unique_ptr<uint8_t[]> spill_;
  Counters counters_;
  RateLimited error_log_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_NET_H_
