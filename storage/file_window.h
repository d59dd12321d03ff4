// A part of a file as a file of its own: the `offset` and `size` of QEMU's raw driver.

#ifndef VIREO_STORAGE_FILE_WINDOW_H_
#define VIREO_STORAGE_FILE_WINDOW_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "storage/file_decorator.h"

namespace vireo {

class FileWindow final : public FileDecorator {
 public:
  // Without `size` the window goes to the end of the file, wherever that moves. INVALID_ARGUMENT,
  // in QEMU's words, for a window that is not inside the file or not whole sectors.
  static absl::StatusOr<std::unique_ptr<File>> Open(std::unique_ptr<File> file, uint64_t offset,
                                                    std::optional<uint64_t> size);

  const FileTraits& traits() const override { return traits_; }
  uint64_t size() const override;
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Extend(uint64_t size) override;
  Task<absl::Status> Truncate(uint64_t size) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;

 private:
  FileWindow(std::unique_ptr<File> file, uint64_t offset, std::optional<uint64_t> size);
  // OUT_OF_RANGE past the end of a window that has one, and where offsets overflow.
  absl::Status Check(uint64_t offset, uint64_t length) const;

  const uint64_t offset_;
  const std::optional<uint64_t> size_;
  FileTraits traits_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_FILE_WINDOW_H_
