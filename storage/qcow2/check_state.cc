#include "storage/qcow2/check_state.h"

#include <algorithm>

#include "storage/qcow2/format.h"

namespace vireo::qcow2 {

bool CheckState::AddReference(uint64_t offset, uint64_t length) {
  if (length == 0) return true;
  const uint64_t end = offset + length;
  if (offset >= kMaxHostOffset || end >= file.size() + layout.cluster_bytes()) {
    Corruption(
        "ERROR: counting reference for region exceeding the end of the file by one cluster or "
        "more: offset 0x%x size 0x%x",
        offset, length);
    return false;
  }
  const uint64_t last = layout.cluster_index(end - 1);
  for (uint64_t cluster = layout.cluster_index(offset); cluster <= last; ++cluster) {
    if (references.Get(cluster) == layout.max_refcount()) {
      Corruption("ERROR: overflow cluster offset=0x%x", cluster << layout.cluster_bits);
      Report(
          "Use vireo-img amend to increase the refcount entry width or vireo-img convert to create "
          "a clean copy if the image cannot be opened for writing");
      continue;
    }
    references.AddOne(cluster);
  }
  clusters = std::max(clusters, last + 1);
  return true;
}

bool CheckState::IsTaken(uint64_t offset) const {
  const uint64_t cluster = layout.cluster_index(offset);
  const auto holds = [&](uint64_t begin, uint64_t bytes) {
    return bytes > 0 && cluster >= layout.cluster_index(begin) &&
           cluster <= layout.cluster_index(begin + bytes - 1);
  };
  if (cluster == 0 || holds(header.l1_offset, uint64_t{header.l1_entries} * sizeof(Be64)) ||
      holds(header.refcount_table_offset,
            header.refcount_table_clusters * layout.cluster_bytes()) ||
      (header.snapshot_count > 0 && holds(header.snapshots_offset, 1))) {
    return true;
  }
  return std::find(refcount_table.begin(), refcount_table.end(), cluster << layout.cluster_bits) !=
         refcount_table.end();
}

Task<absl::Status> CheckState::ReadEntries(uint64_t offset, std::vector<Be64>& entries) {
  const iovec part = {entries.data(), entries.size() * sizeof(Be64)};
  if (entries.empty()) co_return absl::OkStatus();
  const absl::Status status = co_await file.Read(offset, IoVecs(&part, 1));
  co_return status;
}

Task<absl::Status> CheckState::Write(uint64_t offset, const void* bytes, size_t length) {
  const iovec part = {const_cast<void*>(bytes), length};
  const absl::Status status = co_await file.Write(offset, IoVecs(&part, 1));
  co_return status;
}

}  // namespace vireo::qcow2
