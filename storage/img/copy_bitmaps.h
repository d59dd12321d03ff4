// Persistent dirty bitmaps on their way from one image to another.

#ifndef VIREO_STORAGE_IMG_COPY_BITMAPS_H_
#define VIREO_STORAGE_IMG_COPY_BITMAPS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/img/source.h"
#include "storage/qcow2/bitmap_directory.h"

namespace vireo::img {

// Of the image's file, in its order; none for anything but QCOW2.
Task<absl::StatusOr<std::vector<qcow2::BitmapRecord>>> ListBitmaps(EventLoop& loop, Opener& opener,
                                                                   SourceOptions image);

// Adds each of `records`, which are the source's, to the target with its bits. Neither image is
// open for writing meanwhile; their disks are of one size.
Task<absl::Status> CopyBitmaps(EventLoop& loop, Opener& opener, SourceOptions source,
                               SourceOptions target, std::vector<qcow2::BitmapRecord> records);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_COPY_BITMAPS_H_
