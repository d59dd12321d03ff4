// What the parts of a check share: the image, what is known of it so far, and whom to tell. Private
// to check.cc and its neighbours check_*.cc.

#ifndef VIREO_STORAGE_QCOW2_CHECK_STATE_H_
#define VIREO_STORAGE_QCOW2_CHECK_STATE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/async/task.h"
#include "base/endian.h"
#include "storage/file.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/reference_counts.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {

class CheckState {
 public:
  // `file` and `report`, which may be null, outlive it.
  CheckState(File& file, Header header, CheckReport* report)
      : file(file),
        header(std::move(header)),
        layout(this->header.layout),
        clusters(layout.clusters_for(file.size())),
        report_(report) {}

  template <typename... Args>
  void Report(const absl::FormatSpec<Args...>& format, const Args&... args) {
    if (report_ != nullptr) (*report_)(absl::StrFormat(format, args...));
  }
  template <typename... Args>
  void Corruption(const absl::FormatSpec<Args...>& format, const Args&... args) {
    ++result.corruptions;
    Report(format, args...);
  }
  // The check cannot go on; the answer says so.
  template <typename... Args>
  absl::Status Stop(const absl::Status& why, const absl::FormatSpec<Args...>& format,
                    const Args&... args) {
    ++result.check_errors;
    Report(format, args...);
    return why;
  }

  // One reference to each cluster that [offset, offset + length) touches. False, as a corruption,
  // if that lies outside of the file; its last cluster may be a part of one.
  bool AddReference(uint64_t offset, uint64_t length);
  // Whether a table that is written at `offset` would destroy another structure.
  bool IsTaken(uint64_t offset) const;

  Task<absl::Status> ReadEntries(uint64_t offset, std::vector<Be64>& entries);
  Task<absl::Status> Write(uint64_t offset, const void* bytes, size_t length);

  File& file;
  Header header;
  const Layout layout;
  CheckResult result;
  SnapshotTable snapshot_table;
  ReferenceCounts references;
  uint64_t clusters;                     // Of the file, or behind its end where one is counted.
  std::vector<uint64_t> refcount_table;  // Blocks by region; 0 = none, or none that can be used.
  std::vector<bool> unreadable;          // Regions whose entry points to no block.
  bool must_rebuild = false;             // Counts cannot be mended where they are.
  // All active L2 entries are data with the COPIED flag, or empty.
  bool plain = true;

 private:
  CheckReport* const report_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CHECK_STATE_H_
