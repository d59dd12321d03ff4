// An owned mmap(2) mapping, unmapped on destruction.

#ifndef VIREO_BASE_MAPPED_REGION_H_
#define VIREO_BASE_MAPPED_REGION_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace vireo {

class MappedRegion {
 public:
  struct AnonymousOptions {
    bool reserve = true;    // False: MAP_NORESERVE, not counted against the overcommit limit.
    bool core_dump = true;  // False: MADV_DONTDUMP.
    size_t alignment = 0;   // Of the address; a power of two, 0 for a page.
    // MADV_HUGEPAGE, for hosts whose transparent huge pages are for those who ask ("madvise"). A
    // kernel without them does as well as it can.
    bool huge_pages = false;
  };
  struct FileOptions {
    uint64_t offset = 0;  // A multiple of the page size.
    int protection = PROT_READ | PROT_WRITE;
    bool shared = true;
    bool core_dump = true;
    size_t alignment = 0;     // Of the address; a power of two, 0 for a page.
    bool huge_pages = false;  // As above; shmem's own setting must allow "advise" too.
  };

  MappedRegion() = default;
  // Zeroed, private, not yet backed by memory: a page costs when first touched.
  static absl::StatusOr<MappedRegion> Anonymous(size_t bytes, AnonymousOptions options);
  static absl::StatusOr<MappedRegion> Anonymous(size_t bytes) { return Anonymous(bytes, {}); }
  static absl::StatusOr<MappedRegion> File(const UniqueFd& fd, size_t bytes, FileOptions options);

  MappedRegion(MappedRegion&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedRegion& operator=(MappedRegion&& other) noexcept;
  MappedRegion(const MappedRegion&) = delete;
  MappedRegion& operator=(const MappedRegion&) = delete;
  ~MappedRegion() { Unmap(); }

  std::span<uint8_t> bytes() const { return bytes_; }
  bool valid() const { return !bytes_.empty(); }

 private:
  explicit MappedRegion(std::span<uint8_t> bytes) : bytes_(bytes) {}
  static absl::StatusOr<MappedRegion> Map(size_t bytes, int flags, int fd,
                                          const FileOptions& options);
  void Unmap();

  std::span<uint8_t> bytes_;
};

}  // namespace vireo

#endif  // VIREO_BASE_MAPPED_REGION_H_
