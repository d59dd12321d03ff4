#include "storage/qcow2/cluster_map.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

void StoreL1Entry(std::span<uint8_t> table, uint64_t index, uint64_t value) {
  const Be64 entry(value);
  std::memcpy(table.data() + index * sizeof(entry), &entry, sizeof(entry));
}

RawClusterEntry LoadEntry(const Layout& layout, std::span<const uint8_t> slice, uint64_t index) {
  Be64 words[2] = {};
  std::memcpy(words, slice.data() + index * layout.l2_entry_bytes, layout.l2_entry_bytes);
  return {.descriptor = words[0].value(), .bitmap = words[1].value()};
}

}  // namespace

ClusterMap::ClusterMap(const Layout& layout, Parts parts)
    : layout_(layout),
      file_(parts.file),
      debug_(parts.file.debug_events()),
      cache_(parts.cache),
      metadata_(parts.metadata),
      refcounts_(parts.refcounts) {}

Task<absl::Status> ClusterMap::Load(uint64_t l1_offset, uint32_t l1_entries) {
  l1_offset_ = l1_offset;
  const uint64_t bytes = uint64_t{l1_entries} * sizeof(Be64);
  std::vector<Be64> raw(l1_entries);
  const iovec part = {raw.data(), bytes};
  if (bytes > 0) CO_RETURN_IF_ERROR(co_await file_.Read(l1_offset, IoVecs(&part, 1)));
  l1_.assign(raw.begin(), raw.end());
  if (bytes > 0 && !metadata_.AddRange(MetadataKind::kL1Table, l1_offset, bytes)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the L1 table overlaps other metadata", file_.name()));
  }
  for (uint64_t index = 0; index < l1_.size(); ++index) {
    const uint64_t table = l1_[index] & kEntryOffsetMask;
    if (table == 0) continue;
    if (metadata_.Is(MetadataKind::kL2Table, table)) shared_tables_.insert(table);
    if (layout_.offset_in_cluster(table) != 0 || table >= file_.size() ||
        !metadata_.Add(MetadataKind::kL2Table, table)) {
      bad_l1_.insert(index);
    }
  }
  co_return absl::OkStatus();
}

std::optional<Invalid> ClusterMap::CheckL1(uint64_t l1_index) const {
  if (bad_l1_.empty() || !bad_l1_.contains(l1_index)) return std::nullopt;
  return Invalid{"an L1 entry that points where no L2 table can be"};
}

ClusterEntry ClusterMap::Checked(const ClusterEntry& entry) const {
  const bool compressed = entry.kind == ClusterEntry::Kind::kCompressed;
  if (!compressed && !entry.has_host) return entry;
  const uint64_t bytes = compressed ? entry.compressed_bytes : layout_.cluster_bytes();
  const char* reason = nullptr;
  if (entry.host_offset >= file_.size()) {
    reason = "a host offset past the end of the file";
  } else if (metadata_.Overlaps(entry.host_offset, bytes)) {
    reason = "a host offset that holds metadata";
  }
  if (reason == nullptr) return entry;
  return {.kind = ClusterEntry::Kind::kInvalid, .reason = reason};
}

// Nothing but data, in one part of the file where there is no metadata: most slices.
bool ClusterMap::IsPlainlySane(std::span<const uint8_t> slice) const {
  const uint64_t odd_bits = kEntryCompressed | (layout_.cluster_bytes() - 1);
  uint64_t odd = 0;
  uint64_t first = ~uint64_t{0};
  uint64_t last = 0;
  for (size_t at = 0; at < slice.size(); at += sizeof(Be64)) {
    Be64 wire;
    std::memcpy(&wire, slice.data() + at, sizeof(wire));
    const uint64_t entry = wire.value();
    if (entry == 0) continue;
    odd |= entry & odd_bits;
    first = std::min(first, entry & kEntryOffsetMask);
    last = std::max(last, entry & kEntryOffsetMask);
  }
  if (odd != 0) return false;
  if (last == 0) return first != 0;
  constexpr uint64_t kFarApart = 1 << 14;  // Clusters.
  return first != 0 && last < file_.size() && (last - first) >> layout_.cluster_bits < kFarApart &&
         !metadata_.Overlaps(first, last - first + layout_.cluster_bytes());
}

bool ClusterMap::IsSuspicious(std::span<const uint8_t> slice) const {
  if (layout_.external_data) return false;  // Get() compares with the guest offset.
  if (layout_.l2_entry_bytes == sizeof(Be64) && IsPlainlySane(slice)) return false;
  const uint64_t count = layout_.l2_entries_per_slice();
  for (uint64_t index = 0; index < count; ++index) {
    const RawClusterEntry raw = LoadEntry(layout_, slice, index);
    if (raw == RawClusterEntry{}) continue;
    if (Checked(DecodeEntry(layout_, raw)).kind == ClusterEntry::Kind::kInvalid) return true;
  }
  return false;
}

uint64_t ClusterMap::SliceOffset(uint64_t l1_index, uint64_t guest_offset) const {
  const uint64_t byte = layout_.l2_index(guest_offset) << layout_.l2_entry_bits();
  return (l1_[l1_index] & kEntryOffsetMask) + (byte & ~(layout_.slice_bytes() - 1));
}

uint64_t ClusterMap::IndexInSlice(uint64_t guest_offset) const {
  return layout_.l2_index(guest_offset) & (layout_.l2_entries_per_slice() - 1);
}

uint64_t ClusterMap::SliceEnd(uint64_t guest_offset) const {
  const uint64_t bytes = layout_.l2_entries_per_slice() << layout_.cluster_bits;
  return AlignDown<uint64_t>(guest_offset, bytes) + bytes;
}

ClusterEntry ClusterMap::Get(const MetadataCache::Slice& slice, uint64_t guest_offset) const {
  const ClusterEntry entry =
      DecodeEntry(layout_, LoadEntry(layout_, slice.bytes(), IndexInSlice(guest_offset)));
  if (layout_.external_data && entry.has_host &&
      entry.host_offset != layout_.cluster_start(guest_offset)) {
    return {.kind = ClusterEntry::Kind::kInvalid,
            .reason = "an offset in the data file that is not the guest's"};
  }
  return slice.suspicious() ? Checked(entry) : entry;
}

void ClusterMap::Set(MetadataCache::Slice& slice, uint64_t guest_offset,
                     const ClusterEntry& entry) {
  const RawClusterEntry raw = EncodeEntry(layout_, entry);
  const Be64 words[2] = {Be64(raw.descriptor), Be64(raw.bitmap)};
  std::memcpy(slice.MutableBytes().data() + IndexInSlice(guest_offset) * layout_.l2_entry_bytes,
              words, layout_.l2_entry_bytes);
}

MappedRun ClusterMap::RunInSlice(const MetadataCache::Slice& slice, uint64_t guest_offset,
                                 uint64_t max_length) const {
  const uint64_t skip = layout_.offset_in_cluster(guest_offset);
  const uint32_t first = layout_.subcluster_index(guest_offset);
  const ClusterEntry entry = Get(slice, guest_offset);
  MappedRun run = {.mapping = MappingOf(entry, first)};
  const uint64_t stop = (first + uint64_t{EqualSubclusters(layout_, entry, first)})
                        << layout_.subcluster_bits();
  run.length = stop - skip;
  auto* const allocated = std::get_if<Allocated>(&run.mapping);
  auto* const zero = std::get_if<Zero>(&run.mapping);
  if (allocated != nullptr) allocated->host_offset += skip;
  if (zero != nullptr && zero->host_offset.has_value()) *zero->host_offset += skip;
  auto* const unallocated = std::get_if<Unallocated>(&run.mapping);
  if (unallocated != nullptr && unallocated->host_offset.has_value()) {
    *unallocated->host_offset += skip;
  }
  // Unallocated bytes join whatever is set aside for them.
  const bool contiguous = allocated != nullptr || zero != nullptr;
  const uint64_t limit = std::min(max_length, SliceEnd(guest_offset) - guest_offset);
  bool joins = stop == layout_.cluster_bytes() && entry.kind == ClusterEntry::Kind::kStandard;
  while (joins && run.length < limit) {
    const ClusterEntry next = Get(slice, guest_offset + run.length);
    const ClusterMapping mapping = MappingOf(next, 0);
    if (mapping.index() != run.mapping.index()) break;
    if (contiguous && (next.has_host != entry.has_host || next.copied != entry.copied)) break;
    if (contiguous && next.has_host && next.host_offset != entry.host_offset + skip + run.length) {
      break;
    }
    const uint64_t equal = EqualSubclusters(layout_, next, 0);
    run.length += equal << layout_.subcluster_bits();
    joins = equal == layout_.subclusters();
  }
  run.length = std::min(run.length, limit);
  return run;
}

std::optional<MappedRun> ClusterMap::RunWithoutSlice(uint64_t guest_offset,
                                                     uint64_t max_length) const {
  const uint64_t l1_index = layout_.l1_index(guest_offset);
  VIREO_CHECK(l1_index < l1_.size(), "the L1 table covers the disk");
  if (const std::optional<Invalid> invalid = CheckL1(l1_index)) {
    return MappedRun{.mapping = *invalid,
                     .length = std::min(max_length, SliceEnd(guest_offset) - guest_offset)};
  }
  if ((l1_[l1_index] & kEntryOffsetMask) != 0) return std::nullopt;
  const uint64_t end = (l1_index + 1) * layout_.guest_bytes_per_l2();
  return MappedRun{.mapping = Unallocated{}, .length = std::min(max_length, end - guest_offset)};
}

std::optional<MappedRun> ClusterMap::LookupCached(uint64_t guest_offset, uint64_t max_length) {
  std::optional<MappedRun> run = RunWithoutSlice(guest_offset, max_length);
  if (run.has_value()) return run;
  const MetadataCache::Slice slice =
      cache_.Find(SliceOffset(layout_.l1_index(guest_offset), guest_offset));
  if (!slice.valid()) return std::nullopt;
  return RunInSlice(slice, guest_offset, max_length);
}

Task<absl::StatusOr<MappedRun>> ClusterMap::Lookup(uint64_t guest_offset, uint64_t max_length) {
  const std::optional<MappedRun> run = LookupCached(guest_offset, max_length);
  if (run.has_value()) co_return *run;
  const uint64_t slice_offset = SliceOffset(layout_.l1_index(guest_offset), guest_offset);
  CO_ASSIGN_OR_RETURN(const MetadataCache::Slice slice,
                      co_await cache_.Get(MetadataKind::kL2Table, slice_offset));
  // While it was read the table may have been copied: its copy says the same, or says more.
  co_return RunInSlice(slice, guest_offset, max_length);
}

Task<absl::StatusOr<MetadataCache::Slice>> ClusterMap::PrepareSlice(uint64_t guest_offset) {
  const uint64_t l1_index = layout_.l1_index(guest_offset);
  if (const std::optional<Invalid> invalid = CheckL1(l1_index)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: guest offset %d: %s", file_.name(), guest_offset, invalid->reason));
  }
  if (!shared_tables_.empty() && shared_tables_.contains(l1_[l1_index] & kEntryOffsetMask)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: guest offset %d: an L2 table that another L1 entry points to as well",
                        file_.name(), guest_offset));
  }
  if ((l1_[l1_index] & kEntryCopied) == 0) CO_RETURN_IF_ERROR(co_await MakeTable(l1_index));
  auto slice = co_await cache_.Get(MetadataKind::kL2Table, SliceOffset(l1_index, guest_offset));
  co_return slice;
}

Task<absl::Status> ClusterMap::MakeTable(uint64_t l1_index) {
  const AsyncMutex::Guard guard = co_await tables_.Lock();
  const uint64_t old_entry = l1_[l1_index];
  if ((old_entry & kEntryCopied) != 0) co_return absl::OkStatus();  // Another has been here.
  const uint64_t old_table = old_entry & kEntryOffsetMask;
  CO_ASSIGN_OR_RETURN(const uint64_t table, co_await refcounts_.AllocateTable());
  if (metadata_.Contains(table)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the metadata at offset %d is counted as free", file_.name(), table));
  }
  if (old_table != 0) {
    // Its COPIED flags stay as they are: they tell of the counts of what it maps. Where it is
    // shared with an internal snapshot that is shared as well; where it only is counted too often,
    // as after a crash, it is not.
    std::vector<uint8_t> entries(layout_.cluster_bytes());
    const iovec part = ToIoVec(std::span<uint8_t>(entries));
    if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kL2AllocCowRead);
    absl::Status copied = co_await file_.Read(old_table, IoVecs(&part, 1));
    if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kL2AllocWrite);
    if (copied.ok()) copied = co_await file_.Write(table, IoVecs(&part, 1));
    if (!copied.ok()) {
      refcounts_.GiveBack({.host_offset = table, .clusters = 1});
      co_return copied;
    }
    RequireBarrier();
  }
  // From here on nothing fails.
  metadata_.Add(MetadataKind::kL2Table, table);
  l1_[l1_index] = table | kEntryCopied;
  dirty_l1_.insert(l1_index / kL1PieceEntries);
  if (old_table != 0) refcounts_.FreeLater(old_table, 1);
  co_return absl::OkStatus();
}

std::vector<ClusterMap::L1Piece> ClusterMap::FreezeL1() {
  std::vector<uint64_t> dirty(dirty_l1_.begin(), dirty_l1_.end());
  std::sort(dirty.begin(), dirty.end());
  std::vector<L1Piece> pieces;
  pieces.reserve(dirty.size());
  for (const uint64_t piece : dirty) {
    const uint64_t first = piece * kL1PieceEntries;
    const uint64_t count = std::min<uint64_t>(kL1PieceEntries, l1_.size() - first);
    L1Piece frozen = {.file_offset = l1_offset_ + first * sizeof(Be64),
                      .bytes = std::vector<uint8_t>(count * sizeof(Be64))};
    for (uint64_t i = 0; i < count; ++i) StoreL1Entry(frozen.bytes, i, l1_[first + i]);
    pieces.push_back(std::move(frozen));
  }
  dirty_l1_.clear();
  return pieces;
}

Task<absl::Status> ClusterMap::WriteL1(const std::vector<L1Piece>& pieces) {
  for (const L1Piece& piece : pieces) {
    const iovec part = ToIoVec(std::span<const uint8_t>(piece.bytes));
    if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kL1Update);
    CO_RETURN_IF_ERROR(co_await file_.Write(piece.file_offset, IoVecs(&part, 1)));
  }
  co_return absl::OkStatus();
}

void ClusterMap::PutBackL1(const std::vector<L1Piece>& pieces) {
  for (const L1Piece& piece : pieces) {
    dirty_l1_.insert((piece.file_offset - l1_offset_) / sizeof(Be64) / kL1PieceEntries);
  }
}

void ClusterMap::Moved(uint64_t l1_offset, uint64_t l1_entries) {
  metadata_.RemoveRange(l1_offset_);
  l1_.resize(l1_entries);
  l1_offset_ = l1_offset;
  VIREO_CHECK(metadata_.AddRange(MetadataKind::kL1Table, l1_offset, l1_entries * sizeof(Be64)),
              "new clusters are nobody's");
}

std::vector<uint8_t> ClusterMap::SerializeL1() const {
  std::vector<uint8_t> bytes(l1_.size() * sizeof(Be64));
  for (uint64_t i = 0; i < l1_.size(); ++i) StoreL1Entry(bytes, i, l1_[i]);
  return bytes;
}

}  // namespace vireo::qcow2
