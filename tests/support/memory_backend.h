// A disk in memory, for tests of everything that stands on BlockBackend.

#ifndef VIREO_TESTS_SUPPORT_MEMORY_BACKEND_H_
#define VIREO_TESTS_SUPPORT_MEMORY_BACKEND_H_

#include <cstdint>
#include <vector>

#include "base/async/async_event.h"
#include "storage/block_backend.h"

namespace vireo {

class MemoryBackend final : public BlockBackend {
 public:
  struct Options {
    uint64_t size_bytes = 1 << 20;
    uint32_t block_size = 512;
    bool read_only = false;
  };
  explicit MemoryBackend(Options options);

  const Geometry& geometry() const override { return geometry_; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  // As Write(): it has nothing to save.
  Task<absl::Status> WriteCompressed(uint64_t offset, IoVecs src) override {
    return Write(offset, src, WriteFlags{});
  }
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  Task<absl::Status> Close() override;

  std::vector<uint8_t>& bytes() { return bytes_; }
  uint64_t flushes() const { return flushes_; }
  uint64_t requests() const { return requests_; }

  // While held, requests wait before they do anything: to have some in flight.
  void Hold() { released_.Reset(); }
  void Release() { released_.Set(); }

 private:
  Task<absl::Status> Begin(uint64_t offset, uint64_t length, bool change);

  Geometry geometry_;
  std::vector<uint8_t> bytes_;
  std::vector<bool> stored_;  // By block.
  AsyncEvent released_;
  uint64_t flushes_ = 0;
  uint64_t requests_ = 0;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_MEMORY_BACKEND_H_
