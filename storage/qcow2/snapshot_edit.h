// Internal snapshots of an image that nobody else has open: made, deleted, gone back to (qcow2
// spec, "Snapshots").
//
// A crash at any moment leaves the image as it was before or as it is after, and leaked clusters at
// most: references are counted before anything points there, tables are written before the header
// switches to them in one write, and counts go down only after the last pointer is durably gone.
// COPIED flags that a crash leaves behind may disagree with counts that are too high; no two owners
// ever think that they may write one cluster in place.

#ifndef VIREO_STORAGE_QCOW2_SNAPSHOT_EDIT_H_
#define VIREO_STORAGE_QCOW2_SNAPSHOT_EDIT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"

namespace vireo::qcow2 {

struct NewSnapshot {
  std::string name;  // At most 65535 bytes. Need not be unique.
  uint32_t date_seconds = 0;
  uint32_t date_nanoseconds = 0;
};

// All three: `file` is open for writing and outlives the task. RESOURCE_EXHAUSTED when a count or a
// limit of the format would overflow or the file cannot grow; DATA_LOSS when the image contradicts
// itself; UNIMPLEMENTED with an external data file. Nothing that a guest sees has changed then, but
// for an error that comes after the switch, which leaves leaks.

// Answers the id of the new snapshot.
Task<absl::StatusOr<std::string>> CreateSnapshot(EventLoop& loop, File& file, NewSnapshot wanted);

// NOT_FOUND if there is none with this id.
Task<absl::Status> DeleteSnapshot(EventLoop& loop, File& file, std::string id);

// The disk has the content and the size of the snapshot afterwards, which stays. NOT_FOUND if there
// is none with this id; FAILED_PRECONDITION if dirty bitmaps would no longer tell the truth.
Task<absl::Status> ApplySnapshot(EventLoop& loop, File& file, std::string id);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_SNAPSHOT_EDIT_H_
