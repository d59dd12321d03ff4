// The flush between two metadata writes whose order matters.
//
// After a failed flush nobody knows which of the bytes written before it are there, and the host
// may have dropped them: order can no longer be kept, so every later flush fails as well.

#ifndef VIREO_STORAGE_QCOW2_BARRIER_H_
#define VIREO_STORAGE_QCOW2_BARRIER_H_

#include "absl/status/status.h"
#include "base/async/task.h"
#include "base/status.h"
#include "storage/file.h"

namespace vireo::qcow2 {

class Barrier {
 public:
  // `file` holds the metadata, `data` the guest's data; both outlive the barrier. They may be one
  // file, or lead to one.
  Barrier(File& file, File& data)
      : file_(file), data_(data), apart_(file.identity() != data.identity()) {}

  // Not OK once a flush has failed.
  const absl::Status& status() const { return status_; }
  // For a failure as bad as that of a flush: what the file now says is not known. The first one
  // stays.
  void Fail(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }

  Task<absl::Status> Sync() {
    if (!status_.ok()) co_return status_;
    if (apart_) {
      const absl::Status data_synced = co_await data_.Sync();
      if (!data_synced.ok()) Fail(data_synced);
      CO_RETURN_IF_ERROR(data_synced);
    }
    const absl::Status synced = co_await file_.Sync();
    if (!synced.ok()) Fail(synced);
    co_return synced;
  }

 private:
  File& file_;
  File& data_;
  const bool apart_;
  absl::Status status_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_BARRIER_H_
