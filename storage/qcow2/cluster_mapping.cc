#include "storage/qcow2/cluster_mapping.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/endian.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

ClusterEntry InvalidEntry(const char* reason) {
  return {.kind = ClusterEntry::Kind::kInvalid, .reason = reason};
}

// qcow2 spec, "Compressed Clusters Descriptor": the offset takes the bits below this one.
uint32_t CompressedOffsetBits(const Layout& layout) { return 70 - layout.cluster_bits; }

ClusterEntry DecodeCompressed(const Layout& layout, uint64_t descriptor) {
  if (layout.external_data) return InvalidEntry("a compressed cluster beside a data file");
  if ((descriptor & kEntryCopied) != 0) {
    return InvalidEntry("a compressed cluster with the COPIED flag");
  }
  const uint32_t offset_bits = CompressedOffsetBits(layout);
  const uint64_t host_offset = descriptor & ((uint64_t{1} << offset_bits) - 1);
  const uint64_t sectors =
      (descriptor >> offset_bits & ((uint64_t{1} << (layout.cluster_bits - 8)) - 1)) + 1;
  if (host_offset >= kMaxHostOffset) return InvalidEntry("a compressed cluster beyond 2^56");
  if (host_offset < layout.cluster_bytes()) {
    return InvalidEntry("a compressed cluster inside the header");
  }
  return {.kind = ClusterEntry::Kind::kCompressed,
          .host_offset = host_offset,
          .compressed_bytes = static_cast<uint32_t>(sectors * 512 - host_offset % 512)};
}

}  // namespace

ClusterEntry DecodeEntry(const Layout& layout, RawClusterEntry raw) {
  if ((raw.descriptor & kEntryCompressed) != 0) return DecodeCompressed(layout, raw.descriptor);
  ClusterEntry entry;
  entry.host_offset = raw.descriptor & kEntryOffsetMask;
  entry.copied = (raw.descriptor & kEntryCopied) != 0;
  // qcow2 spec, "Standard Cluster Descriptor": in a data file even offset 0 can hold a cluster,
  // which the COPIED flag tells.
  entry.has_host = entry.host_offset != 0 || (layout.external_data && entry.copied);
  entry.copied = entry.copied && entry.has_host;
  if (layout.offset_in_cluster(entry.host_offset) != 0) {
    return InvalidEntry("a host offset that is not at a cluster's start");
  }
  if (layout.extended_l2()) {
    entry.allocated = static_cast<uint32_t>(raw.bitmap);
    entry.zero = static_cast<uint32_t>(raw.bitmap >> 32);
    if ((entry.allocated & entry.zero) != 0) {
      return InvalidEntry("a subcluster that is allocated and zero at once");
    }
    if (!entry.has_host && entry.allocated != 0) {
      return InvalidEntry("an allocated subcluster without a host cluster");
    }
    return entry;
  }
  if ((raw.descriptor & kEntryZero) != 0) {
    if (layout.version < 3) return InvalidEntry("a zero cluster in a version 2 image");
    entry.zero = 1;
  } else if (entry.has_host) {
    entry.allocated = 1;
  }
  return entry;
}

RawClusterEntry EncodeEntry(const Layout& layout, const ClusterEntry& entry) {
  VIREO_CHECK(entry.kind != ClusterEntry::Kind::kInvalid, "an invalid entry is never written");
  if (entry.kind == ClusterEntry::Kind::kCompressed) {
    const uint64_t end = entry.host_offset + entry.compressed_bytes;
    const uint64_t sectors = (end - 1) / 512 - entry.host_offset / 512;
    return {kEntryCompressed | sectors << CompressedOffsetBits(layout) | entry.host_offset, 0};
  }
  RawClusterEntry raw;
  if (entry.has_host) raw.descriptor = entry.host_offset | (entry.copied ? kEntryCopied : 0);
  if (layout.extended_l2()) {
    raw.bitmap = uint64_t{entry.zero} << 32 | entry.allocated;
  } else if (entry.zero != 0) {
    raw.descriptor |= kEntryZero;
  }
  return raw;
}

uint64_t MaxCompressedOffset(const Layout& layout) {
  return std::min(kMaxHostOffset, uint64_t{1} << CompressedOffsetBits(layout));
}

uint32_t SubclusterMask(uint32_t first, uint32_t end) {
  return static_cast<uint32_t>(((uint64_t{1} << end) - 1) & ~((uint64_t{1} << first) - 1));
}

ClusterMapping MappingOf(const ClusterEntry& entry, uint32_t subcluster) {
  if (entry.kind == ClusterEntry::Kind::kInvalid) return Invalid{entry.reason};
  if (entry.kind == ClusterEntry::Kind::kCompressed) {
    return Compressed{.host_offset = entry.host_offset, .bytes = entry.compressed_bytes};
  }
  if ((entry.allocated >> subcluster & 1) == 0) {
    std::optional<uint64_t> aside;
    if (entry.has_host) aside = entry.host_offset;
    if ((entry.zero >> subcluster & 1) != 0) return Zero{.host_offset = aside};
    return Unallocated{.host_offset = aside};
  }
  return Allocated{.host_offset = entry.host_offset, .copied = entry.copied};
}

uint32_t EqualSubclusters(const Layout& layout, const ClusterEntry& entry, uint32_t subcluster) {
  const uint32_t rest = layout.subclusters() - subcluster;
  if (entry.kind != ClusterEntry::Kind::kStandard) return rest;
  uint32_t equal = ~(entry.allocated | entry.zero);
  if ((entry.zero >> subcluster & 1) != 0) equal = entry.zero;
  if ((entry.allocated >> subcluster & 1) != 0) equal = entry.allocated;
  return std::min<uint32_t>(rest, static_cast<uint32_t>(std::countr_one(equal >> subcluster)));
}

}  // namespace vireo::qcow2
