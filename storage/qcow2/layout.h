// The numbers that follow from an image's cluster size, refcount width and entry size.

#ifndef VIREO_STORAGE_QCOW2_LAYOUT_H_
#define VIREO_STORAGE_QCOW2_LAYOUT_H_

#include <algorithm>
#include <cstdint>

namespace vireo::qcow2 {

struct Layout {
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint32_t refcount_order = 4;
  uint32_t l2_entry_bytes = 8;  // 16 with extended L2.
  bool external_data = false;   // Guest data is in another file, each cluster at its guest offset.

  uint64_t cluster_bytes() const { return uint64_t{1} << cluster_bits; }
  uint64_t offset_in_cluster(uint64_t offset) const { return offset & (cluster_bytes() - 1); }
  uint64_t cluster_start(uint64_t offset) const { return offset & ~(cluster_bytes() - 1); }
  uint64_t cluster_index(uint64_t offset) const { return offset >> cluster_bits; }
  uint64_t clusters_for(uint64_t bytes) const {
    return (bytes >> cluster_bits) + (offset_in_cluster(bytes) != 0 ? 1 : 0);
  }

  // What can be allocated, or be zeros, on its own: with extended L2 a 32nd of a cluster, otherwise
  // a cluster is its one subcluster.
  bool extended_l2() const { return l2_entry_bytes == 16; }
  uint32_t subclusters() const { return extended_l2() ? 32 : 1; }
  uint32_t subcluster_bits() const { return extended_l2() ? cluster_bits - 5 : cluster_bits; }
  uint64_t subcluster_bytes() const { return uint64_t{1} << subcluster_bits(); }
  uint32_t subcluster_index(uint64_t guest_offset) const {
    return static_cast<uint32_t>(offset_in_cluster(guest_offset) >> subcluster_bits());
  }

  // All of these are powers of two: a look-up shifts and divides nothing.
  uint32_t l2_entry_bits() const { return extended_l2() ? 4 : 3; }  // Of its bytes.
  uint32_t l2_bits() const { return cluster_bits - l2_entry_bits(); }
  uint64_t l2_entries() const { return uint64_t{1} << l2_bits(); }
  uint64_t guest_bytes_per_l2() const { return l2_entries() << cluster_bits; }
  uint64_t l1_index(uint64_t guest_offset) const {
    return cluster_index(guest_offset) >> l2_bits();
  }
  uint64_t l2_index(uint64_t guest_offset) const {
    return cluster_index(guest_offset) & (l2_entries() - 1);
  }
  uint64_t l1_entries_for(uint64_t guest_bytes) const {
    return l1_index(guest_bytes) + ((guest_bytes & (guest_bytes_per_l2() - 1)) != 0 ? 1 : 0);
  }

  uint32_t refcount_bits() const { return uint32_t{1} << refcount_order; }
  uint64_t max_refcount() const {
    return refcount_order == 6 ? ~uint64_t{0} : (uint64_t{1} << refcount_bits()) - 1;
  }
  uint64_t refcounts_per_block() const {
    return uint64_t{1} << (cluster_bits + 3 - refcount_order);
  }

  // A slice is what metadata is loaded, kept and written in: an aligned piece of one cluster.
  uint32_t slice_bits() const { return std::min<uint32_t>(cluster_bits, 12); }
  uint64_t slice_bytes() const { return uint64_t{1} << slice_bits(); }
  uint64_t l2_entries_per_slice() const { return uint64_t{1} << (slice_bits() - l2_entry_bits()); }
  uint64_t refcounts_per_slice() const {
    return uint64_t{1} << (slice_bits() + 3 - refcount_order);
  }
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_LAYOUT_H_
