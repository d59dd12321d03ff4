// A decorator: a write has ended when its bytes survive power loss.

#ifndef VIREO_STORAGE_WRITETHROUGH_H_
#define VIREO_STORAGE_WRITETHROUGH_H_

#include <memory>
#include <utility>

#include "storage/block_backend.h"

namespace vireo {

class Writethrough final : public BlockBackend {
 public:
  explicit Writethrough(std::unique_ptr<BlockBackend> disk) : disk_(std::move(disk)) {}

  const Geometry& geometry() const override { return disk_->geometry(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  Task<absl::Status> Close() override;

 private:
  const std::unique_ptr<BlockBackend> disk_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_WRITETHROUGH_H_
