// An image that nobody else has open, for work on its metadata as a whole: header, refcounts, and
// the tables that nothing may be written over.
//
// On one loop. What is written goes to the file at once; Sync() puts flushes between.

#ifndef VIREO_STORAGE_QCOW2_OFFLINE_IMAGE_H_
#define VIREO_STORAGE_QCOW2_OFFLINE_IMAGE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/endian.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/offline_refcounts.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {

class OfflineImage {
 public:
  // Reads header, snapshot table and refcount table. An image that was not closed cleanly is
  // repaired first; autoclear bits that we do not know are cleared (qcow2 spec,
  // "autoclear_features"). Both outlive the object. DATA_LOSS if the image contradicts itself.
  static Task<absl::StatusOr<std::unique_ptr<OfflineImage>>> Open(EventLoop& loop, File& file);

  Header& header() { return header_; }
  const Layout& layout() const { return header_.layout; }
  File& file() { return file_; }
  EventLoop& loop() { return loop_; }
  OfflineRefcounts& counts() { return counts_; }
  SnapshotTable& snapshots() { return snapshots_; }
  // Clusters of the header, the refcount structures, the L1 tables and the snapshot table: sorted.
  const std::vector<ClusterRun>& metadata() const { return metadata_; }
  bool IsMetadata(uint64_t host_offset) const;
  // The same of these and of the L2 tables of the disk, and of the directory and tables of its
  // bitmaps: what counts() protects.
  bool IsProtected(uint64_t host_offset) const {
    return counts_.IsProtected(layout().cluster_index(host_offset));
  }

  // --- Trees: an L1 table, its L2 tables and what they refer to ---

  // With an external data file guest data is not counted (qcow2 spec, "External data files").
  //
  // One reference more to each L2 table of `l1` and to each cluster that one refers to. Statuses as
  // of OfflineRefcounts::Raise(); nothing is written unless memory is short.
  Task<absl::Status> RaiseTree(std::span<const Be64> l1);
  // One reference less. What cannot be right is left out: it leaks. The first error, if any, is
  // answered when all else is done.
  Task<absl::Status> LowerTree(std::span<const Be64> l1);
  // Makes the COPIED flags of `l1` and of its L2 tables say what the counts say. L2 tables are
  // written where they stand; `l1` is changed in memory.
  Task<absl::Status> RefreshCopied(std::span<Be64> l1);

  // --- Writing ---

  // `bytes` to whole clusters at `host_offset`, the rest of the last one zeros.
  Task<absl::Status> WriteTable(uint64_t host_offset, std::vector<uint8_t> bytes);
  Task<absl::Status> WriteBytes(uint64_t offset, std::span<const uint8_t> bytes);
  Task<absl::Status> Sync() { return file_.Sync(); }
  // The three feature words of header(), durably.
  Task<absl::Status> WriteFeatures();
  // Gives up refcount blocks that are of no use any more, cuts the file behind the last cluster
  // that is counted, where it can be cut, and flushes.
  Task<absl::Status> CutFile();

  uint64_t ClustersOfL1(uint64_t entries) const {
    return layout().clusters_for(entries * sizeof(Be64));
  }

 private:
  OfflineImage(EventLoop& loop, File& file, Header header)
      : loop_(loop), file_(file), header_(std::move(header)), counts_(loop, file, header_) {}
  Task<absl::Status> Load();
  Task<absl::Status> ProtectMetadata();
  Task<absl::Status> ChangeTables(std::span<const uint64_t> tables, bool raise);

  EventLoop& loop_;
  File& file_;
  Header header_;
  OfflineRefcounts counts_;
  SnapshotTable snapshots_;
  std::vector<ClusterRun> metadata_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_OFFLINE_IMAGE_H_
