// A split virtqueue (virtio 1.2 §2.7), seen from the device.
//
//   driver writes                                device writes
//   avail: flags | idx | ring[size] | used_event     used: flags | idx | ring[size] | avail_event
//                  ^                                              ^
//     next_avail --+ first entry not taken yet       next_used ---+ first entry not filled in yet
//
// Both indices count modulo 2^16 and are reduced modulo the size only to address an entry. A chain
// is in flight from PopAvailable() to AddUsed(), so next_avail - next_used are.
//
// The guest is hostile: whatever it writes, the worst that happens is broken(), after which nothing
// is taken any more and the device asks for reset. Belongs to its device's loop; the guest's
// processors are on the other side of the same memory, hence acquire, release and sequentially
// consistent accesses.

#ifndef VIREO_DEVICES_VIRTIO_VIRTQUEUE_H_
#define VIREO_DEVICES_VIRTIO_VIRTQUEUE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory/guest_address.h"
#include "base/memory/guest_memory.h"
#include "devices/virtio/descriptor_chain.h"

namespace vireo::virtio {

inline constexpr uint16_t kMaxQueueSize = 1024;

// Where the driver placed a queue and which ring features it accepted.
struct VirtqueueConfig {
  uint16_t size = 0;
  GuestAddress descriptors{0};
  GuestAddress available{0};
  GuestAddress used{0};
  bool event_idx = false;
  bool indirect = false;
};

// Where a drained ring goes on: all that has to survive a pause, a snapshot or a migration.
struct VirtqueuePosition {
  uint16_t next_avail = 0;
  uint16_t next_used = 0;
  // Chains that are neither available nor used: the device keeps their heads, to take them again.
  uint16_t held = 0;
  bool broken = false;
  friend bool operator==(const VirtqueuePosition&, const VirtqueuePosition&) = default;
};

class Virtqueue {
 public:
  // `memory` outlives the queue. INVALID_ARGUMENT, with what the driver did wrong, when the size is
  // not a power of two up to kMaxQueueSize, a part is misaligned or does not lie in one piece of
  // RAM, or `position` has other chains in flight than it holds.
  static absl::StatusOr<Virtqueue> Create(GuestMemory& memory, const VirtqueueConfig& config,
                                          VirtqueuePosition position = {});
  Virtqueue(Virtqueue&&) noexcept = default;
  Virtqueue& operator=(Virtqueue&&) noexcept = default;

  // The next chain the driver made available; none when there is none, or broken().
  std::optional<DescriptorChain> PopAvailable();
  // A chain that was taken before, with this head, and is in flight: walked anew. None when
  // broken().
  std::optional<DescriptorChain> TakeAgain(uint16_t head);
  // Gives back the chain taken last, as if it had never been: only before it or any later one is
  // used.
  void UndoPop();

  // Ends a chain: `written` bytes of its writable part, from its start, are valid. The driver sees
  // the entry with the next Publish(), so the buffers of one merged packet appear together.
  void AddUsed(uint16_t head, uint32_t written);
  // Shows the driver what was added. True when it wants an interrupt for it (§2.7.7.2).
  [[nodiscard]] bool Publish();
  [[nodiscard]] bool PushUsed(uint16_t head, uint32_t written) {
    AddUsed(head, written);
    return Publish();
  }

  // Asks for a kick with the next chain. False when there is one already, which raises none: look
  // again.
  [[nodiscard]] bool EnableNotifications();
  // Says that kicks are not needed for now. With EVENT_IDX that is the state after each kick.
  void DisableNotifications();

  // The driver broke a rule, with which. Set by PopAvailable(), or by a device that found a chain
  // which no request can be made of.
  bool broken() const { return !fault_.ok(); }
  const absl::Status& fault() const { return fault_; }
  void MarkBroken(absl::string_view what);

  uint16_t size() const { return size_; }
  uint16_t in_flight() const { return static_cast<uint16_t>(next_avail_ - next_used_); }
  VirtqueuePosition position() const { return {next_avail_, next_used_, in_flight(), broken()}; }

 private:
  Virtqueue(GuestMemory& memory, const VirtqueueConfig& config, VirtqueuePosition position);
  std::optional<DescriptorChain> Walk(uint16_t head);

  GuestMemory* memory_;
  uint16_t size_;
  bool event_idx_;
  bool indirect_;
  GuestAddress used_address_;
  std::span<const uint8_t> descriptors_;
  uint8_t* available_ = nullptr;
  uint8_t* used_ = nullptr;

  uint16_t next_avail_;
  uint16_t next_used_;
  uint16_t published_;  // The used idx that the driver sees.
  // The first decision after a start or a restore is always "interrupt": what the driver was told
  // before is not known.
  bool published_before_ = false;
  absl::Status fault_;
  std::unique_ptr<ChainPool> pool_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_VIRTQUEUE_H_
