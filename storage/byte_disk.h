// A disk at the grain of bytes: whole blocks go straight through, parts of blocks are read, changed
// and written back. Writers of one block take turns when one of them has but a part of it; writers
// of whole blocks may meet, as those of a guest may. For tools; a guest has whole blocks.

#ifndef VIREO_STORAGE_BYTE_DISK_H_
#define VIREO_STORAGE_BYTE_DISK_H_

#include <cstdint>
#include <list>

#include "base/async/async_event.h"
#include "storage/block_backend.h"
#include "storage/buffer_pool.h"

namespace vireo {

// Statuses as of BlockBackend.
class ByteDisk {
 public:
  // `disk` outlives the object.
  explicit ByteDisk(BlockBackend& disk) : disk_(disk), block_(disk.geometry().block_size) {}

  uint64_t size() const { return disk_.geometry().size_bytes; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst);
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags);
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags);
  // The whole blocks of the range; parts keep what they hold.
  Task<absl::Status> Discard(uint64_t offset, uint64_t length);

 private:
  // A change that is on its way, or waits for an earlier one.
  struct Change {
    uint64_t first;  // Blocks.
    uint64_t last;
    bool parts;
    bool waits = false;
    AsyncEvent go;
  };
  class Turn;

  // OUT_OF_RANGE past the end.
  absl::Status Check(uint64_t offset, uint64_t length) const;
  bool Whole(uint64_t offset, uint64_t length) const;
  bool MayGo(std::list<Change>::const_iterator change) const;

  BlockBackend& disk_;
  const uint32_t block_;
  BufferPool buffers_;
  std::list<Change> changes_;  // In the order of asking.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_BYTE_DISK_H_
