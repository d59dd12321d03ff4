// PacketPort: where a guest's frames go to and come from. A tap today; a fake in tests.
//
// A frame is one Ethernet frame behind a prefix: the kernel's offload header (virtio_net_hdr_v1, or
// virtio_net_hdr, which is shorter), passed through as opaque bytes. virtio-net alone gives it
// meaning. A prefix of zeros means: no offload asked.

#ifndef VIREO_NET_PACKET_PORT_H_
#define VIREO_NET_PACKET_PORT_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"
#include "base/iovecs.h"

namespace vireo {

// What the receiver of frames can cope with.
struct Offloads {
  bool checksum = false;  // Frames whose checksum is still to be computed. The rest needs this one.
  bool tso4 = false;      // TCP segments over IPv4 of up to 64 KiB
  bool tso6 = false;      // and over IPv6,
  bool tso_ecn = false;   // also with ECN bits.
  bool ufo = false;       // UDP fragments likewise.
};

// Called on the loop it was made for. Buffers stay valid until a task has ended, stopped or not.
class PacketPort {
 public:
  static constexpr size_t kPrefixBytes = 12;  // Until SetPrefixBytes().

  virtual ~PacketPort() = default;

  // Takes the next frame, prefix first; answers its bytes, prefix included. What does not fit `dst`
  // is lost: with segmentation offloads on, a frame has up to 64 KiB. UNAVAILABLE (without a
  // message) when none waits.
  virtual absl::StatusOr<size_t> TryReceive(IoVecs dst) = 0;
  // The same, waiting for a frame. CANCELLED when `stop` asks first; no frame is lost then.
  virtual Task<absl::StatusOr<size_t>> Receive(IoVecs dst, StopToken stop) = 0;

  // Hands over one frame, prefix first. UNAVAILABLE (without a message) when the queue is full;
  // INVALID_ARGUMENT when the frame, or what its prefix asks for, is nonsense: drop it and go on.
  virtual absl::Status TrySend(IoVecs src) = 0;
  // The same, waiting for room. CANCELLED when `stop` asks first.
  virtual Task<absl::Status> Send(IoVecs src, StopToken stop) = 0;

  // What the guest accepts from now on; frames that wait already may still be of the old kind.
  virtual absl::Status SetOffloads(Offloads offloads) = 0;

  // The prefix of every frame from now on, those that wait already included: 10 or 12.
  virtual absl::Status SetPrefixBytes(size_t bytes) = 0;

  virtual uint16_t mtu() const = 0;  // Of the payload, without the Ethernet header.
  virtual bool link_up() const = 0;
};

}  // namespace vireo

#endif  // VIREO_NET_PACKET_PORT_H_
