#include "storage/qcow2/cluster_mapping.h"

#include "base/check.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

// qcow2 spec, "Compressed Clusters Descriptor": the offset takes the bits below this one.
uint32_t CompressedOffsetBits(const Layout& layout) { return 70 - layout.cluster_bits; }

ClusterMapping DecodeCompressed(const Layout& layout, uint64_t entry) {
  if ((entry & kEntryCopied) != 0) return Invalid{"a compressed cluster with the COPIED flag"};
  const uint32_t offset_bits = CompressedOffsetBits(layout);
  const uint64_t host_offset = entry & ((uint64_t{1} << offset_bits) - 1);
  const uint64_t sectors =
      (entry >> offset_bits & ((uint64_t{1} << (layout.cluster_bits - 8)) - 1)) + 1;
  if (host_offset >= kMaxHostOffset) return Invalid{"a compressed cluster beyond 2^56"};
  if (host_offset < layout.cluster_bytes()) {
    return Invalid{"a compressed cluster inside the header"};
  }
  return Compressed{.host_offset = host_offset,
                    .bytes = static_cast<uint32_t>(sectors * 512 - host_offset % 512)};
}

}  // namespace

ClusterMapping DecodeMapping(const Layout& layout, uint64_t entry) {
  if ((entry & kEntryCompressed) != 0) return DecodeCompressed(layout, entry);
  const uint64_t host_offset = entry & kEntryOffsetMask;
  const bool copied = (entry & kEntryCopied) != 0;
  if (layout.offset_in_cluster(host_offset) != 0) {
    return Invalid{"a host offset that is not at a cluster's start"};
  }
  if ((entry & kEntryZero) != 0) {
    if (layout.version < 3) return Invalid{"a zero cluster in a version 2 image"};
    return Zero{.host_offset = host_offset, .copied = copied && host_offset != 0};
  }
  if (host_offset == 0) return Unallocated{};
  return Allocated{.host_offset = host_offset, .copied = copied};
}

uint64_t EncodeMapping(const Layout& layout, const ClusterMapping& mapping) {
  if (std::holds_alternative<Unallocated>(mapping)) return 0;
  if (const auto* zero = std::get_if<Zero>(&mapping)) {
    return zero->host_offset | kEntryZero | (zero->copied ? kEntryCopied : 0);
  }
  if (const auto* allocated = std::get_if<Allocated>(&mapping)) {
    return allocated->host_offset | (allocated->copied ? kEntryCopied : 0);
  }
  const auto* compressed = std::get_if<Compressed>(&mapping);
  VIREO_CHECK(compressed != nullptr, "an invalid mapping is never written");
  const uint64_t end = compressed->host_offset + compressed->bytes;
  const uint64_t sectors = (end - 1) / 512 - compressed->host_offset / 512;
  return kEntryCompressed | sectors << CompressedOffsetBits(layout) | compressed->host_offset;
}

}  // namespace vireo::qcow2
