// A disk whose requests can be made to fail, around any other.

#ifndef VIREO_TESTS_SUPPORT_FAULTY_BACKEND_H_
#define VIREO_TESTS_SUPPORT_FAULTY_BACKEND_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "storage/block_backend.h"

namespace vireo {

class FaultyBackend final : public BlockBackend {
 public:
  explicit FaultyBackend(std::unique_ptr<BlockBackend> disk) : disk_(std::move(disk)) {}

  // The request after `successes` more, of any kind, fails with `status`, and so do `failures` - 1
  // after it.
  void FailAfter(uint64_t successes, absl::Status status, uint64_t failures = 1) {
    next_failure_ = requests_ + successes;
    failures_ = failures;
    status_ = std::move(status);
  }
  uint64_t requests() const { return requests_; }
  BlockBackend& disk() { return *disk_; }

  const Geometry& geometry() const override { return disk_->geometry(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  Task<absl::Status> Close() override { return disk_->Close(); }

 private:
  absl::Status Next();

  const std::unique_ptr<BlockBackend> disk_;
  uint64_t requests_ = 0;
  uint64_t next_failure_ = ~uint64_t{0};
  uint64_t failures_ = 0;
  absl::Status status_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAULTY_BACKEND_H_
