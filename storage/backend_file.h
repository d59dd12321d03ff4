// A disk as the file under another image: what makes driver trees of any shape possible, such as
// raw over QCOW2.

#ifndef VIREO_STORAGE_BACKEND_FILE_H_
#define VIREO_STORAGE_BACKEND_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "storage/block_backend.h"
#include "storage/byte_disk.h"
#include "storage/file.h"

namespace vireo {

class BackendFile final : public File {
 public:
  // `identity` is that of the file which `disk` stands on.
  BackendFile(std::unique_ptr<BlockBackend> disk, std::string name, FileIdentity identity);

  const std::string& name() const override { return name_; }
  const FileTraits& traits() const override { return traits_; }
  FileIdentity identity() const override { return identity_; }
  uint64_t size() const override { return size_; }
  absl::StatusOr<uint64_t> AllocatedBytes() override;
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Sync() override;
  // Both grow the disk; none shrinks it: what is cut off is zeroed, and the file ends before it.
  Task<absl::Status> Extend(uint64_t size) override;
  Task<absl::Status> Truncate(uint64_t size) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;
  Task<absl::Status> Close() override;

 private:
  const std::unique_ptr<BlockBackend> disk_;
  ByteDisk bytes_;
  const std::string name_;
  const FileIdentity identity_;
  FileTraits traits_;
  uint64_t size_;  // At most the disk's.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_BACKEND_FILE_H_
