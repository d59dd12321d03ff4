// A file that holds nothing: QEMU's null-co and null-aio, to measure what stands on a disk and to
// test without one.

#ifndef VIREO_STORAGE_NULL_FILE_H_
#define VIREO_STORAGE_NULL_FILE_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "storage/file.h"

namespace vireo {

class NullFile final : public File {
 public:
  struct Options {
    std::string name = "null-co://";
    uint64_t size_bytes = uint64_t{1} << 30;
    absl::Duration latency;    // Of each read, write and flush.
    bool read_zeroes = false;  // False: a read leaves its buffers as they are.
  };

  NullFile(EventLoop& loop, Options options);

  const std::string& name() const override { return options_.name; }
  const FileTraits& traits() const override { return traits_; }
  // As if it were none: two of them are never the same.
  FileIdentity identity() const override {
    return {.device = ~uint64_t{0} - 1, .inode = reinterpret_cast<uintptr_t>(this)};
  }
  uint64_t size() const override { return options_.size_bytes; }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return uint64_t{0}; }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Sync() override;
  Task<absl::Status> Extend(uint64_t size) override;
  Task<absl::Status> Truncate(uint64_t size) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;
  Task<absl::Status> Close() override;

 private:
  Task<absl::Status> Delay();

  EventLoop& loop_;
  const Options options_;
  FileTraits traits_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_NULL_FILE_H_
