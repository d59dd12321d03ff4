// Walks chains through arbitrary descriptor tables. Whatever is in them, every view handed out lies
// in guest RAM, and a walk ends.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "devices/virtio/descriptor_chain.h"
#include "devices/virtio/spec.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kIndirectTable = 0x8000;
constexpr size_t kDescriptorBytes = 8;  // Of input for each.

// Descriptors made from few bytes, so that mutations hit what matters: small addresses near the
// ends of RAM and tables, small lengths, links within the table.
Descriptor Decode(std::span<const uint8_t> bytes) {
  static constexpr uint64_t kBases[] = {
      0,
      kIndirectTable,
      FakeGuestMemory::kLowBytes - 64,
      FakeGuestMemory::kNoRam.value(),
      FakeGuestMemory::kHighBase - 32,
      FakeGuestMemory::kHighBase + FakeGuestMemory::kHighBytes - 64,
      ~uint64_t{0} - 63,
      uint64_t{1} << 63};
  Descriptor descriptor;
  descriptor.address = kBases[bytes[0] % 8] + bytes[1];
  descriptor.length = uint32_t{bytes[2]} << (bytes[3] % 25);
  descriptor.flags = static_cast<uint16_t>(bytes[4] % 8 == 7 ? bytes[5] : bytes[4] % 4);
  descriptor.next = static_cast<uint16_t>(bytes[6] % 32 | (bytes[7] == 255 ? 0x100 : 0));
  return descriptor;
}

void CheckInRam(FakeGuestMemory& guest, IoVecs views, uint64_t bytes) {
  uint64_t total = 0;
  for (const iovec& view : views) {
    const auto* const begin = static_cast<const uint8_t*>(view.iov_base);
    bool inside = false;
    for (const GuestMemory::Region& region : guest.memory().regions()) {
      inside |= begin >= region.host.data() &&
                begin + view.iov_len <= region.host.data() + region.host.size();
    }
    VIREO_CHECK(inside, "a view lies in guest RAM");
    total += view.iov_len;
  }
  VIREO_CHECK(total == bytes, "the size is that of the views");
}

void Run(std::span<const uint8_t> input) {
  static FakeGuestMemory& guest = *new FakeGuestMemory();
  if (input.size() < 2) return;
  const uint16_t head = input[0];
  const bool indirect = (input[1] & 1) != 0;
  const size_t queue_size = size_t{1} << (input[1] >> 1) % 6;
  input = input.subspan(2);
  std::vector<Descriptor> table(queue_size);
  size_t at = 0;
  for (; input.size() >= kDescriptorBytes && at < 64; ++at) {
    const Descriptor descriptor = Decode(input.first(kDescriptorBytes));
    input = input.subspan(kDescriptorBytes);
    if (at < queue_size) {
      table[at] = descriptor;
    } else {
      guest.WriteObject(GuestAddress(kIndirectTable + 16 * (at - queue_size)), descriptor);
    }
  }
  for (; at < queue_size; ++at) table[at] = Descriptor{};

  auto owned = std::make_unique<ChainBuffers>(guest.memory());
  ChainBuffers& buffers = *owned;
  const std::span<const uint8_t> raw(reinterpret_cast<const uint8_t*>(table.data()),
                                     table.size() * sizeof(Descriptor));
  const absl::Status walked =
      WalkChain({.memory = guest.memory(), .table = raw, .indirect = indirect}, head, buffers);
  CheckInRam(guest, buffers.readable, buffers.readable_bytes);
  CheckInRam(guest, buffers.writable.iovecs(), buffers.writable.size());
  if (!walked.ok()) return;
  VIREO_CHECK(buffers.readable_bytes + buffers.writable.size() > 0, "a chain is not empty");
  ChainPool pool(guest.memory());
  DescriptorChain chain(head, std::move(owned), pool);
  chain.CompleteWrites(chain.writable_bytes());
}

}  // namespace
}  // namespace vireo::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vireo::virtio::Run({data, size});
  return 0;
}
