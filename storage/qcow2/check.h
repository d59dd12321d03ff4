// Checks an image that nobody else has open, and repairs its refcounts.
//
// Every reference is counted by walking header, L1 and L2 tables, snapshots and bitmaps, and
// compared with what the refcount blocks say. Stored > counted is a leak: wasted space. Stored <
// counted, and a pointer that cannot be right, is a corruption.

#ifndef VIREO_STORAGE_QCOW2_CHECK_H_
#define VIREO_STORAGE_QCOW2_CHECK_H_

#include <cstdint>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

enum class Repair {
  kNone,
  kLeaks,  // Lowers counts only; mends flags if that makes everything right.
  kAll,    // Also raises them, mends flags and what cannot mean anything but zeros, and rebuilds
           // refcount structures that cannot be right.
};

struct CheckResult {
  uint64_t leaks = 0;  // Found and not fixed.
  uint64_t corruptions = 0;
  uint64_t check_errors = 0;  // Places that could not be read.
  absl::Status stopped;       // Not OK: why the check could not go on; an error of it, too.
  uint64_t leaks_fixed = 0;
  uint64_t corruptions_fixed = 0;

  uint64_t image_end_offset = 0;
  uint64_t total_clusters = 0;  // Of the disk.
  uint64_t allocated_clusters = 0;
  uint64_t fragmented_clusters = 0;
  uint64_t compressed_clusters = 0;

  bool clean() const { return leaks == 0 && corruptions == 0 && check_errors == 0; }
};

// Hears of each finding, one line in qemu-img's words.
using CheckReport = absl::AnyInvocable<void(const std::string&)>;

// Not OK when the image cannot be checked at all (no header, a feature that is beyond us). `file`
// and `report`, which may be null, outlive the task.
Task<absl::StatusOr<CheckResult>> CheckImage(File& file, Repair repair,
                                             CheckReport* report = nullptr);

// For whoever is about to write: repairs an image that was not closed cleanly, and answers its
// header as it is then. DATA_LOSS if it cannot be repaired, or not without giving up snapshots,
// which is done on request alone.
Task<absl::StatusOr<Header>> RepairIfDirty(File& file, Header header);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_H_
