// Makes an overlay show nothing but its backing file again, once that holds all that it held.

#ifndef VIREO_STORAGE_QCOW2_IMAGE_EMPTY_H_
#define VIREO_STORAGE_QCOW2_IMAGE_EMPTY_H_

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"

namespace vireo::qcow2 {

// Nobody else has `file` open. Every cluster of the disk becomes unallocated, its space is given
// back; snapshots and bitmaps stay. A crash leaves some of the clusters where they were, and leaks.
Task<absl::Status> EmptyImage(EventLoop& loop, File& file);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_IMAGE_EMPTY_H_
