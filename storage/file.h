// The file under an image: a growable run of bytes on the host.
//
// Offsets and lengths are bytes, of any alignment. A File belongs to one event loop. It is the seam
// where tests put a file in memory, cut the power or let the k-th operation fail.

#ifndef VIREO_STORAGE_FILE_H_
#define VIREO_STORAGE_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "base/iovecs.h"

namespace vireo {

// Tells whether two names mean one file.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;  // For a block device: the device it is, whatever node names it.

  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
  friend auto operator<=>(const FileIdentity&, const FileIdentity&) = default;
};

struct FileTraits {
  // Writes below this unit cost a read (O_DIRECT); 1 = none do.
  uint32_t alignment = 1;
  // Writing past the end, Extend() and Truncate() work. False for a block device.
  bool growable = true;
  // Space gained by growing reads as zeros. False for a block device.
  bool zero_filled = true;
};

// A stretch of the file that holds data, or a hole that reads as zeros.
struct FileExtent {
  bool data = true;
  uint64_t length = 0;
};

class DebugEvents;

class File {
 public:
  virtual ~File() = default;

  virtual const std::string& name() const = 0;
  virtual const FileTraits& traits() const = 0;
  virtual FileIdentity identity() const = 0;
  // Bytes, as far as the file was grown or cut through this object.
  virtual uint64_t size() const = 0;
  // Bytes that the host has set aside for it.
  virtual absl::StatusOr<uint64_t> AllocatedBytes() = 0;

  // What lies past the end reads as zeros.
  virtual Task<absl::Status> Read(uint64_t offset, IoVecs dst) = 0;
  // Grows the file if need be. On failure any part may have been written.
  virtual Task<absl::Status> Write(uint64_t offset, IoVecs src) = 0;
  // On OK, writes that ended before the call survive power loss, and so does the size.
  virtual Task<absl::Status> Sync() = 0;

  // Grows the file to `size` bytes, with space behind the new part where the host can promise it.
  virtual Task<absl::Status> Extend(uint64_t size) = 0;
  // The same ahead of need: where space is memory none is taken yet.
  virtual Task<absl::Status> ExtendAhead(uint64_t size) { return Extend(size); }
  // Sets the size exactly.
  virtual Task<absl::Status> Truncate(uint64_t size) = 0;
  // Inside the file; keeps its size. The range reads as zeros afterwards.
  virtual Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) = 0;
  // Gives space back. A hint: the range holds its old bytes or zeros afterwards, and a host that
  // cannot do it is OK too.
  virtual Task<absl::Status> Discard(uint64_t offset, uint64_t length) = 0;
  // `offset` is inside the file.
  virtual Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) = 0;

  // The host's descriptor of the same bytes at the same offsets, for those who let the host copy
  // them; -1: there is none, or nobody may go around this object.
  virtual int descriptor() const { return -1; }

  // Who wants to know what is done with the file, and may fail or hold up parts of it. Null:
  // nobody.
  virtual DebugEvents* debug_events() { return nullptr; }

  // Drops locks and the descriptor. Nothing is called afterwards.
  virtual Task<absl::Status> Close() = 0;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_FILE_H_
