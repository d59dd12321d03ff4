#include "storage/qcow2/metadata_set.h"

namespace vireo::qcow2 {

const MetadataSet::Range* MetadataSet::FindRange(uint64_t begin, uint64_t end) const {
  auto next = ranges_.lower_bound(end);
  if (next == ranges_.begin()) return nullptr;
  const Range& last = (--next)->second;  // Of those that begin before `end`.
  return last.end > begin ? &last : nullptr;
}

bool MetadataSet::Add(MetadataKind kind, uint64_t host_offset) {
  const uint64_t cluster = layout_.cluster_index(host_offset);
  if (FindRange(cluster, cluster + 1) != nullptr) return false;
  const auto [entry, inserted] = clusters_.try_emplace(cluster, kind);
  groups_[cluster / 64] |= uint64_t{1} << (cluster % 64);
  return inserted || entry->second == kind;
}

bool MetadataSet::AddRange(MetadataKind kind, uint64_t host_offset, uint64_t length) {
  const uint64_t begin = layout_.cluster_index(host_offset);
  const uint64_t end =
      begin + layout_.clusters_for(layout_.offset_in_cluster(host_offset) + length);
  if (begin == end) return true;
  if (FindRange(begin, end) != nullptr) return false;
  for (const auto& [cluster, other] : clusters_) {
    if (cluster >= begin && cluster < end) return false;
  }
  ranges_.emplace(begin, Range{kind, end});
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
  ranges_.erase(layout_.cluster_index(host_offset));
}

bool MetadataSet::Contains(uint64_t host_offset) const {
  const uint64_t cluster = layout_.cluster_index(host_offset);
  return FindRange(cluster, cluster + 1) != nullptr || clusters_.contains(cluster);
}

bool MetadataSet::Overlaps(uint64_t host_offset, uint64_t length) const {
  if (length == 0) return false;
  const uint64_t first = layout_.cluster_index(host_offset);
  const uint64_t last = layout_.cluster_index(host_offset + length - 1);
  if (FindRange(first, last + 1) != nullptr) return true;
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
  const Range* const range = FindRange(cluster, cluster + 1);
  return range != nullptr && range->kind == kind;
}

}  // namespace vireo::qcow2
