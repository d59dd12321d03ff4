// One descriptor chain (virtio 1.2 §2.7.5) as two checked views: what the device may read and what
// it may write. By the time a chain exists its descriptors have been copied out of guest memory
// once and every byte it names lies in RAM; the bytes themselves may change at any time.
//
//   descriptor table          indirect table (if kDescIndirect)     views
//   [head] -> [next] -> ...   [0] -> [1] -> ...                     readable: iovec, iovec, ...
//                                                                   writable: iovec, ...
//
// Belongs to the loop of its device, like the ring it came from, which must outlive it.

#ifndef VIREO_DEVICES_VIRTIO_DESCRIPTOR_CHAIN_H_
#define VIREO_DEVICES_VIRTIO_DESCRIPTOR_CHAIN_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/iovecs.h"
#include "base/memory/guest_memory.h"

namespace vireo::virtio {

// The longest chain accepted, whatever the size of its ring: indirect tables may be longer than a
// ring that the guest made smaller (some drivers size them by seg_max alone).
inline constexpr uint32_t kMaxChainDescriptors = 1024;

// What a walk fills in. Reused from chain to chain, so that a request costs no allocation.
struct ChainBuffers {
  explicit ChainBuffers(GuestMemory& memory) : writable(memory) {}
  void Clear();

  std::vector<iovec> readable;
  uint64_t readable_bytes = 0;
  GuestWritable writable;
};

struct ChainWalk {
  const GuestMemory& memory;
  std::span<const uint8_t> table;  // The ring's descriptor table, in host memory.
  bool indirect = false;           // VIRTIO_F_INDIRECT_DESC was negotiated.
};

// Walks the chain that starts at `head` into `buffers`, which is empty. INVALID_ARGUMENT, with what
// the driver did wrong, for an index outside the table, a loop, a chain of more descriptors than
// its table has or more than 4 GiB, an indirect descriptor where none may be, a readable descriptor
// after a writable one, an empty descriptor, and an address outside RAM; `buffers` is then partly
// filled.
absl::Status WalkChain(const ChainWalk& walk, uint16_t head, ChainBuffers& buffers);

// Free buffers of one ring.
class ChainPool {
 public:
  explicit ChainPool(GuestMemory& memory) : memory_(memory) {}
  std::unique_ptr<ChainBuffers> Take();
  void Return(std::unique_ptr<ChainBuffers> buffers);

 private:
  GuestMemory& memory_;
  std::vector<std::unique_ptr<ChainBuffers>> free_;
};

class DescriptorChain {
 public:
  // `pool` outlives the chain.
  DescriptorChain(uint16_t head, std::unique_ptr<ChainBuffers> buffers, ChainPool& pool)
      : head_(head), buffers_(std::move(buffers)), pool_(&pool) {}
  DescriptorChain(DescriptorChain&& other) noexcept = default;
  DescriptorChain& operator=(DescriptorChain&& other) noexcept;
  ~DescriptorChain();

  // Index of the first descriptor: the chain's name in the used ring.
  uint16_t head() const { return head_; }
  IoVecs readable() const { return buffers_->readable; }
  uint64_t readable_bytes() const { return buffers_->readable_bytes; }
  IoVecs writable() const { return buffers_->writable.iovecs(); }
  uint64_t writable_bytes() const { return buffers_->writable.size(); }

  // Copies `dst.size()` readable bytes from `offset` on; false, with `dst` undefined, past the end.
  // Copy a header once, check the copy, use the copy.
  bool CopyFromReadable(uint64_t offset, std::span<uint8_t> dst) const;
  // Copies `src` to the writable bytes from `offset` on; false, with nothing written, past the end.
  bool CopyToWritable(uint64_t offset, std::span<const uint8_t> src);

  // The first `bytes` writable bytes have been written, by whom ever: marks their pages dirty.
  void CompleteWrites(uint64_t bytes) { buffers_->writable.Complete(bytes); }

 private:
  uint16_t head_;
  std::unique_ptr<ChainBuffers> buffers_;
  ChainPool* pool_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_DESCRIPTOR_CHAIN_H_
