#include "storage/qcow2/check_references.h"

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "base/align.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {
namespace {

// L2 tables are read this many bytes at a time, all of them in flight at once.
constexpr uint64_t kBatchBytes = 1 << 20;
// A table that is pointed to several times is counted as often, but not without end: an L1 table
// has millions of entries.
constexpr int kMaxWalkedAgain = 64;

}  // namespace

Task<absl::Status> ReferenceWalk::Run() {
  const Header& header = state_.header;
  state_.AddReference(0, state_.layout.cluster_bytes());
  CO_RETURN_IF_ERROR(co_await CountTree(header.l1_offset, header.l1_entries, Tree::kActive));
  if (header.snapshot_count > 0) CO_RETURN_IF_ERROR(co_await CountSnapshots());
  if (header.encryption.has_value()) {
    state_.AddReference(header.encryption->offset, header.encryption->bytes);
  }
  // Without the bit nobody takes them for bitmaps, and their clusters may go.
  if ((header.autoclear & kAutoclearBitmaps) != 0 && header.bitmaps.has_value()) {
    CO_RETURN_IF_ERROR(co_await CountBitmaps());
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ReferenceWalk::CountSnapshots() {
  for (const Snapshot& snapshot : state_.snapshot_table.snapshots) {
    if (uint64_t{snapshot.l1_entries} * sizeof(Be64) > kMaxL1Bytes) {
      state_.Corruption(
          "ERROR snapshot %s (%s) l1_size=%#x: L1 table is too large; snapshot table entry "
          "corrupted",
          snapshot.id, snapshot.name, snapshot.l1_entries);
      continue;
    }
    if (state_.layout.offset_in_cluster(snapshot.l1_offset) != 0) {
      state_.Corruption(
          "ERROR snapshot %s (%s) l1_offset=%#x: L1 table is not cluster aligned; snapshot table "
          "entry corrupted",
          snapshot.id, snapshot.name, snapshot.l1_offset);
      continue;
    }
    const absl::Status sane = CheckSnapshotL1(state_.file, state_.layout, snapshot);
    if (!sane.ok()) {
      state_.Corruption("ERROR %s", std::string(sane.message()));
      continue;
    }
    CO_RETURN_IF_ERROR(
        co_await CountTree(snapshot.l1_offset, snapshot.l1_entries, Tree::kSnapshot));
  }
  state_.AddReference(state_.header.snapshots_offset, state_.snapshot_table.bytes);
  co_return absl::OkStatus();
}

Task<absl::Status> ReferenceWalk::CountTree(uint64_t l1_offset, uint64_t l1_entries, Tree tree) {
  if (l1_entries == 0) co_return absl::OkStatus();
  const Layout& layout = state_.layout;
  state_.AddReference(l1_offset, l1_entries * sizeof(Be64));
  std::vector<Be64> l1(l1_entries);
  const absl::Status read_l1 = co_await state_.ReadEntries(l1_offset, l1);
  if (!read_l1.ok()) co_return state_.Stop(read_l1, "ERROR: I/O error in check_refcounts_l1");
  TableBatch batch = {.l1 = &l1};
  std::set<uint64_t> seen;
  for (size_t index = 0; index < l1.size(); ++index) {
    const uint64_t entry = l1[index];
    if (entry == 0) continue;
    if ((entry & kL1ReservedMask) != 0) {
      state_.Corruption("ERROR found L1 entry with reserved bits set: %x", entry);
    }
    const uint64_t offset = entry & kEntryOffsetMask;
    if (offset == 0) continue;
    if (layout.offset_in_cluster(offset) != 0) {
      state_.Corruption("ERROR l2_offset=%x: Table is not cluster aligned; L1 entry corrupted",
                        offset);
      continue;  // What stands there is no table.
    }
    if (!state_.AddReference(offset, layout.cluster_bytes())) continue;
    if (!seen.insert(offset).second && ++walked_again_ > kMaxWalkedAgain) {
      state_.Corruption("ERROR too many L1 entries point to the same L2 tables, one at offset %x",
                        offset);
      continue;
    }
    if (index >= batch.end) co_await ReadBatch(index, &batch);
    Table& table = batch.tables[index - batch.begin];
    if (!table.status.ok()) {
      co_return state_.Stop(table.status, "ERROR: I/O error in check_refcounts_l2");
    }
    L2Walk walk = {.entries = &table.entries,
                   .tree = tree,
                   .guest_offset = index * layout.guest_bytes_per_l2()};
    CountL2(walk);
    if (!walk.zeroed.empty()) CO_RETURN_IF_ERROR(co_await WriteZeroed(walk, offset));
  }
  co_return absl::OkStatus();
}

Task<void> ReferenceWalk::ReadTable(uint64_t offset, Table* table) {
  table->entries.resize(state_.layout.cluster_bytes() / sizeof(Be64));
  table->status = co_await state_.ReadEntries(offset, table->entries);
}

Task<void> ReferenceWalk::ReadBatch(size_t begin, TableBatch* batch) {
  const Layout& layout = state_.layout;
  const size_t tables = std::max<uint64_t>(kBatchBytes >> layout.cluster_bits, 1);
  batch->begin = begin;
  batch->end = std::min(begin + tables, batch->l1->size());
  batch->tables.resize(batch->end - begin);
  TaskScope reads(*EventLoop::Current());
  for (size_t i = 0; i < batch->tables.size(); ++i) {
    const uint64_t offset = (*batch->l1)[begin + i] & kEntryOffsetMask;
    // Others are not asked for.
    if (offset == 0 || layout.offset_in_cluster(offset) != 0 || offset >= state_.file.size()) {
      batch->tables[i] = {};
      continue;
    }
    reads.Spawn(ReadTable(offset, &batch->tables[i]));
  }
  co_await reads.Join();
}

void ReferenceWalk::CountL2(L2Walk& walk) {
  const Layout& layout = state_.layout;
  CheckResult& result = state_.result;
  const std::vector<Be64>& entries = *walk.entries;
  const bool active = walk.tree == Tree::kActive;
  // What is neither the COPIED flag nor the number of a cluster.
  const uint64_t odd_bits = ~(kEntryOffsetMask & ~(layout.cluster_bytes() - 1)) & ~kEntryCopied;
  // Narrow counters overflow: they are counted with care.
  const bool wide = layout.refcount_order >= 4;
  const uint64_t whole_clusters = layout.clusters_for(state_.file.size());
  if (active && layout.extended_l2()) state_.plain = false;
  uint64_t next_contiguous = 0;
  const auto allocated = [&](uint64_t host_offset) {
    if (!active) return;
    ++result.allocated_clusters;
    if (next_contiguous != 0 && host_offset != next_contiguous) ++result.fragmented_clusters;
    next_contiguous = host_offset + layout.cluster_bytes();
  };
  for (size_t i = 0; i < entries.size(); i += words_per_entry()) {
    const uint64_t entry = entries[i];
    const uint64_t bitmap = layout.extended_l2() ? entries[i + 1].value() : 0;
    if (entry == 0 && bitmap == 0) continue;
    const uint64_t cluster = layout.cluster_index(entry & kEntryOffsetMask);
    if ((entry & odd_bits) == 0 && (entry & kEntryCopied) != 0 && cluster != 0 &&
        cluster < whole_clusters && bitmap == 0 && !layout.external_data && wide) {  // Most are so.
      allocated(cluster << layout.cluster_bits);
      state_.references.AddOne(cluster);
      continue;
    }
    if (active) state_.plain = false;
    if ((entry & kEntryCompressed) != 0) {
      CountCompressed(entry, i / words_per_entry(), bitmap, walk.tree);
      continue;
    }
    if ((entry & kL2ReservedMask) != 0) {
      state_.Corruption("ERROR found l2 entry with reserved bits set: %x", entry);
    }
    const uint64_t host_offset = entry & kEntryOffsetMask;
    // The first cluster of a data file, too, is at an offset of 0.
    const bool at_zero = layout.external_data && (entry & kEntryCopied) != 0;
    if (host_offset == 0 && !at_zero) {
      if (static_cast<uint32_t>(bitmap) != 0) {
        state_.Corruption("ERROR: Unallocated cluster has non-zero subcluster allocation map");
      }
      continue;
    }
    if ((bitmap >> 32 & bitmap) != 0) {
      state_.Corruption(
          "ERROR offset=%x: Allocated cluster has corrupted subcluster allocation bitmap",
          host_offset);
    }
    if (layout.offset_in_cluster(host_offset) != 0 &&
        !CheckAlignment(walk, i, host_offset, bitmap)) {
      continue;
    }
    allocated(host_offset);
    if (!layout.external_data) {
      state_.AddReference(host_offset, layout.cluster_bytes());
      continue;
    }
    const uint64_t at = walk.guest_offset + ((i / words_per_entry()) << layout.cluster_bits);
    if (host_offset != at) {
      state_.Corruption("ERROR offset=%x: not the guest's offset %x in the data file", host_offset,
                        at);
    }
  }
}

bool ReferenceWalk::CheckAlignment(L2Walk& walk, size_t at, uint64_t host_offset, uint64_t bitmap) {
  const uint64_t entry = (*walk.entries)[at];
  const bool has_data =
      state_.layout.extended_l2() ? static_cast<uint32_t>(bitmap) != 0 : (entry & kEntryZero) == 0;
  if (has_data) {
    state_.Corruption("ERROR offset=%x: Data cluster is not properly aligned; L2 entry corrupted.",
                      host_offset);
    return true;
  }
  const bool fix = repair_ == Repair::kAll;
  state_.Corruption(
      "%s offset=%x: Preallocated cluster is not properly aligned; L2 entry corrupted.",
      fix ? "Repairing" : "ERROR", host_offset);
  if (!fix) return true;
  MakeZero(walk, at);
  return false;
}

void ReferenceWalk::MakeZero(L2Walk& walk, size_t at) {
  std::vector<Be64>& entries = *walk.entries;
  if (state_.layout.extended_l2()) {
    const uint64_t bitmap = entries[at + 1];
    entries[at] = 0;
    entries[at + 1] = (bitmap | bitmap << 32) & ~uint64_t{0xffffffff};
  } else {
    entries[at] = kEntryZero;
  }
  walk.zeroed.push_back(at);
}

Task<absl::Status> ReferenceWalk::WriteZeroed(const L2Walk& walk, uint64_t table_offset) {
  if (state_.IsTaken(table_offset)) {
    co_return state_.Stop(ErrnoStatus(EIO, "an L2 table is where another structure is"),
                          "ERROR: Overlap check failed");
  }
  for (const size_t at : walk.zeroed) {
    const absl::Status written = co_await state_.Write(
        table_offset + at * sizeof(Be64), walk.entries->data() + at, state_.layout.l2_entry_bytes);
    if (!written.ok()) {
      co_return state_.Stop(written, "ERROR: Failed to overwrite L2 table entry: %s",
                            std::string(written.message()));
    }
    --state_.result.corruptions;
    ++state_.result.corruptions_fixed;
  }
  co_return absl::OkStatus();
}

void ReferenceWalk::CountCompressed(uint64_t entry, size_t index, uint64_t bitmap, Tree tree) {
  if ((entry & kEntryCopied) != 0) {
    state_.Corruption("ERROR: coffset=0x%x: copied flag must never be set for compressed clusters",
                      entry & (MaxCompressedOffset(state_.layout) - 1));
    entry &= ~kEntryCopied;
  }
  if (state_.layout.external_data) {
    state_.Corruption("ERROR compressed cluster %d with data file, entry=0x%x", index, entry);
    return;
  }
  if (bitmap != 0) {
    state_.Corruption(
        "ERROR compressed cluster %d with non-zero subcluster allocation bitmap, entry=0x%x", index,
        entry);
    return;
  }
  if (tree == Tree::kActive) {
    ++state_.result.allocated_clusters;
    ++state_.result.compressed_clusters;
    ++state_.result.fragmented_clusters;  // By nature.
  }
  const ClusterEntry compressed = DecodeEntry(state_.layout, {.descriptor = entry});
  if (compressed.kind == ClusterEntry::Kind::kInvalid) {
    state_.Corruption("ERROR: coffset=0x%x: %s", entry, compressed.reason);
    return;
  }
  const uint64_t begin = AlignDown<uint64_t>(compressed.host_offset, 512);
  state_.AddReference(begin, compressed.host_offset + compressed.compressed_bytes - begin);
}

Task<absl::Status> ReferenceWalk::CountBitmaps() {
  const BitmapsExtension& bitmaps = *state_.header.bitmaps;
  if (!state_.AddReference(bitmaps.directory_offset, bitmaps.directory_bytes)) {
    co_return absl::OkStatus();
  }
  std::vector<uint8_t> directory(bitmaps.directory_bytes);
  const iovec part = ToIoVec(std::span<uint8_t>(directory));
  CO_RETURN_IF_ERROR(co_await state_.file.Read(bitmaps.directory_offset, IoVecs(&part, 1)));
  uint64_t at = 0;
  for (uint32_t i = 0; i < bitmaps.bitmap_count; ++i) {
    RawBitmapEntry raw;
    uint64_t length = sizeof(raw);
    if (directory.size() - at >= sizeof(raw)) {
      std::memcpy(&raw, directory.data() + at, sizeof(raw));
      length = AlignUp<uint64_t>(sizeof(raw) + uint64_t{raw.name_length} + raw.extra_data_bytes, 8);
    }
    // What the others refer to cannot be told: nothing may be taken for a leak.
    if (length > directory.size() - at) {
      co_return state_.Stop(absl::DataLossError("the bitmap directory is damaged"),
                            "ERROR the bitmap directory ends inside entry %d", i);
    }
    at += length;
    if (raw.table_entries > kMaxBitmapTableEntries ||
        state_.layout.offset_in_cluster(raw.table_offset) != 0) {
      state_.Corruption("ERROR the table of bitmap %d cannot be right", i);
      continue;
    }
    CO_RETURN_IF_ERROR(co_await CountBitmap(raw.table_offset, raw.table_entries));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ReferenceWalk::CountBitmap(uint64_t table_offset, uint64_t table_entries) {
  if (!state_.AddReference(table_offset, table_entries * sizeof(Be64))) co_return absl::OkStatus();
  std::vector<Be64> table(table_entries);
  CO_RETURN_IF_ERROR(co_await state_.ReadEntries(table_offset, table));
  for (const Be64& entry : table) {
    const uint64_t host_offset = entry & kEntryOffsetMask;
    if (host_offset == 0) continue;
    if (state_.layout.offset_in_cluster(host_offset) != 0) {
      state_.Corruption("ERROR a bitmap's data is at offset 0x%x", host_offset);
      continue;
    }
    state_.AddReference(host_offset, state_.layout.cluster_bytes());
  }
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
