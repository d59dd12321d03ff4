// Persistent dirty bitmaps of an image that nobody else has open: added, removed, changed, and
// stored when the image is closed.
//
// A change of bits marks the bitmap in_use, durably, before it writes any, and takes the mark away
// when all is durable: a crash in between leaves a bitmap that says of itself that it cannot be
// trusted. Adding and removing write a new directory and switch the header to it.

#ifndef VIREO_STORAGE_QCOW2_BITMAP_STORE_H_
#define VIREO_STORAGE_QCOW2_BITMAP_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "storage/qcow2/offline_image.h"

namespace vireo::qcow2 {

class BitmapStore {
 public:
  // Statuses as of OfflineImage::Open() and ReadBitmapDirectory(). Both outlive the store.
  static Task<absl::StatusOr<std::unique_ptr<BitmapStore>>> Open(EventLoop& loop, File& file);

  const std::vector<BitmapRecord>& records() const { return records_; }
  // Null if there is none.
  const BitmapRecord* Find(const std::string& name) const;
  OfflineImage& image() { return *image_; }
  uint64_t disk_bytes() const { return image_->header().size_bytes; }
  uint64_t cluster_bytes() const { return image_->layout().cluster_bytes(); }

  // A bitmap that is all clean. ALREADY_EXISTS; UNIMPLEMENTED in an image of version 2;
  // INVALID_ARGUMENT for a name or a granularity that cannot be, OUT_OF_RANGE for a name that is
  // too long; RESOURCE_EXHAUSTED beyond other limits.
  Task<absl::Status> Add(std::string name, uint32_t granularity_bits, bool enabled);
  // NOT_FOUND.
  Task<absl::Status> Remove(std::string name);

  // NOT_FOUND; FAILED_PRECONDITION if it is inconsistent.
  Task<absl::Status> SetEnabled(std::string name, bool enabled);
  Task<absl::StatusOr<DirtyBitmap>> Load(std::string name);
  // The bits of all records(), in their order; each is marked in_use, durably, and must be stored.
  Task<absl::StatusOr<std::vector<DirtyBitmap>>> TakeAll();
  // Replaces the bits of each; they are of a disk of the image's size. Those that are marked in_use
  // already must be so by the caller's doing.
  struct Stored {
    std::string name;
    const DirtyBitmap* bits;  // Outlives the call.
  };
  Task<absl::Status> Store(std::vector<Stored> bitmaps);

 private:
  // One bitmap on its way to the file.
  struct Job {
    BitmapRecord* record;
    const DirtyBitmap* bits;
    std::vector<uint64_t> table;
    std::vector<ClusterRun> freed;
    bool moved = false;  // The record says another size, and perhaps place, of the table.
  };

  explicit BitmapStore(std::unique_ptr<OfflineImage> image) : image_(std::move(image)) {}
  absl::StatusOr<BitmapRecord*> FindUsable(const std::string& name);
  Task<absl::Status> WriteData(Job* job);
  Task<absl::Status> WriteTable(Job* job);
  // Makes `records` the directory, with new counts.
  Task<absl::Status> SwitchDirectory(std::vector<BitmapRecord> records);
  ClusterRun RunOf(uint64_t offset, uint64_t bytes) const {
    return {image_->layout().cluster_index(offset), image_->layout().clusters_for(bytes)};
  }

  const std::unique_ptr<OfflineImage> image_;
  std::vector<BitmapRecord> records_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_BITMAP_STORE_H_
