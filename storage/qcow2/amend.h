// Changes what an image is made as: its version, the width of its refcounts, lazy refcounts. Nobody
// else has it open.

#ifndef VIREO_STORAGE_QCOW2_AMEND_H_
#define VIREO_STORAGE_QCOW2_AMEND_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"

namespace vireo::qcow2 {

// All: statuses as of OfflineImage::Open(), and FAILED_PRECONDITION, in qemu-img's words, for what
// the image does not allow; nothing has changed then.

Task<absl::Status> UpgradeToVersion3(EventLoop& loop, File& file);

// The disk's own zero clusters have no place in version 2: with a backing file the caller has
// written them out; without one they become unallocated. Bitmaps are removed.
Task<absl::Status> DowngradeToVersion2(EventLoop& loop, File& file);

Task<absl::Status> SetLazyRefcounts(EventLoop& loop, File& file, bool lazy);

// New blocks and a new table are written behind everything else; the header switches to them in one
// write.
Task<absl::Status> ChangeRefcountOrder(EventLoop& loop, File& file, uint32_t order);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_AMEND_H_
