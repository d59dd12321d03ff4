// A decorator: what is done with requests before a disk sees them.

#ifndef VIREO_STORAGE_REQUEST_POLICY_H_
#define VIREO_STORAGE_REQUEST_POLICY_H_

#include <memory>
#include <utility>

#include "storage/block_backend.h"

namespace vireo {

class RequestPolicy final : public BlockBackend {
 public:
  enum class Zeroes {
    kWrite,  // As they come.
    kZero,   // Writes of nothing but zeros become WriteZeroes().
    kUnmap,  // The same, and the space may be given back.
  };
  struct Options {
    bool writethrough = false;     // A write has ended when its bytes survive power loss.
    bool ignore_discards = false;  // Nothing is given back to the host.
    Zeroes detect_zeroes = Zeroes::kWrite;
    // For a disk that is raw because nothing else was found in it: writes to its first sector that
    // would be taken for another format next time fail (EPERM).
    bool guard_format = false;

    friend bool operator==(const Options&, const Options&) = default;
  };

  RequestPolicy(std::unique_ptr<BlockBackend> disk, Options options)
      : disk_(std::move(disk)), options_(options) {}

  // For requests that come from now on.
  void set_writethrough(bool writethrough) { options_.writethrough = writethrough; }

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
  const std::unique_ptr<BlockBackend> disk_;
  Options options_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_REQUEST_POLICY_H_
