// A File that hands everything on to another: what changes one thing derives from it.

#ifndef VIREO_STORAGE_FILE_DECORATOR_H_
#define VIREO_STORAGE_FILE_DECORATOR_H_

#include <memory>
#include <string>
#include <utility>

#include "storage/file.h"

namespace vireo {

class FileDecorator : public File {
 public:
  explicit FileDecorator(std::unique_ptr<File> file) : file_(std::move(file)) {}

  const std::string& name() const override { return file_->name(); }
  const FileTraits& traits() const override { return file_->traits(); }
  FileIdentity identity() const override { return file_->identity(); }
  uint64_t size() const override { return file_->size(); }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return file_->AllocatedBytes(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override { return file_->Read(offset, dst); }
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override {
    return file_->Write(offset, src);
  }
  Task<absl::Status> Sync() override { return file_->Sync(); }
  Task<absl::Status> Extend(uint64_t size) override { return file_->Extend(size); }
  Task<absl::Status> ExtendAhead(uint64_t size) override { return file_->ExtendAhead(size); }
  Task<absl::Status> Truncate(uint64_t size) override { return file_->Truncate(size); }
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override {
    return file_->WriteZeroes(offset, length, may_unmap);
  }
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override {
    return file_->Discard(offset, length);
  }
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override {
    return file_->Extent(offset);
  }
  DebugEvents* debug_events() override { return file_->debug_events(); }
  Task<absl::Status> Close() override { return file_->Close(); }

 protected:
  File& file() { return *file_; }
  const File& file() const { return *file_; }

 private:
  const std::unique_ptr<File> file_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_FILE_DECORATOR_H_
