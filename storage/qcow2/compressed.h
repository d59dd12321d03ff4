// Compressed clusters: raw deflate (as zlib calls a stream without header) or zstd (qcow2
// spec, "Compressed Clusters Descriptor"). A cluster is inflated whole, off the loop, at most to
// one cluster of bytes whatever the stream says.

#ifndef VIREO_STORAGE_QCOW2_COMPRESSED_H_
#define VIREO_STORAGE_QCOW2_COMPRESSED_H_

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_event.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

enum class Compression : uint8_t { kDeflate = 0, kZstd = 1 };

// Fills all of `dst` from the start of `stream`, whose tail may belong to another. DATA_LOSS if the
// stream is damaged or ends early. Any thread.
absl::Status Decompress(Compression compression, std::span<const uint8_t> stream,
                        std::span<uint8_t> dst);

// Compressed clusters by host offset, with a few inflated ones kept. One loop.
class CompressedClusters {
 public:
  // Shared by the cache and by readers that still copy from it after it was evicted.
  using Cluster = std::shared_ptr<const std::vector<uint8_t>>;

  // `loop` and `file` outlive the object.
  CompressedClusters(EventLoop& loop, File& file, const Layout& layout, Compression compression);
  ~CompressedClusters();

  // The cluster's bytes. Several who ask for one cluster at once share the work.
  Task<absl::StatusOr<Cluster>> Get(Compressed mapping);
  // Another stream is at `host_offset` now.
  void Forget(uint64_t host_offset);

 private:
  struct Entry {
    uint64_t host_offset = 0;
    Cluster bytes;  // Null while it is being inflated.
    absl::Status status;
    AsyncEvent ended;
  };

  Task<absl::StatusOr<Cluster>> Inflate(Compressed mapping);

  EventLoop& loop_;
  File& file_;
  const Layout layout_;
  const Compression compression_;
  const size_t limit_;
  std::list<std::shared_ptr<Entry>> recent_;  // Newest first. Waiters share the entries.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_COMPRESSED_H_
