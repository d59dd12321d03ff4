// The guest's RAM as the VMM sees it: a few regions of guest-physical address space, each mapped in
// one piece.
//
// Guest memory is hostile and changes while it is read: copy a header out once, check the copy, use
// the copy. Every address is checked against the regions; what lies outside fails, also in part. An
// access may span regions that touch.
//
// Whoever writes marks: Write, WriteObject and StoreRelease16 mark pages dirty themselves; memory
// that something else writes (the kernel for a read of a disk) is handed out by GuestWritable only,
// which marks when the I/O has completed.

#ifndef VIREO_BASE_MEMORY_GUEST_MEMORY_H_
#define VIREO_BASE_MEMORY_GUEST_MEMORY_H_

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/iovecs.h"
#include "base/mapped_region.h"
#include "base/memory/dirty_log.h"
#include "base/memory/guest_address.h"
#include "base/unique_fd.h"

namespace vireo {

// Any thread. Regions are fixed once created.
class GuestMemory {
 public:
  enum class Backing {
    kPrivate,    // Anonymous memory: the cheapest to fault.
    kShared,     // A memfd: another process may map it.
    kHugepages,  // A memfd of the host's default huge page size, reserved at once.
  };
  struct RegionSpec {
    GuestAddress base;
    uint64_t size;  // Bytes
  };
  struct Region {
    GuestAddress base;
    std::span<uint8_t> host;
    int fd = -1;  // -1 for private memory; owned by the GuestMemory.
    uint64_t fd_offset = 0;
  };

  // All zero; nothing is backed by memory before it is touched (but see kHugepages), nor part of a
  // core dump. INVALID_ARGUMENT: empty, unaligned or overlapping regions; RESOURCE_EXHAUSTED: more
  // than the host has.
  static absl::StatusOr<std::unique_ptr<GuestMemory>> Create(std::vector<RegionSpec> specs,
                                                             Backing backing);
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // In rising order of address.
  std::span<const Region> regions() const { return regions_; }
  uint64_t size() const { return size_; }  // Bytes of RAM in all.
  bool Contains(GuestAddress address, uint64_t length) const;

  // OUT_OF_RANGE when any byte lies outside RAM; nothing has moved then.
  absl::Status Read(GuestAddress address, std::span<uint8_t> dst) const;
  absl::Status Write(GuestAddress address, std::span<const uint8_t> src);
  absl::Status Fill(GuestAddress address, uint8_t byte, uint64_t length);
  template <typename T>
  absl::StatusOr<T> ReadObject(GuestAddress address) const;
  template <typename T>
  absl::Status WriteObject(GuestAddress address, const T& object);

  // Ring indices, shared with a running guest. OUT_OF_RANGE as above; INVALID_ARGUMENT for an odd
  // address. Little-endian is the host's order.
  absl::StatusOr<uint16_t> LoadAcquire16(GuestAddress address) const;
  absl::Status StoreRelease16(GuestAddress address, uint16_t value);

  // Appends host buffers that hold the range, to be read from. False, with `out` unchanged, when
  // any byte lies outside RAM.
  bool AppendReadable(GuestAddress address, uint64_t length, std::vector<iovec>* out) const;
  bool AppendReadable(GuestAddress address, uint64_t length, IoVecList* out) const;

  // Its range indices are those of regions().
  DirtyLog& dirty_log() { return dirty_log_; }
  const DirtyLog& dirty_log() const { return dirty_log_; }

 private:
  friend class GuestWritable;

  GuestMemory(std::vector<RegionSpec> specs, UniqueFd fd);

  const Region* Find(GuestAddress address) const;
  template <typename Visit>
  bool ForEachPiece(GuestAddress address, uint64_t length, Visit visit) const;
  absl::Status OutOfRange(GuestAddress address, uint64_t length) const;
  absl::StatusOr<uint16_t*> Locate16(GuestAddress address) const;
  // Marks what lies within our regions at a host address.
  void MarkHost(const uint8_t* host, uint64_t length);

  UniqueFd fd_;  // Of shared memory.
  std::vector<MappedRegion> mappings_;
  std::vector<Region> regions_;
  uint64_t size_ = 0;
  DirtyLog dirty_log_;
};

// Writable guest memory in flight: buffers that a device or the kernel fills. Movable; one I/O
// at a time.
class GuestWritable {
 public:
  // `memory` outlives it.
  explicit GuestWritable(GuestMemory& memory) : memory_(&memory) {}

  // False, with nothing appended, when any byte lies outside RAM.
  bool Append(GuestAddress address, uint64_t length);
  IoVecs iovecs() const { return iovecs_; }
  uint64_t size() const { return size_; }
  // The I/O has completed and may have written the first `bytes_written` bytes: marks them dirty.
  // After a failed read the contents are undefined: say size(). May be called for growing prefixes.
  void Complete(uint64_t bytes_written);
  // Empty, for the next I/O; keeps its capacity.
  void Clear() {
    iovecs_.clear();
    size_ = 0;
  }

 private:
  GuestMemory* memory_;
  IoVecList iovecs_;
  uint64_t size_ = 0;
};

template <typename T>
absl::StatusOr<T> GuestMemory::ReadObject(GuestAddress address) const {
  static_assert(std::is_trivially_copyable_v<T>);
  T object;
  absl::Status status = Read(address, {reinterpret_cast<uint8_t*>(&object), sizeof(object)});
  if (!status.ok()) return status;
  return object;
}

template <typename T>
absl::Status GuestMemory::WriteObject(GuestAddress address, const T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  return Write(address, {reinterpret_cast<const uint8_t*>(&object), sizeof(object)});
}

}  // namespace vireo

#endif  // VIREO_BASE_MEMORY_GUEST_MEMORY_H_
