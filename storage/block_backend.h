// A disk as its guest sees it: the one interface between devices and image formats.
//
// A backend belongs to one event loop: it is opened, called and resumed there, and holds no
// mutexes. Offsets and lengths are bytes and multiples of geometry().block_size. Buffers stay valid
// until the Task has ended, stopped or not. Requests may overlap and then land in either order.
// Close() has ended before a backend is destroyed; nothing is called after it.

#ifndef VIREO_STORAGE_BLOCK_BACKEND_H_
#define VIREO_STORAGE_BLOCK_BACKEND_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "base/iovecs.h"

namespace vireo {

class File;

// What does not change while the disk is open, but for size_bytes, which Resize() changes.
struct Geometry {
  uint64_t size_bytes = 0;           // A multiple of block_size.
  uint32_t block_size = 512;         // Smallest unit of a request: 512 or 4096.
  uint32_t optimal_io_bytes = 0;     // A whole request of this size costs least; 0 = unknown.
  uint32_t discard_granularity = 0;  // Smaller discards free nothing; 0 = discards free nothing.
  bool read_only = false;
};

struct WriteFlags {
  bool fua = false;  // OK means that these bytes, too, survive power loss.
};

struct ZeroFlags {
  bool may_unmap = false;  // The space may be given back to the host.
};

enum class RangeKind {
  kData,  // Stored, whatever its bytes.
  kZero,  // Said to be zeros by a layer of the chain.
  kHole,  // No layer stores it; reads as zeros.
};

struct RangeStatus {
  RangeKind kind = RangeKind::kHole;
  uint32_t depth = 0;   // The layer that answers: 0 the top, 1 its backing file, and so on.
  uint64_t length = 0;  // Bytes from the offset asked for that share the answer; at least 1.

  // For those who draw a map of an image.
  bool present = false;         // That layer says it; false where the whole chain says nothing.
  bool reads_as_zeros = false;  // Known to, whatever the kind.
  std::optional<uint64_t> host_offset;     // Where the bytes stand in a file, one after the other.
  const std::string* file_name = nullptr;  // That file; lives as long as the backend.
  const File* file = nullptr;              // The same, where it is a file of its own.
};

class BlockBackend {
 public:
  virtual ~BlockBackend() = default;

  virtual const Geometry& geometry() const = 0;

  // Fills `dst`. OUT_OF_RANGE past the end (nothing is moved); DATA_LOSS if the image contradicts
  // itself; errors of the host carry their errno. `dst` is undefined on failure.
  virtual Task<absl::Status> Read(uint64_t offset, IoVecs dst) = 0;

  // FAILED_PRECONDITION when read-only; RESOURCE_EXHAUSTED when the host is full; else as Read().
  // On failure the range holds old bytes, new bytes or a mix of both.
  virtual Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) = 0;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) { return Write(offset, src, WriteFlags{}); }

  // As Write(), stored compressed where that saves space. The range is whole units of
  // geometry().optimal_io_bytes, but for the disk's last one; INVALID_ARGUMENT otherwise.
  // UNIMPLEMENTED where nothing can be stored compressed.
  virtual Task<absl::Status> WriteCompressed(uint64_t, IoVecs) {
    co_return absl::UnimplementedError("this kind of disk does not store compressed data");
  }

  // On OK, writes that ended before the call survive power loss.
  virtual Task<absl::Status> Flush() = 0;

  // The guest no longer needs the range: what it reads there afterwards is the old bytes or zeros,
  // never anything else (and never what a backing file holds).
  virtual Task<absl::Status> Discard(uint64_t offset, uint64_t length) = 0;

  // The range reads as zeros afterwards.
  virtual Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) = 0;

  // What stores the bytes at `offset`; the answer covers at most `length` bytes, which is not 0.
  virtual Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) = 0;

  // Grows the disk to `size_bytes`; new space reads as zeros. UNIMPLEMENTED where it cannot,
  // FAILED_PRECONDITION when it would shrink.
  virtual Task<absl::Status> Resize(uint64_t size_bytes) = 0;

  // While set, requests wait for no turn (a throttle's): whoever drains the disk is not to wait for
  // that.
  virtual void SetHurry(bool /*hurry*/) {}

  // Waits for what is in flight, makes everything durable, gives back reservations and locks. The
  // backend can only be destroyed afterwards, also when the answer is an error.
  virtual Task<absl::Status> Close() = 0;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_BLOCK_BACKEND_H_
