// What one L2 entry means, as a value (qcow2 spec, "Cluster mapping"). Entries are decoded and
// encoded here and nowhere else.

#ifndef VIREO_STORAGE_QCOW2_CLUSTER_MAPPING_H_
#define VIREO_STORAGE_QCOW2_CLUSTER_MAPPING_H_

#include <cstdint>
#include <variant>

#include "storage/qcow2/layout.h"

namespace vireo::qcow2 {

// Nothing here: the backing file answers, or zeros.
struct Unallocated {
  friend bool operator==(const Unallocated&, const Unallocated&) = default;
};

// Reads as zeros. A host cluster may stay reserved behind it, whose bytes mean nothing.
struct Zero {
  uint64_t host_offset = 0;  // 0 = none.
  bool copied = false;       // The reserved cluster's refcount is one.
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

// `entry` is in host byte order. Reserved bits are masked.
ClusterMapping DecodeMapping(const Layout& layout, uint64_t entry);

// `mapping` is not Invalid.
uint64_t EncodeMapping(const Layout& layout, const ClusterMapping& mapping);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_CLUSTER_MAPPING_H_
