// Which host clusters hold metadata: no guest data may ever be read from or written to them.
//
// Built at open from the tables held in memory and kept up as tables come and go (qcow2 spec, "Host
// cluster management").

#ifndef VIREO_STORAGE_QCOW2_METADATA_SET_H_
#define VIREO_STORAGE_QCOW2_METADATA_SET_H_

#include <cstdint>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

enum class MetadataKind : uint8_t {
  kHeader,
  kL1Table,
  kL2Table,
  kRefcountTable,
  kRefcountBlock,
  kSnapshots,  // The table and the snapshots' L1 tables.
  kBitmaps,
  kEncryption,  // The LUKS header and its key material.
};

class MetadataSet {
 public:
  explicit MetadataSet(const Layout& layout) : layout_(layout) {
    AddRange(MetadataKind::kHeader, 0, 1);
  }

  // One cluster; false if it is taken by another kind already. For the kinds of many clusters.
  bool Add(MetadataKind kind, uint64_t host_offset);
  // `length` bytes; false on overlap with another kind. For the few contiguous tables.
  bool AddRange(MetadataKind kind, uint64_t host_offset, uint64_t length);
  void Remove(uint64_t host_offset);
  void RemoveRange(uint64_t host_offset);

  // Whether the cluster at `host_offset` holds metadata.
  bool Contains(uint64_t host_offset) const;
  // Whether any cluster of [host_offset, host_offset + length) does.
  bool Overlaps(uint64_t host_offset, uint64_t length) const;
  // Whether the cluster at `host_offset` holds metadata of just this kind.
  bool Is(MetadataKind kind, uint64_t host_offset) const;

 private:
  struct Range {
    MetadataKind kind;
    uint64_t end;  // Clusters.
  };

  // The range that has one of the clusters [begin, end), or null.
  const Range* FindRange(uint64_t begin, uint64_t end) const;

  const Layout layout_;
  std::map<uint64_t, Range> ranges_;  // By their first cluster; none overlaps another.
  absl::flat_hash_map<uint64_t, MetadataKind> clusters_;
  // The same clusters by groups of 64, a bit for each, so that long ranges are quickly compared.
  absl::flat_hash_map<uint64_t, uint64_t> groups_;
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_METADATA_SET_H_
