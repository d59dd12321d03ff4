// A File in memory, for tests of image formats.
//
// The bytes live in a MemoryMedium, which outlives any number of MemoryFiles: to close and open
// again, to look inside, to put damage there.

#ifndef VIREO_TESTS_SUPPORT_MEMORY_FILE_H_
#define VIREO_TESTS_SUPPORT_MEMORY_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "storage/file.h"

namespace vireo {

struct MemoryMedium {
  std::vector<uint8_t> bytes;
  FileTraits traits;
  uint64_t inode = 1;
  uint64_t syncs = 0;
  uint64_t writes = 0;
  uint64_t reads = 0;
  uint64_t max_bytes = uint64_t{1} << 32;  // The file system is full beyond.
};

class MemoryFile final : public File {
 public:
  // Both outlive the file. Operations end in a later turn of the loop, so that others get in
  // between.
  MemoryFile(EventLoop& loop, MemoryMedium& medium, std::string name = "memory")
      : loop_(loop), medium_(medium), name_(std::move(name)) {}

  const std::string& name() const override { return name_; }
  const FileTraits& traits() const override { return medium_.traits; }
  FileIdentity identity() const override { return {.device = 1, .inode = medium_.inode}; }
  uint64_t size() const override { return medium_.bytes.size(); }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return medium_.bytes.size(); }
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
  absl::Status Grow(uint64_t size);

  EventLoop& loop_;
  MemoryMedium& medium_;
  const std::string name_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_MEMORY_FILE_H_
