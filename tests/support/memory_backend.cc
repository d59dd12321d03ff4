#include "tests/support/memory_backend.h"

#include <algorithm>

#include "base/status.h"
#include "storage/request_check.h"

namespace vireo {
namespace {

constexpr char kName[] = "memory";

}  // namespace

MemoryBackend::MemoryBackend(Options options)
    : geometry_{.size_bytes = options.size_bytes,
                .block_size = options.block_size,
                .optimal_io_bytes = 4096,
                .discard_granularity = options.block_size,
                .read_only = options.read_only},
      bytes_(options.size_bytes),
      stored_(options.size_bytes / options.block_size) {
  released_.Set();
}

Task<absl::Status> MemoryBackend::Begin(uint64_t offset, uint64_t length, bool change) {
  ++requests_;
  co_await released_.Wait();
  co_return change ? CheckChange(kName, geometry_, offset, length)
                   : CheckRequest(kName, geometry_, offset, length);
}

Task<absl::Status> MemoryBackend::Read(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  CO_RETURN_IF_ERROR(co_await Begin(offset, length, false));
  CopyToIoVecs(std::span(bytes_).subspan(offset, length), dst);
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryBackend::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  const uint64_t length = TotalSize(src);
  CO_RETURN_IF_ERROR(co_await Begin(offset, length, true));
  CopyFromIoVecs(src, std::span(bytes_).subspan(offset, length));
  std::fill_n(stored_.begin() + offset / geometry_.block_size, length / geometry_.block_size, true);
  if (flags.fua) ++flushes_;
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryBackend::Flush() {
  CO_RETURN_IF_ERROR(co_await Begin(0, 0, false));
  ++flushes_;
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryBackend::Discard(uint64_t offset, uint64_t length) {
  const absl::Status status = co_await WriteZeroes(offset, length, {.may_unmap = true});
  co_return status;
}

Task<absl::Status> MemoryBackend::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  CO_RETURN_IF_ERROR(co_await Begin(offset, length, true));
  std::fill_n(bytes_.begin() + offset, length, 0);
  if (flags.may_unmap) {
    std::fill_n(stored_.begin() + offset / geometry_.block_size, length / geometry_.block_size,
                false);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<RangeStatus>> MemoryBackend::Status(uint64_t offset, uint64_t length) {
  CO_RETURN_IF_ERROR(co_await Begin(offset, length, false));
  const uint64_t block = geometry_.block_size;
  const auto is_data = [&](uint64_t at) {
    return stored_[at / block] || std::any_of(bytes_.begin() + at, bytes_.begin() + at + block,
                                              [](uint8_t byte) { return byte != 0; });
  };
  const bool data = is_data(offset);
  uint64_t stop = offset + block;
  while (stop < offset + length && is_data(stop) == data) stop += block;
  co_return RangeStatus{.kind = data ? RangeKind::kData : RangeKind::kHole,
                        .length = stop - offset};
}

Task<absl::Status> MemoryBackend::Resize(uint64_t size_bytes) {
  CO_RETURN_IF_ERROR(co_await Begin(0, 0, true));
  if (size_bytes % geometry_.block_size != 0) {
    co_return absl::InvalidArgumentError("not whole blocks");
  }
  if (size_bytes < geometry_.size_bytes) co_return absl::FailedPreconditionError("would shrink");
  bytes_.resize(size_bytes);
  stored_.resize(size_bytes / geometry_.block_size);
  geometry_.size_bytes = size_bytes;
  co_return absl::OkStatus();
}

Task<absl::Status> MemoryBackend::Close() { co_return absl::OkStatus(); }

}  // namespace vireo
