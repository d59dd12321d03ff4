// The dirty bitmaps of an open, writable image.
//
// Nothing is read or written until the image is about to change: then the bitmaps that are enabled
// are read, and marked in_use in the file, durably. From then on every change of the disk is marked
// in memory when it has ended. A clean close stores them and takes the mark away; after a crash the
// mark tells that the file's bits are not to be trusted.
//
// Owned by the image, on its loop.

#ifndef VIREO_STORAGE_QCOW2_BITMAP_TRACKER_H_
#define VIREO_STORAGE_QCOW2_BITMAP_TRACKER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/metadata_set.h"

namespace vireo::qcow2 {

class BitmapTracker {
 public:
  // All outlive the tracker. `header` is the image's.
  BitmapTracker(EventLoop& loop, File& file, const Header& header)
      : loop_(loop), file_(file), header_(header) {}

  // At open: reads the directory and adds its tables to `metadata`. DATA_LOSS if they are damaged
  // or overlap something else.
  Task<absl::Status> Load(MetadataSet* metadata);

  // Before the first change. A bitmap whose bits cannot be read is given up: it stays marked.
  Task<absl::Status> Start();

  // [offset, offset + length) has been changed, or may have been.
  void MarkDirty(uint64_t offset, uint64_t length) {
    for (Tracked& one : tracked_) {
      if (one.record.enabled()) one.bits.MarkDirty(offset, length);
    }
  }

  // The disk is about to get another size: every bitmap follows, also those that are disabled.
  // FAILED_PRECONDITION if one is inconsistent.
  Task<absl::Status> PrepareResize();
  void Resize(uint64_t disk_bytes);

  // At a clean close, when all else of the image is durable and nobody writes any more.
  Task<absl::Status> Store();

  // The one of this name that is in memory, or null.
  DirtyBitmap* Find(const std::string& name);

 private:
  struct Tracked {
    BitmapRecord record;
    DirtyBitmap bits;
  };

  // Reads the bits of those records that are not in memory yet, all or only the enabled ones, and
  // marks them in_use.
  Task<absl::Status> Take(bool disabled_too);
  bool IsTracked(const std::string& name) const;

  EventLoop& loop_;
  File& file_;
  const Header& header_;
  std::vector<BitmapRecord> records_;  // As they stood at open.
  std::vector<Tracked> tracked_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_BITMAP_TRACKER_H_
