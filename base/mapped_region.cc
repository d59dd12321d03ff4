#include "base/mapped_region.h"

#include <cerrno>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr size_t kPageSize = 4096;

}  // namespace

absl::StatusOr<MappedRegion> MappedRegion::Map(size_t bytes, int flags, int fd,
                                               const FileOptions& options) {
  if (bytes == 0) return absl::InvalidArgumentError("map memory: a mapping is not empty");
  MappedRegion place;
  uint8_t* wanted = nullptr;
  if (options.alignment > 0) {
    const std::optional<size_t> enough = CheckedAdd(bytes, options.alignment);
    if (!enough.has_value()) return ErrnoStatus(ENOMEM, absl::StrFormat("map %d bytes", bytes));
    // Address space only; the mapping proper replaces the aligned part of it.
    void* const space =
        ::mmap(nullptr, *enough, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) return ErrnoStatus(errno, absl::StrFormat("map %d bytes", bytes));
    place.bytes_ = std::span<uint8_t>(static_cast<uint8_t*>(space), *enough);
    wanted = reinterpret_cast<uint8_t*>(
        AlignUp<uintptr_t>(reinterpret_cast<uintptr_t>(space), options.alignment));
    flags |= MAP_FIXED;
  }
  void* const address =
      ::mmap(wanted, bytes, options.protection, flags, fd, static_cast<off_t>(options.offset));
  if (address == MAP_FAILED) return ErrnoStatus(errno, absl::StrFormat("map %d bytes", bytes));
  MappedRegion region(std::span<uint8_t>(static_cast<uint8_t*>(address), bytes));
  if (place.valid()) {
    // What stands out before and after it.
    const std::span<uint8_t> space = std::exchange(place.bytes_, {});
    const size_t before = static_cast<size_t>(region.bytes_.data() - space.data());
    if (before > 0) ::munmap(space.data(), before);
    const size_t after = space.size() - before - AlignUp(bytes, kPageSize);
    if (after > 0) ::munmap(space.data() + space.size() - after, after);
  }
  if (!options.core_dump && ::madvise(address, bytes, MADV_DONTDUMP) != 0) {
    return ErrnoStatus(errno, "madvise(MADV_DONTDUMP)");
  }
  // EINVAL: a kernel that has none.
  if (options.huge_pages && ::madvise(address, bytes, MADV_HUGEPAGE) != 0 && errno != EINVAL) {
    return ErrnoStatus(errno, "madvise(MADV_HUGEPAGE)");
  }
  return region;
}

absl::StatusOr<MappedRegion> MappedRegion::Anonymous(size_t bytes, AnonymousOptions options) {
  const int reserve = options.reserve ? 0 : MAP_NORESERVE;
  return Map(bytes, MAP_PRIVATE | MAP_ANONYMOUS | reserve, -1,
             {.core_dump = options.core_dump,
              .alignment = options.alignment,
              .huge_pages = options.huge_pages});
}

absl::StatusOr<MappedRegion> MappedRegion::File(const UniqueFd& fd, size_t bytes,
                                                FileOptions options) {
  return Map(bytes, options.shared ? MAP_SHARED : MAP_PRIVATE, fd.get(), options);
}

MappedRegion& MappedRegion::operator=(MappedRegion&& other) noexcept {
  if (this != &other) {
    Unmap();
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

void MappedRegion::Unmap() {
  if (bytes_.empty()) return;
  VIREO_CHECK(::munmap(bytes_.data(), bytes_.size()) == 0, "a mapping is unmapped once");
  bytes_ = {};
}

}  // namespace vireo
