// Fills a new image with compressed clusters, in the order of the disk.
//
// Nobody else knows the image yet, so nothing needs an order on disk: data goes out in large
// writes, an L2 table when the disk has passed it, counts and the L1 table at the end. Until
// Finish() the file is no sound image.
//
// Streams stand one behind the other, across the borders of host clusters. A cluster that is stored
// as it is takes a host cluster of its own; streams go on in the one that they had begun.
//
// One loop, one caller at a time.

#ifndef VIREO_STORAGE_QCOW2_PACKED_WRITER_H_
#define VIREO_STORAGE_QCOW2_PACKED_WRITER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/async/task_scope.h"
#include "storage/buffer_pool.h"
#include "storage/file.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

class PackedWriter {
 public:
  // `file` holds an image just made by CreateImage(). Both outlive the writer. UNIMPLEMENTED for
  // an image with a data file or encryption.
  static Task<absl::StatusOr<std::unique_ptr<PackedWriter>>> Open(EventLoop& loop, File& file);

  const Header& header() const { return header_; }

  // One guest cluster, behind all those before: a stream, or the cluster's own bytes if `stream` is
  // empty. The bytes are copied.
  Task<absl::Status> Add(uint64_t guest_offset, std::span<const uint8_t> stream,
                         std::span<const uint8_t> cluster);
  // One guest cluster that reads as zeros, whatever the backing file holds. Version 3.
  Task<absl::Status> AddZeros(uint64_t guest_offset);
  // The image is whole, and durable unless the file makes nothing so.
  Task<absl::Status> Finish();
  // Waits for what is in flight, when Finish() will not be called.
  Task<void> Abandon();

 private:
  // Neighbouring host clusters on their way to the file.
  struct Run {
    uint64_t host_offset = 0;
    uint64_t bytes = 0;
    AlignedBytes content;
  };

  PackedWriter(EventLoop& loop, File& file, Header header);

  Task<absl::Status> Enter(uint64_t guest_offset);
  void SetEntry(uint64_t guest_offset, const ClusterEntry& entry);
  Task<absl::Status> WriteTable();
  // Sends out one whole cluster.
  Task<absl::Status> Put(uint64_t host_offset, std::span<const uint8_t> cluster);
  Task<absl::Status> SendRun();
  Task<void> WriteRun(Run run);
  Task<absl::Status> ClosePack();
  void Count(uint64_t host_offset, uint64_t bytes);
  uint64_t CountOf(uint64_t cluster) const { return counts_[cluster]; }
  uint64_t TakeCluster();
  Task<absl::Status> WriteCounts();

  EventLoop& loop_;
  File& file_;
  Header header_;
  const Layout layout_;

  std::vector<uint32_t> counts_;  // Of each host cluster so far.
  std::vector<uint64_t> l1_;
  std::optional<uint64_t> table_index_;  // In the L1 table, of the table being filled.
  std::vector<uint8_t> table_;
  bool table_used_ = false;

  std::optional<uint64_t> pack_offset_;  // The host cluster that streams go to.
  uint64_t pack_used_ = 0;
  std::vector<uint8_t> pack_;

  Run run_;
  std::vector<AlignedBytes> spare_;
  size_t in_flight_ = 0;
  AsyncEvent landed_;
  absl::Status status_;
  TaskScope writes_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_PACKED_WRITER_H_
