// Space for compressed clusters, one after the other without gaps.
//
//   | stream | stream | str|eam | stream |      |      a run of host clusters
//                     cluster's end    next      end
//
// Each stream counts as one reference to every host cluster that it touches. The cluster that the
// next stream will begin in carries one more, of ours: were all its streams overwritten, it would
// be given to somebody else while we still write to it. One loop.

#ifndef VIREO_STORAGE_QCOW2_PACKED_SPACE_H_
#define VIREO_STORAGE_QCOW2_PACKED_SPACE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/async/async_mutex.h"
#include "base/async/task.h"
#include "storage/qcow2/layout.h"
#include "storage/qcow2/refcounts.h"

namespace vireo::qcow2 {

class PackedSpace {
 public:
  // `refcounts` outlives the object.
  PackedSpace(const Layout& layout, Refcounts& refcounts)
      : layout_(layout), refcounts_(refcounts) {}

  // A place for `bytes`, less than a cluster. Its references are counted in memory: the caller sees
  // to a barrier before what points there is written. Errors as Refcounts::AllocateData().
  Task<absl::StatusOr<uint64_t>> Allocate(uint64_t bytes);

  // Gives back what no stream has got. Before the last commit.
  void Release();

 private:
  // Clusters [next_, end_) are ours, the first one perhaps in part.
  Task<absl::Status> MakeRoom(uint64_t bytes);
  void LeaveCluster();

  const Layout layout_;
  Refcounts& refcounts_;
  AsyncMutex mutex_;
  uint64_t next_ = 0;  // Host offsets.
  uint64_t end_ = 0;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_PACKED_SPACE_H_
