// What one L2 entry means, as a value (qcow2 spec, "Cluster mapping"). Entries are decoded and
// encoded here and nowhere else.
//
// With extended L2 a cluster has 32 subclusters that are allocated, or are zeros, each on its own;
// without, a cluster is its one subcluster, and the code above this file sees no difference.

#ifndef VIREO_STORAGE_QCOW2_CLUSTER_MAPPING_H_
#define VIREO_STORAGE_QCOW2_CLUSTER_MAPPING_H_

#include <cstdint>
#include <optional>
#include <variant>

#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

// Nothing here: the backing file answers, or zeros.
struct Unallocated {
  // Of host bytes that are set aside for the cluster, of which other subclusters mean something.
  std::optional<uint64_t> host_offset;
  friend bool operator==(const Unallocated&, const Unallocated&) = default;
};

// Reads as zeros.
struct Zero {
  std::optional<uint64_t> host_offset;  // Of host bytes that are set aside and mean nothing.
  friend bool operator==(const Zero&, const Zero&) = default;
};

struct Allocated {
  uint64_t host_offset = 0;
  bool copied = false;  // Its refcount is one: it may be written in place.
  friend bool operator==(const Allocated&, const Allocated&) = default;
};

struct Compressed {
  uint64_t host_offset = 0;  // Of any alignment.
  uint32_t bytes = 0;        // Upper bound of the stream's length.
  friend bool operator==(const Compressed&, const Compressed&) = default;
};

// No entry of a sound image. `reason` is a literal.
struct Invalid {
  const char* reason = "";
  friend bool operator==(const Invalid&, const Invalid&) = default;
};

using ClusterMapping = std::variant<Unallocated, Zero, Allocated, Compressed, Invalid>;

// One L2 entry: a guest cluster.
struct ClusterEntry {
  enum class Kind : uint8_t { kStandard, kCompressed, kInvalid };

  Kind kind = Kind::kStandard;
  // A host cluster is set aside, whose bytes mean something where a subcluster is allocated.
  bool has_host = false;
  bool copied = false;  // Its refcount is one.
  uint64_t host_offset = 0;
  // By subcluster, the first in bit 0; never both. A subcluster without a bit is unallocated.
  uint32_t allocated = 0;
  uint32_t zero = 0;
  uint32_t compressed_bytes = 0;  // Of kCompressed, which has no subclusters.
  const char* reason = nullptr;   // Of kInvalid; a literal.

  // Can be filled in place: nobody else refers to the host cluster.
  bool owned() const { return has_host && copied; }

  friend bool operator==(const ClusterEntry&, const ClusterEntry&) = default;
};

// An entry as it stands in a table, in host byte order.
struct RawClusterEntry {
  uint64_t descriptor = 0;
  uint64_t bitmap = 0;  // Only with extended L2.
  friend bool operator==(const RawClusterEntry&, const RawClusterEntry&) = default;
};

// Reserved bits are masked.
ClusterEntry DecodeEntry(const Layout& layout, RawClusterEntry raw);
// `entry` is not invalid.
RawClusterEntry EncodeEntry(const Layout& layout, const ClusterEntry& entry);

// Where all compressed clusters must end.
uint64_t MaxCompressedOffset(const Layout& layout);

// The bits of subclusters [first, end).
uint32_t SubclusterMask(uint32_t first, uint32_t end);

// What one subcluster of `entry` is. Offsets are those of the host cluster.
ClusterMapping MappingOf(const ClusterEntry& entry, uint32_t subcluster);
// How many subclusters from that one on are of the same kind; at least one.
uint32_t EqualSubclusters(const Layout& layout, const ClusterEntry& entry, uint32_t subcluster);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CLUSTER_MAPPING_H_
