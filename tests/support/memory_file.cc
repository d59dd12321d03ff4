#include "tests/support/memory_file.h"

#include <errno.h>

#include <algorithm>

#include "base/status.h"

namespace vireo {

absl::Status MemoryFile::Grow(uint64_t size) {
  if (size <= medium_.bytes.size()) return absl::OkStatus();
  if (!medium_.traits.growable || size > medium_.max_bytes) return ErrnoStatus(ENOSPC, name_);
  medium_.bytes.resize(size);
  return absl::OkStatus();
}

Task<absl::Status> MemoryFile::Read(uint64_t offset, IoVecs dst) {
  co_await loop_.Yield();
  ++medium_.reads;
  const uint64_t length = TotalSize(dst);
  const uint64_t size = medium_.bytes.size();
  const uint64_t stored = offset < size ? std::min(length, size - offset) : 0;
  CopyToIoVecs(std::span(medium_.bytes).subspan(std::min(offset, size), stored), dst);
  const IoVecList rest = Slice(dst, stored, length - stored);
  FillIoVecs(rest, 0);
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryFile::Write(uint64_t offset, IoVecs src) {
  co_await loop_.Yield();
  ++medium_.writes;
  const uint64_t length = TotalSize(src);
  CO_RETURN_IF_ERROR(Grow(offset + length));
  CopyFromIoVecs(src, std::span(medium_.bytes).subspan(offset, length));
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryFile::Sync() {
  co_await loop_.Yield();
  ++medium_.syncs;
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryFile::Extend(uint64_t size) {
  co_await loop_.Yield();
  co_return Grow(size);
}

Task<absl::Status> MemoryFile::Truncate(uint64_t size) {
  co_await loop_.Yield();
  CO_RETURN_IF_ERROR(Grow(size));
  medium_.bytes.resize(size);
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryFile::WriteZeroes(uint64_t offset, uint64_t length, bool) {
  co_await loop_.Yield();
  const uint64_t end = std::min<uint64_t>(offset + length, medium_.bytes.size());
  if (offset < end) std::fill(medium_.bytes.begin() + offset, medium_.bytes.begin() + end, 0);
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryFile::Discard(uint64_t offset, uint64_t length) {
  const absl::Status status = co_await WriteZeroes(offset, length, true);
  co_return status;
}

Task<absl::StatusOr<FileExtent>> MemoryFile::Extent(uint64_t offset) {
  co_await loop_.Yield();
  co_return FileExtent{.data = true, .length = medium_.bytes.size() - offset};
}

Task<absl::Status> MemoryFile::Close() { co_return absl::OkStatus(); }

}  // namespace vireo
