// What a change of size needs that an open disk cannot do: shrinking, and giving new space host
// clusters ahead of use. Nobody else has the image open.

#ifndef VIREO_STORAGE_QCOW2_OFFLINE_RESIZE_H_
#define VIREO_STORAGE_QCOW2_OFFLINE_RESIZE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/preallocation.h"

namespace vireo::qcow2 {

// Cuts the disk at `size_bytes`, a multiple of 512: what lies behind is gone, and its space given
// back. The caller has zeroed what the last L2 table in use maps behind the new end. A crash leaves
// the old size, without some of what was to go, or the new one. `data` is the external data file,
// which is cut too, or null. UNIMPLEMENTED for a version 2 image with snapshots;
// FAILED_PRECONDITION if a bitmap is inconsistent.
Task<absl::Status> ShrinkImage(EventLoop& loop, File& file, File* data, uint64_t size_bytes);

// Gives every cluster of [begin, end) that is not stored a host cluster of its own, which reads as
// zeros; `begin` is the start of a cluster. The range reads as zeros before. `mode` is not kOff.
// `data` is the external data file, or null. UNIMPLEMENTED for an encrypted image, whose zeros have
// to be written.
Task<absl::Status> PreallocateRange(EventLoop& loop, File& file, File* data, uint64_t begin,
                                    uint64_t end, Preallocation mode);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_OFFLINE_RESIZE_H_
