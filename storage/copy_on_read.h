// A decorator: what is read from a backing file is kept in the image, whole clusters of it.

#ifndef VIREO_STORAGE_COPY_ON_READ_H_
#define VIREO_STORAGE_COPY_ON_READ_H_

#include <memory>
#include <utility>

#include "storage/block_backend.h"
#include "storage/buffer_pool.h"
#include "storage/range_lock.h"

namespace vireo {

class CopyOnRead final : public BlockBackend {
 public:
  // `disk` is writable.
  explicit CopyOnRead(std::unique_ptr<BlockBackend> disk) : disk_(std::move(disk)) {}

  const Geometry& geometry() const override { return disk_->geometry(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> WriteCompressed(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  Task<absl::Status> Close() override;

 private:
  // Clusters, for those that copy to wait for those that change them.
  uint64_t Cluster() const;
  // Copies what of whole clusters [begin, end) is not in the top layer.
  Task<absl::Status> Copy(uint64_t begin, uint64_t end);

  const std::unique_ptr<BlockBackend> disk_;
  BufferPool buffers_;
  RangeLock clusters_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_COPY_ON_READ_H_
