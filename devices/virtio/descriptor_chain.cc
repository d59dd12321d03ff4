#include "devices/virtio/descriptor_chain.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/iovecs.h"
#include "base/memory/guest_address.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

// After this the compiler must use the copy: it may not read the guest's memory a second time.
void SealCopy() { asm volatile("" ::: "memory"); }

absl::Status Fault(uint16_t head, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("chain %d: %s", head, what));
}

}  // namespace

void ChainBuffers::Clear() {
  readable.clear();
  readable_bytes = 0;
  writable.Clear();
}

absl::Status WalkChain(const ChainWalk& walk, uint16_t head, ChainBuffers& buffers) {
  const auto table_entries = static_cast<uint32_t>(walk.table.size() / sizeof(Descriptor));
  uint32_t entries = table_entries;  // Of the table being walked.
  std::optional<GuestAddress> indirect_table;
  uint32_t index = head;
  uint32_t walked = 0;
  while (true) {
    if (index >= entries) return Fault(head, "descriptor index is outside the table");
    // Each descriptor of a table can be part of a chain once: more steps than entries are a loop.
    if (walked++ >= entries) return Fault(head, "descriptors form a loop");

    Descriptor descriptor;
    if (indirect_table.has_value()) {
      const std::optional<GuestAddress> at = indirect_table->Plus(sizeof(Descriptor) * index);
      if (!at.has_value()) return Fault(head, "indirect table is outside RAM");
      const absl::StatusOr<Descriptor> copy = walk.memory.ReadObject<Descriptor>(*at);
      if (!copy.ok()) return Fault(head, "indirect table is outside RAM");
      descriptor = *copy;
    } else {
      std::memcpy(&descriptor, walk.table.data() + sizeof(Descriptor) * index, sizeof(descriptor));
    }
    SealCopy();

    const uint16_t flags = descriptor.flags.value();
    const uint64_t address = descriptor.address.value();
    const uint32_t length = descriptor.length.value();

    if ((flags & kDescIndirect) != 0) {
      // §2.7.5.3.1: only when negotiated, never nested, never together with NEXT.
      if (!walk.indirect) return Fault(head, "indirect descriptor that was not negotiated");
      if (indirect_table.has_value())
        return Fault(head, "indirect descriptor in an indirect table");
      if ((flags & kDescNext) != 0) return Fault(head, "indirect descriptor with a next one");
      if (length == 0 || length % sizeof(Descriptor) != 0) {
        return Fault(head, "indirect table is not a whole number of descriptors");
      }
      if (length / sizeof(Descriptor) > kMaxChainDescriptors) {
        return Fault(head, "indirect table is too long");
      }
      // §2.7.5.3.2: the WRITE flag of the descriptor that refers to the table is ignored. Ordinary
      // descriptors may come before it (§2.7.5.3.1 leaves that open).
      indirect_table = GuestAddress(address);
      entries = length / sizeof(Descriptor);
      index = 0;
      walked = 0;
      continue;
    }

    if (length == 0) return Fault(head, "empty descriptor");
    if ((flags & kDescWrite) != 0) {
      if (!buffers.writable.Append(GuestAddress(address), length)) {
        return Fault(head, "writable buffer is outside RAM");
      }
    } else {
      // §2.7.4.2: device-readable descriptors come first.
      if (buffers.writable.size() != 0) return Fault(head, "readable descriptor after a writable");
      if (!walk.memory.AppendReadable(GuestAddress(address), length, &buffers.readable)) {
        return Fault(head, "readable buffer is outside RAM");
      }
      buffers.readable_bytes += length;
    }
    if (buffers.readable_bytes + buffers.writable.size() > kMaxChainBytes) {
      return Fault(head, "more than 4 GiB in one chain");
    }
    if ((flags & kDescNext) == 0) return absl::OkStatus();
    index = descriptor.next.value();
  }
}

std::unique_ptr<ChainBuffers> ChainPool::Take() {
  if (free_.empty()) return std::make_unique<ChainBuffers>(memory_);
  std::unique_ptr<ChainBuffers> buffers = std::move(free_.back());
  free_.pop_back();
  return buffers;
}

void ChainPool::Return(std::unique_ptr<ChainBuffers> buffers) {
  buffers->Clear();
  free_.push_back(std::move(buffers));
}

DescriptorChain& DescriptorChain::operator=(DescriptorChain&& other) noexcept {
  std::swap(head_, other.head_);
  std::swap(buffers_, other.buffers_);
  std::swap(pool_, other.pool_);
  return *this;
}

DescriptorChain::~DescriptorChain() {
  if (buffers_ != nullptr) pool_->Return(std::move(buffers_));
}

bool DescriptorChain::CopyFromReadable(uint64_t offset, std::span<uint8_t> dst) const {
  if (offset > readable_bytes() || dst.size() > readable_bytes() - offset) return false;
  CopyFromIoVecs(readable(), dst, offset);
  SealCopy();
  return true;
}

bool DescriptorChain::CopyToWritable(uint64_t offset, std::span<const uint8_t> src) {
  if (offset > writable_bytes() || src.size() > writable_bytes() - offset) return false;
  CopyToIoVecs(src, writable(), offset);
  return true;
}

}  // namespace vireo::virtio
