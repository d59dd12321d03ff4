// The third part of a check: the COPIED flags of the active tables say whether a cluster is counted
// once, and reserved bits are zero.

#ifndef VIREO_STORAGE_QCOW2_CHECK_FLAGS_H_
#define VIREO_STORAGE_QCOW2_CHECK_FLAGS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "base/endian.h"
#include "storage/qcow2/check_refcounts.h"
#include "storage/qcow2/check_state.h"

namespace vireo::qcow2 {

class FlagCheck {
 public:
  // Both outlive it. Counts are what they will be.
  FlagCheck(CheckState& state, RefcountComparison& refcounts, Repair repair);

  Task<absl::Status> Run();

 private:
  // Mends what of `entry`'s flag is wrong, and says so.
  void CheckFlag(const char* what, uint64_t index, uint64_t count, uint64_t* entry);
  Task<absl::Status> CheckTable(uint64_t table);
  // Found before, or now; mended.
  void CountMended(uint64_t found);

  CheckState& state_;
  RefcountComparison& refcounts_;
  const bool mend_flags_;
  const bool mend_reserved_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_FLAGS_H_
