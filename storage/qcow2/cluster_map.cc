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

uint64_t LoadEntry(std::span<const uint8_t> slice, uint64_t index) {
  Be64 entry;
  std::memcpy(&entry, slice.data() + index * sizeof(entry), sizeof(entry));
  return entry.value();
}

void StoreEntry(std::span<uint8_t> slice, uint64_t index, uint64_t value) {
  const Be64 entry(value);
  std::memcpy(slice.data() + index * sizeof(entry), &entry, sizeof(entry));
}

}  // namespace

ClusterMap::ClusterMap(const Layout& layout, Parts parts)
    : layout_(layout),
      file_(parts.file),
      barrier_(parts.barrier),
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

ClusterMapping ClusterMap::Checked(const ClusterMapping& mapping) const {
  uint64_t host_offset = 0;
  uint64_t bytes = layout_.cluster_bytes();
  if (const auto* allocated = std::get_if<Allocated>(&mapping)) {
    host_offset = allocated->host_offset;
  } else if (const auto* zero = std::get_if<Zero>(&mapping)) {
    if (zero->host_offset == 0) return mapping;
    host_offset = zero->host_offset;
  } else if (const auto* compressed = std::get_if<Compressed>(&mapping)) {
    host_offset = compressed->host_offset;
    bytes = compressed->bytes;
  } else {
    return mapping;
  }
  if (host_offset >= file_.size()) return Invalid{"a host offset past the end of the file"};
  if (metadata_.Overlaps(host_offset, bytes)) return Invalid{"a host offset that holds metadata"};
  return mapping;
}

bool ClusterMap::IsSuspicious(std::span<const uint8_t> slice) const {
  const uint64_t count = layout_.l2_entries_per_slice();
  for (uint64_t index = 0; index < count; ++index) {
    const uint64_t entry = LoadEntry(slice, index);
    if (entry == 0) continue;
    const ClusterMapping mapping = Checked(DecodeMapping(layout_, entry));
    if (std::holds_alternative<Invalid>(mapping)) return true;
  }
  return false;
}

uint64_t ClusterMap::SliceOffset(uint64_t l1_index, uint64_t guest_offset) const {
  const uint64_t slice = layout_.l2_index(guest_offset) / layout_.l2_entries_per_slice();
  return (l1_[l1_index] & kEntryOffsetMask) + slice * layout_.slice_bytes();
}

uint64_t ClusterMap::IndexInSlice(uint64_t guest_offset) const {
  return layout_.l2_index(guest_offset) % layout_.l2_entries_per_slice();
}

uint64_t ClusterMap::SliceEnd(uint64_t guest_offset) const {
  const uint64_t bytes = layout_.l2_entries_per_slice() << layout_.cluster_bits;
  return AlignDown<uint64_t>(guest_offset, bytes) + bytes;
}

ClusterMapping ClusterMap::Get(const MetadataCache::Slice& slice, uint64_t guest_offset) const {
  const ClusterMapping mapping =
      DecodeMapping(layout_, LoadEntry(slice.bytes(), IndexInSlice(guest_offset)));
  return slice.suspicious() ? Checked(mapping) : mapping;
}

void ClusterMap::Set(MetadataCache::Slice& slice, uint64_t guest_offset,
                     const ClusterMapping& mapping) {
  StoreEntry(slice.MutableBytes(), IndexInSlice(guest_offset), EncodeMapping(layout_, mapping));
}

MappedRun ClusterMap::RunInSlice(const MetadataCache::Slice& slice, uint64_t guest_offset,
                                 uint64_t max_length) const {
  const uint64_t skip = layout_.offset_in_cluster(guest_offset);
  MappedRun run = {.mapping = Get(slice, guest_offset), .length = layout_.cluster_bytes() - skip};
  Allocated first = {};
  if (auto* allocated = std::get_if<Allocated>(&run.mapping)) {
    first = *allocated;
    allocated->host_offset += skip;
  }
  const bool joins = !std::holds_alternative<Compressed>(run.mapping) &&
                     !std::holds_alternative<Invalid>(run.mapping);
  const uint64_t limit = std::min(max_length, SliceEnd(guest_offset) - guest_offset);
  for (uint64_t n = 1; joins && run.length < limit; ++n, run.length += layout_.cluster_bytes()) {
    const ClusterMapping next = Get(slice, guest_offset + (n << layout_.cluster_bits));
    if (next.index() != run.mapping.index()) break;
    if (const auto* allocated = std::get_if<Allocated>(&next)) {
      if (allocated->copied != first.copied ||
          allocated->host_offset != first.host_offset + (n << layout_.cluster_bits)) {
        break;
      }
    }
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
    // Shared with an internal snapshot: what it maps is shared as well.
    std::vector<Be64> entries(layout_.cluster_bytes() / sizeof(Be64));
    const iovec part = {entries.data(), layout_.cluster_bytes()};
    absl::Status copied = co_await file_.Read(old_table, IoVecs(&part, 1));
    for (Be64& entry : entries) entry = entry.value() & ~kEntryCopied;
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
  std::vector<L1Piece> pieces;
  pieces.reserve(dirty_l1_.size());
  for (const uint64_t piece : dirty_l1_) {
    const uint64_t first = piece * kL1PieceEntries;
    const uint64_t count = std::min<uint64_t>(kL1PieceEntries, l1_.size() - first);
    L1Piece frozen = {.file_offset = l1_offset_ + first * sizeof(Be64),
                      .bytes = std::vector<uint8_t>(count * sizeof(Be64))};
    for (uint64_t i = 0; i < count; ++i) StoreEntry(frozen.bytes, i, l1_[first + i]);
    pieces.push_back(std::move(frozen));
  }
  dirty_l1_.clear();
  return pieces;
}

Task<absl::Status> ClusterMap::WriteL1(const std::vector<L1Piece>& pieces) {
  for (const L1Piece& piece : pieces) {
    const iovec part = ToIoVec(std::span<const uint8_t>(piece.bytes));
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
  for (uint64_t i = 0; i < l1_.size(); ++i) StoreEntry(bytes, i, l1_[i]);
  return bytes;
}

}  // namespace vireo::qcow2
