// A raw image: the file's bytes are the disk's. Owned by one loop.

#ifndef VIREO_STORAGE_RAW_FILE_H_
#define VIREO_STORAGE_RAW_FILE_H_

#include <memory>

#include "storage/block_backend.h"
#include "storage/debug_events.h"
#include "storage/file.h"
#include "storage/in_flight.h"

namespace vireo {

class RawFile final : public BlockBackend {
 public:
  struct Options {
    bool read_only = false;
  };

  // The disk has the size of `file`, rounded up to whole sectors of 512 bytes: what is missing of
  // the last one reads as zeros, and is added to the file when written.
  RawFile(std::unique_ptr<File> file, Options options);

  const Geometry& geometry() const override { return geometry_; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override;
  Task<absl::Status> Resize(uint64_t size_bytes) override;
  Task<absl::Status> Close() override;

  File& file() { return *file_; }

 private:
  const std::unique_ptr<File> file_;
  DebugEvents* const debug_;  // Null unless a test injects faults below.
  Geometry geometry_;
  InFlight in_flight_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_RAW_FILE_H_
