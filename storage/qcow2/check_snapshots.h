// The part of a check that looks at the table of internal snapshots. Private to check.cc.

#ifndef VIREO_STORAGE_QCOW2_CHECK_SNAPSHOTS_H_
#define VIREO_STORAGE_QCOW2_CHECK_SNAPSHOTS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/check_state.h"

namespace vireo::qcow2 {

class SnapshotCheck {
 public:
  // `state` outlives it.
  SnapshotCheck(CheckState& state, Repair repair) : state_(state), mend_(repair == Repair::kAll) {}

  // Reads the table into the state, before references are counted. Where all is mended, snapshots
  // beyond the limits of the format are taken out of the header, durably: what they refer to leaks
  // until counts are compared. Otherwise they are an error, since nothing can be said of them.
  Task<absl::Status> Read();

  // When all else is right: writes the table anew if some of its records are not as they should be.
  Task<absl::Status> Mend();

  // Adds what was found and not mended to the result. Last.
  void CountFound() { state_.result.corruptions += found_; }

 private:
  Task<absl::Status> DropFromHeader(uint32_t dropped, uint32_t kept);
  Task<absl::Status> Rewrite();

  CheckState& state_;
  const bool mend_;
  uint64_t found_ = 0;  // Records that are not as they should be.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_SNAPSHOTS_H_
