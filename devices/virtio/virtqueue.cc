#include "devices/virtio/virtqueue.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

// Ring indices are shared with the guest as they are: 16-bit, little-endian, naturally aligned.
static_assert(std::endian::native == std::endian::little);

std::atomic_ref<uint16_t> Shared16(uint8_t* at) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at));
}

absl::StatusOr<std::span<uint8_t>> MapPart(const GuestMemory& memory, GuestAddress at,
                                           uint64_t bytes, uint64_t alignment,
                                           absl::string_view what) {
  if (at.value() % alignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s at %#x is not aligned to %d bytes", what, at.value(), alignment));
  }
  std::vector<iovec> pieces;
  if (!memory.AppendReadable(at, bytes, &pieces) || pieces.size() != 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: %d bytes at %#x are not in one piece of RAM", what, bytes, at.value()));
  }
  return std::span<uint8_t>(static_cast<uint8_t*>(pieces[0].iov_base), pieces[0].iov_len);
}

}  // namespace

absl::StatusOr<Virtqueue> Virtqueue::Create(GuestMemory& memory, const VirtqueueConfig& config,
                                            VirtqueuePosition position) {
  if (!std::has_single_bit(config.size) || config.size > kMaxQueueSize) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "queue size %d is not a power of two up to %d", config.size, kMaxQueueSize));
  }
  const auto in_flight = static_cast<uint16_t>(position.next_avail - position.next_used);
  if (in_flight != position.held || in_flight > config.size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue position %d/%d has chains in flight, but %d are held",
                        position.next_avail, position.next_used, position.held));
  }
  // Alignments: §2.7.
  ASSIGN_OR_RETURN(const std::span<uint8_t> descriptors,
                   MapPart(memory, config.descriptors, DescriptorTableBytes(config.size), 16,
                           "descriptor table"));
  ASSIGN_OR_RETURN(
      const std::span<uint8_t> available,
      MapPart(memory, config.available, AvailableRingBytes(config.size), 2, "available ring"));
  ASSIGN_OR_RETURN(const std::span<uint8_t> used,
                   MapPart(memory, config.used, UsedRingBytes(config.size), 4, "used ring"));
  Virtqueue queue(memory, config, position);
  queue.descriptors_ = descriptors;
  queue.available_ = available.data();
  queue.used_ = used.data();
  return queue;
}

Virtqueue::Virtqueue(GuestMemory& memory, const VirtqueueConfig& config, VirtqueuePosition position)
    : memory_(&memory),
      size_(config.size),
      event_idx_(config.event_idx),
      indirect_(config.indirect),
      used_address_(config.used),
      next_avail_(position.next_avail),
      next_used_(position.next_used),
      published_(position.next_used),
      pool_(std::make_unique<ChainPool>(memory)) {
  if (position.broken) MarkBroken("was broken when it was saved");
}

void Virtqueue::MarkBroken(absl::string_view what) {
  if (fault_.ok()) fault_ = absl::InvalidArgumentError(what);
}

std::optional<DescriptorChain> Virtqueue::PopAvailable() {
  if (broken()) return std::nullopt;
  // Acquire: the entry and the descriptors that the driver wrote before this idx (§2.7.13.3).
  const uint16_t idx = Shared16(available_ + 2).load(std::memory_order_acquire);
  const auto pending = static_cast<uint16_t>(idx - next_avail_);
  if (pending == 0) return std::nullopt;
  // Every chain holds at least one descriptor, so no more than `size_` can be out at once. The
  // second check keeps a driver that reuses heads from making the device hold ever more requests.
  if (pending > size_) {
    MarkBroken(
        absl::StrFormat("avail idx went from %d to %d in a queue of %d", next_avail_, idx, size_));
    return std::nullopt;
  }
  if (in_flight() >= size_) {
    MarkBroken("more chains are in flight than the queue has descriptors");
    return std::nullopt;
  }
  const uint16_t slot = next_avail_ & (size_ - 1);
  const uint16_t head =
      Shared16(available_ + kRingHeaderBytes + 2 * slot).load(std::memory_order_relaxed);
  std::optional<DescriptorChain> chain = Walk(head);
  if (chain.has_value()) ++next_avail_;
  return chain;
}

std::optional<DescriptorChain> Virtqueue::TakeAgain(uint16_t head) {
  if (broken()) return std::nullopt;
  VIREO_CHECK(in_flight() != 0, "a chain to take again is in flight");
  return Walk(head);
}

std::optional<DescriptorChain> Virtqueue::Walk(uint16_t head) {
  std::unique_ptr<ChainBuffers> buffers = pool_->Take();
  const absl::Status walked =
      WalkChain({.memory = *memory_, .table = descriptors_, .indirect = indirect_}, head, *buffers);
  if (!walked.ok()) {
    pool_->Return(std::move(buffers));
    MarkBroken(walked.message());
    return std::nullopt;
  }
  return DescriptorChain(head, std::move(buffers), *pool_);
}

void Virtqueue::UndoPop() {
  VIREO_CHECK(in_flight() != 0, "a chain to give back is in flight");
  --next_avail_;
}

void Virtqueue::AddUsed(uint16_t head, uint32_t written) {
  const uint64_t offset = kRingHeaderBytes + sizeof(UsedElement) * (next_used_ & (size_ - 1));
  UsedElement element;
  element.id = head;
  element.length = written;
  std::memcpy(used_ + offset, &element, sizeof(element));
  memory_->dirty_log().Mark(GuestAddress(used_address_.value() + offset), sizeof(element));
  ++next_used_;
}

bool Virtqueue::Publish() {
  const uint16_t before = published_;
  if (next_used_ == before) return false;
  // A sequentially consistent store, then load: the driver writes used_event and then reads idx, we
  // do it the other way round; unless both are ordered, each may miss the other's and the driver
  // waits for an interrupt that nobody sends (§2.7.7, §2.7.13.4). It also releases the elements.
  Shared16(used_ + 2).store(next_used_, std::memory_order_seq_cst);
  memory_->dirty_log().Mark(used_address_, kRingHeaderBytes);
  published_ = next_used_;
  if (!event_idx_) {
    const uint16_t flags = Shared16(available_).load(std::memory_order_seq_cst);
    return (flags & kAvailNoInterrupt) == 0;
  }
  const uint16_t used_event =
      Shared16(available_ + kRingHeaderBytes + 2 * size_).load(std::memory_order_seq_cst);
  if (!std::exchange(published_before_, true)) return true;
  // §2.7.7.2: an interrupt when the entry numbered used_event is among the new ones.
  return static_cast<uint16_t>(next_used_ - used_event - 1) <
         static_cast<uint16_t>(next_used_ - before);
}

bool Virtqueue::EnableNotifications() {
  // Stores and loads cross the driver's as in Publish(): it writes idx, then reads what we write
  // here.
  if (event_idx_) {
    const uint64_t offset = kRingHeaderBytes + sizeof(UsedElement) * size_;
    Shared16(used_ + offset).store(next_avail_, std::memory_order_seq_cst);
    memory_->dirty_log().Mark(GuestAddress(used_address_.value() + offset), 2);
  } else {
    Shared16(used_).store(0, std::memory_order_seq_cst);
    memory_->dirty_log().Mark(used_address_, 2);
  }
  return Shared16(available_ + 2).load(std::memory_order_seq_cst) == next_avail_;
}

void Virtqueue::DisableNotifications() {
  if (event_idx_) return;  // avail_event stays behind: the driver has passed it.
  Shared16(used_).store(kUsedNoNotify, std::memory_order_relaxed);
  memory_->dirty_log().Mark(used_address_, 2);
}

}  // namespace vireo::virtio
