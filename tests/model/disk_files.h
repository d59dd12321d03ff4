// The files under a disk of some shape: made, filled, opened, read as a whole.

#ifndef VIREO_TESTS_MODEL_DISK_FILES_H_
#define VIREO_TESTS_MODEL_DISK_FILES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/block_backend.h"
#include "storage/file.h"
#include "storage/qcow2/cache_budget.h"
#include "tests/model/chance.h"
#include "tests/model/disk_shape.h"
#include "tests/support/memory_file.h"

namespace vireo {

class DiskFiles {
 public:
  // All outlive the object. There is a backing file from now on, if the shape has one.
  DiskFiles(EventLoop& loop, const DiskShape& shape, Chance& chance);

  // Those of one disk; what its image does not have is not opened.
  struct Files {
    std::unique_ptr<File> image;
    std::unique_ptr<File> backing;
    std::unique_ptr<File> data;
  };

  // An empty image, and an empty data file if it has one.
  MemoryMedium MakeImage();
  // As they lie there, with `image`, which outlives them.
  Files FilesOf(MemoryMedium& image);
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(Files files, bool read_only) {
    return loop_.RunTask(OpenTask(std::move(files), read_only));
  }
  // Writes data and holes that take turns; answers the tags of all sectors.
  std::vector<uint64_t> Fill(BlockBackend& disk, uint64_t first_request);
  // All of a disk that nobody uses. DATA_LOSS if a sector holds no content of ours.
  absl::StatusOr<std::vector<uint64_t>> ReadTags(BlockBackend& disk);

  const std::vector<uint8_t>& backing_bytes() const { return backing_.bytes; }
  // Of an empty disk.
  const std::vector<uint64_t>& backing_tags() const { return backing_tags_; }
  // The data file, as it lies there.
  std::vector<uint8_t>& data_bytes() { return data_.bytes; }

 private:
  void MakeBacking();
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenBacking(
      std::unique_ptr<File> file, std::shared_ptr<qcow2::CacheBudget> budget);
  Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> OpenTask(Files files, bool read_only);

  EventLoop& loop_;
  const DiskShape& shape_;
  Chance& chance_;
  MemoryMedium backing_;
  MemoryMedium data_ = {.inode = 3};
  std::vector<uint64_t> backing_tags_;
};

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_DISK_FILES_H_
