#include "storage/qcow2/metadata_set.h"

#include <algorithm>

namespace vireo::qcow2 {

bool MetadataSet::InRange(uint64_t cluster) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [cluster](const Range& range) {
    return cluster >= range.begin && cluster < range.end;
  });
}

bool MetadataSet::Add(MetadataKind kind, uint64_t host_offset) {
  const uint64_t cluster = layout_.cluster_index(host_offset);
  if (InRange(cluster)) return false;
  const auto [entry, inserted] = clusters_.try_emplace(cluster, kind);
  groups_[cluster / 64] |= uint64_t{1} << (cluster % 64);
  return inserted || entry->second == kind;
}

bool MetadataSet::AddRange(MetadataKind kind, uint64_t host_offset, uint64_t length) {
  const uint64_t begin = layout_.cluster_index(host_offset);
  const uint64_t end =
      begin + layout_.clusters_for(layout_.offset_in_cluster(host_offset) + length);
  for (const Range& range : ranges_) {
    if (begin < range.end && range.begin < end) return false;
  }
  for (const auto& [cluster, other] : clusters_) {
    if (cluster >= begin && cluster < end) return false;
  }
  ranges_.push_back({kind, begin, end});
  return true;
}

void MetadataSet::Remove(uint64_t host_offset) {
  const uint64_t cluster = layout_.cluster_index(host_offset);
  if (clusters_.erase(cluster) == 0) return;
  const auto group = groups_.find(cluster / 64);
  group->second &= ~(uint64_t{1} << (cluster % 64));
  if (group->second == 0) groups_.erase(group);
}

void MetadataSet::RemoveRange(uint64_t host_offset) {
  const uint64_t begin = layout_.cluster_index(host_offset);
  std::erase_if(ranges_, [begin](const Range& range) { return range.begin == begin; });
}

bool MetadataSet::Contains(uint64_t host_offset) const {
  const uint64_t cluster = layout_.cluster_index(host_offset);
  return InRange(cluster) || clusters_.contains(cluster);
}

bool MetadataSet::Overlaps(uint64_t host_offset, uint64_t length) const {
  if (length == 0) return false;
  const uint64_t first = layout_.cluster_index(host_offset);
  const uint64_t last = layout_.cluster_index(host_offset + length - 1);
  for (const Range& range : ranges_) {
    if (first < range.end && last >= range.begin) return true;
  }
  for (uint64_t group = first / 64; group <= last / 64; ++group) {
    const auto found = groups_.find(group);
    if (found == groups_.end()) continue;
    uint64_t wanted = ~uint64_t{0};
    if (group == first / 64) wanted &= ~uint64_t{0} << (first % 64);
    if (group == last / 64) wanted &= ~uint64_t{0} >> (63 - last % 64);
    if ((found->second & wanted) != 0) return true;
  }
  return false;
}

bool MetadataSet::Is(MetadataKind kind, uint64_t host_offset) const {
  const uint64_t cluster = layout_.cluster_index(host_offset);
  const auto entry = clusters_.find(cluster);
  if (entry != clusters_.end()) return entry->second == kind;
  return std::any_of(ranges_.begin(), ranges_.end(), [kind, cluster](const Range& range) {
    return range.kind == kind && cluster >= range.begin && cluster < range.end;
  });
}

}  // namespace vireo::qcow2
