#include "storage/qcow2/check.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/qcow2/cluster_mapping.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/refcount_entry.h"
#include "storage/qcow2/reference_counts.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {
namespace {

// L2 tables are read this many bytes at a time, all of them in flight at once.
constexpr uint64_t kBatchBytes = 1 << 20;

class Checker {
 public:
  Checker(File& file, Header header, Repair repair, CheckReport* report)
      : file_(file),
        header_(std::move(header)),
        layout_(header_.layout),
        repair_(repair),
        report_(report),
        file_clusters_(layout_.clusters_for(file.size())) {}

  Task<absl::StatusOr<CheckResult>> Run() {
    result_.total_clusters = layout_.clusters_for(header_.size_bytes);
    CO_RETURN_IF_ERROR(co_await CountReferences());
    CO_RETURN_IF_ERROR(co_await CountRefcountStructures());
    if (rebuild_) {
      Report("ERROR need to rebuild refcount structures");
      if (repair_ == Repair::kAll) {
        CO_RETURN_IF_ERROR(co_await Rebuild());
      }
    }
    CO_RETURN_IF_ERROR(co_await CompareAll());
    if (missing_block_ && repair_ == Repair::kAll) {
      CO_RETURN_IF_ERROR(co_await Rebuild());
      result_.corruptions_fixed += unfixed_errors_;
    }
    CO_RETURN_IF_ERROR(co_await CheckActiveFlags());
    // An entry that points behind the end may yet be somebody's data.
    if (repair_ != Repair::kNone && result_.check_errors == 0 &&
        result_.corruptions == result_.corruptions_fixed) {
      CO_RETURN_IF_ERROR(co_await ClearBehindEnd());
    }
    if (repair_ != Repair::kNone) CO_RETURN_IF_ERROR(co_await file_.Sync());
    if (repair_ == Repair::kAll && result_.check_errors == 0 &&
        result_.corruptions == result_.corruptions_fixed) {
      CO_RETURN_IF_ERROR(co_await ClearDamageBits());
    }
    co_return result_;
  }

 private:
  template <typename... Args>
  void Report(const absl::FormatSpec<Args...>& format, const Args&... args) {
    if (report_ != nullptr) (*report_)(absl::StrFormat(format, args...));
  }
  template <typename... Args>
  void Corruption(const absl::FormatSpec<Args...>& format, const Args&... args) {
    ++result_.corruptions;
    Report(format, args...);
  }

  // One reference to each cluster that [offset, offset + length) touches. False if it lies outside.
  bool AddReference(uint64_t offset, uint64_t length) {
    if (length == 0) return true;
    const uint64_t end = offset + length;
    if (offset >= kMaxHostOffset || end > file_clusters_ << layout_.cluster_bits) {
      Corruption(
          "ERROR: counting reference for region exceeding the end of the file by one cluster or "
          "more: offset 0x%x size 0x%x",
          offset, length);
      return false;
    }
    for (uint64_t cluster = layout_.cluster_index(offset);
         cluster <= layout_.cluster_index(end - 1); ++cluster) {
      references_.AddOne(cluster);
    }
    return true;
  }
  void DropReference(uint64_t offset, uint64_t length) {
    for (uint64_t at = offset; at < offset + length; at += layout_.cluster_bytes()) {
      references_.Add(layout_.cluster_index(at), -1);
    }
  }

  Task<absl::Status> ReadEntries(uint64_t offset, std::vector<Be64>& entries) {
    const iovec part = {entries.data(), entries.size() * sizeof(Be64)};
    if (entries.empty()) co_return absl::OkStatus();
    const absl::Status status = co_await file_.Read(offset, IoVecs(&part, 1));
    co_return status;
  }
  Task<absl::Status> WriteBytes(uint64_t offset, const void* bytes, size_t length) {
    const iovec part = {const_cast<void*>(bytes), length};
    const absl::Status status = co_await file_.Write(offset, IoVecs(&part, 1));
    co_return status;
  }

  // --- Counting ---

  Task<absl::Status> CountReferences() {
    AddReference(0, layout_.cluster_bytes());
    CO_RETURN_IF_ERROR(co_await CountTree(header_.l1_offset, header_.l1_entries, true));
    if (header_.encryption.has_value()) {
      AddReference(header_.encryption->offset, header_.encryption->bytes);
    }
    if (header_.snapshot_count > 0) CO_RETURN_IF_ERROR(co_await CountSnapshots());
    // Without the bit nobody takes them for bitmaps, and their clusters may go.
    if ((header_.autoclear & kAutoclearBitmaps) != 0 && header_.bitmaps.has_value())
      CO_RETURN_IF_ERROR(co_await CountBitmaps());
    co_return absl::OkStatus();
  }

  Task<absl::Status> CountSnapshots() {
    const absl::StatusOr<SnapshotTable> table = co_await ReadSnapshotTable(file_, header_);
    if (!table.ok()) {
      ++result_.check_errors;
      Report("ERROR %s", std::string(table.status().message()));
      co_return absl::OkStatus();
    }
    AddReference(header_.snapshots_offset, table->bytes);
    for (const Snapshot& snapshot : table->snapshots) {
      const absl::Status sane = CheckSnapshotL1(file_, layout_, snapshot);
      if (!sane.ok()) {
        Corruption("ERROR %s", std::string(sane.message()));
        continue;
      }
      CO_RETURN_IF_ERROR(co_await CountTree(snapshot.l1_offset, snapshot.l1_entries, false));
    }
    co_return absl::OkStatus();
  }

  Task<absl::Status> CountTree(uint64_t l1_offset, uint64_t l1_entries, bool active) {
    if (l1_entries == 0) co_return absl::OkStatus();
    AddReference(l1_offset, l1_entries * sizeof(Be64));
    std::vector<Be64> l1(l1_entries);
    CO_RETURN_IF_ERROR(co_await ReadEntries(l1_offset, l1));
    TableBatch batch = {.l1 = &l1};
    std::set<uint64_t> seen;
    for (size_t index = 0; index < l1.size(); ++index) {
      const Be64 entry = l1[index];
      if (entry == 0) continue;
      if ((entry & kL1ReservedMask) != 0) {
        Corruption("ERROR found L1 entry with reserved bits set: %x", entry.value());
      }
      const uint64_t table = entry & kEntryOffsetMask;
      if (table == 0) continue;
      if (layout_.offset_in_cluster(table) != 0) {
        Corruption("ERROR l2_offset=%x: Table is not cluster aligned; L1 entry corrupted", table);
        continue;
      }
      if (!AddReference(table, layout_.cluster_bytes())) continue;
      if (!seen.insert(table).second) {
        Corruption("ERROR two L1 entries point to the L2 table at offset %x", table);
        continue;
      }
      if (index >= batch.end) co_await ReadBatch(index, &batch);
      const Table& read = batch.tables[index - batch.begin];
      if (!read.status.ok()) {
        ++result_.check_errors;
        Report("ERROR: I/O error in check_refcounts_l2");
        continue;
      }
      CountL2(read.entries, active, index * layout_.guest_bytes_per_l2());
    }
    co_return absl::OkStatus();
  }

  struct Table {
    std::vector<Be64> entries;
    absl::Status status;
  };
  // The tables that entries [begin, end) of an L1 table point to.
  struct TableBatch {
    const std::vector<Be64>* l1;
    size_t begin = 0;
    size_t end = 0;
    std::vector<Table> tables = {};
  };

  Task<void> ReadTable(uint64_t offset, Table* table) {
    table->entries.resize(layout_.cluster_bytes() / sizeof(Be64));
    table->status = co_await ReadEntries(offset, table->entries);
  }
  Task<void> ReadBatch(size_t begin, TableBatch* batch) {
    const size_t tables = std::max<uint64_t>(kBatchBytes >> layout_.cluster_bits, 1);
    batch->begin = begin;
    batch->end = std::min(begin + tables, batch->l1->size());
    batch->tables.resize(batch->end - begin);
    TaskScope reads(*EventLoop::Current());
    for (size_t i = 0; i < batch->tables.size(); ++i) {
      const uint64_t offset = (*batch->l1)[begin + i] & kEntryOffsetMask;
      // Others are not asked for.
      if (offset == 0 || layout_.offset_in_cluster(offset) != 0 || offset >= file_.size()) continue;
      reads.Spawn(ReadTable(offset, &batch->tables[i]));
    }
    co_await reads.Join();
  }

  // Words of one L2 entry: with extended L2 its bitmap is the second.
  size_t words_per_entry() const { return layout_.l2_entry_bytes / sizeof(Be64); }

  void CountL2(const std::vector<Be64>& entries, bool active, uint64_t guest_offset) {
    // What is neither the COPIED flag nor the number of a cluster.
    const uint64_t odd_bits = ~(kEntryOffsetMask & ~(layout_.cluster_bytes() - 1)) & ~kEntryCopied;
    if (active && layout_.extended_l2()) plain_ = false;
    uint64_t next_contiguous = 0;
    for (size_t i = 0; i < entries.size(); i += words_per_entry()) {
      const uint64_t entry = entries[i];
      const uint64_t bitmap = layout_.extended_l2() ? entries[i + 1].value() : 0;
      const uint64_t at = guest_offset + ((i / words_per_entry()) << layout_.cluster_bits);
      if (entry == 0 && bitmap == 0) continue;
      const uint64_t cluster = layout_.cluster_index(entry & kEntryOffsetMask);
      if ((entry & odd_bits) == 0 && (entry & kEntryCopied) != 0 && cluster != 0 &&
          cluster < file_clusters_ && bitmap == 0 && !layout_.external_data) {  // By far the most.
        if (active) {
          ++result_.allocated_clusters;
          const uint64_t host_offset = cluster << layout_.cluster_bits;
          if (next_contiguous != 0 && host_offset != next_contiguous) ++result_.fragmented_clusters;
          next_contiguous = host_offset + layout_.cluster_bytes();
        }
        references_.AddOne(cluster);
        continue;
      }
      if (active) plain_ = false;
      if ((entry & kEntryCompressed) != 0) {
        if (bitmap != 0) {
          Corruption(
              "ERROR compressed cluster %d with non-zero subcluster allocation bitmap, entry=0x%x",
              i / words_per_entry(), entry);
          continue;
        }
        CountCompressed(entry, active);
        continue;
      }
      if ((entry & kL2ReservedMask) != 0) {
        Corruption("ERROR found l2 entry with reserved bits set: %x", entry);
      }
      const uint64_t host_offset = entry & kEntryOffsetMask;
      // The first cluster of a data file, too, is at an offset of 0.
      const bool at_zero = layout_.external_data && (entry & kEntryCopied) != 0;
      if (host_offset == 0 && !at_zero) {
        if (static_cast<uint32_t>(bitmap) != 0) {
          Corruption("ERROR: Unallocated cluster has non-zero subcluster allocation map");
        }
        continue;
      }
      if ((bitmap >> 32 & bitmap) != 0) {
        Corruption("ERROR offset=%x: Allocated cluster has corrupted subcluster allocation bitmap",
                   host_offset);
        continue;
      }
      if (active) {
        ++result_.allocated_clusters;
        if (next_contiguous != 0 && host_offset != next_contiguous) ++result_.fragmented_clusters;
        next_contiguous = host_offset + layout_.cluster_bytes();
      }
      if (layout_.offset_in_cluster(host_offset) != 0) {
        Corruption("ERROR offset=%x: Cluster is not properly aligned; L2 entry corrupted.",
                   host_offset);
        continue;
      }
      if (!layout_.external_data) {
        AddReference(host_offset, layout_.cluster_bytes());
      } else if (host_offset != at) {
        Corruption("ERROR offset=%x: not the guest's offset %x in the data file", host_offset, at);
      }
    }
  }

  void CountCompressed(uint64_t entry, bool active) {
    if ((entry & kEntryCopied) != 0) {
      Corruption("ERROR: coffset=0x%x: copied flag must never be set for compressed clusters",
                 entry & ~kEntryCopied);
      entry &= ~kEntryCopied;
    }
    const ClusterEntry compressed = DecodeEntry(layout_, {.descriptor = entry});
    if (compressed.kind == ClusterEntry::Kind::kInvalid) {
      Corruption("ERROR: coffset=0x%x: %s", entry, compressed.reason);
      return;
    }
    if (active) {
      ++result_.allocated_clusters;
      ++result_.compressed_clusters;
      ++result_.fragmented_clusters;  // By nature.
    }
    const uint64_t begin = AlignDown<uint64_t>(compressed.host_offset, 512);
    AddReference(begin, compressed.host_offset + compressed.compressed_bytes - begin);
  }

  Task<absl::Status> CountBitmaps() {
    const BitmapsExtension& bitmaps = *header_.bitmaps;
    if (!AddReference(bitmaps.directory_offset, bitmaps.directory_bytes)) {
      co_return absl::OkStatus();
    }
    std::vector<uint8_t> directory(bitmaps.directory_bytes);
    const iovec part = ToIoVec(std::span<uint8_t>(directory));
    CO_RETURN_IF_ERROR(co_await file_.Read(bitmaps.directory_offset, IoVecs(&part, 1)));
    uint64_t at = 0;
    for (uint32_t i = 0; i < bitmaps.bitmap_count; ++i) {
      RawBitmapEntry raw;
      if (directory.size() - at < sizeof(raw)) {
        Corruption("ERROR the bitmap directory ends inside entry %d", i);
        co_return absl::OkStatus();
      }
      std::memcpy(&raw, directory.data() + at, sizeof(raw));
      const uint64_t length =
          AlignUp<uint64_t>(sizeof(raw) + uint64_t{raw.name_length} + raw.extra_data_bytes, 8);
      if (length > directory.size() - at) {
        Corruption("ERROR the bitmap directory ends inside entry %d", i);
        co_return absl::OkStatus();
      }
      at += length;
      const uint64_t table_bytes = uint64_t{raw.table_entries} * sizeof(Be64);
      if (raw.table_entries > 0x8000000 || layout_.offset_in_cluster(raw.table_offset) != 0) {
        Corruption("ERROR the table of bitmap %d cannot be right", i);
        continue;
      }
      if (!AddReference(raw.table_offset, table_bytes)) continue;
      std::vector<Be64> table(raw.table_entries);
      CO_RETURN_IF_ERROR(co_await ReadEntries(raw.table_offset, table));
      for (const Be64& entry : table) {
        const uint64_t host_offset = entry & kEntryOffsetMask;
        if (host_offset == 0) continue;
        if (layout_.offset_in_cluster(host_offset) != 0) {
          Corruption("ERROR a bitmap's data is at offset 0x%x", host_offset);
          continue;
        }
        AddReference(host_offset, layout_.cluster_bytes());
      }
    }
    co_return absl::OkStatus();
  }

  Task<absl::Status> CountRefcountStructures() {
    const uint64_t table_bytes = header_.refcount_table_clusters * layout_.cluster_bytes();
    if (table_bytes == 0 || header_.refcount_table_offset >= file_.size()) {
      Corruption("ERROR there is no refcount table");
      rebuild_ = true;
      co_return absl::OkStatus();
    }
    // Bytes that are missing at the end of the file are zeros.
    const uint64_t present = std::min(
        table_bytes, (file_clusters_ << layout_.cluster_bits) - header_.refcount_table_offset);
    AddReference(header_.refcount_table_offset, present);
    std::vector<Be64> raw(table_bytes / sizeof(Be64));
    CO_RETURN_IF_ERROR(co_await ReadEntries(header_.refcount_table_offset, raw));
    table_.assign(raw.begin(), raw.end());
    for (uint64_t region = 0; region < table_.size(); ++region) {
      const uint64_t block = table_[region] & kRefcountTableOffsetMask;
      if (table_[region] == 0) continue;
      if (layout_.offset_in_cluster(table_[region]) != 0) {
        Corruption("ERROR refcount block %d is not cluster aligned; refcount table entry corrupted",
                   region);
        table_[region] = 0;
        rebuild_ = true;
        continue;
      }
      if (block >= file_clusters_ << layout_.cluster_bits) {
        Corruption("ERROR refcount block %d is outside image", region);
        table_[region] = 0;
        rebuild_ = true;
        continue;
      }
      AddReference(block, layout_.cluster_bytes());
      const uint64_t count = references_.Get(layout_.cluster_index(block));
      if (count != 1) {
        Corruption("ERROR refcount block %d refcount=%d", region, count);
        rebuild_ = true;
      }
    }
    co_return absl::OkStatus();
  }

  // --- Comparing ---

  Task<absl::Status> CompareAll() {
    const uint64_t per_block = layout_.refcounts_per_block();
    uint64_t region = 0;
    while (region * per_block < file_clusters_) {
      const uint64_t begin = region * per_block;
      const uint64_t end = std::min(begin + per_block, file_clusters_);
      if (region < table_.size() && table_[region] != 0) {
        CO_RETURN_IF_ERROR(co_await CompareBlock(region, begin, end));
        ++region;
        continue;
      }
      if (region >= table_.size()) {  // No block to come: straight to what is counted.
        const uint64_t next = references_.Next(begin, file_clusters_);
        if (next == file_clusters_) break;
        CompareNothing(next, std::min((next / per_block + 1) * per_block, file_clusters_));
        region = next / per_block + 1;
        continue;
      }
      CompareNothing(begin, end);
      ++region;
    }
    co_return absl::OkStatus();
  }

  // No block describes [begin, end).
  void CompareNothing(uint64_t begin, uint64_t end) {
    for (uint64_t cluster = references_.Next(begin, end); cluster < end;
         cluster = references_.Next(cluster + 1, end)) {
      Corruption("ERROR cluster %d refcount=0 reference=%d", cluster, references_.Get(cluster));
      result_.image_end_offset = (cluster + 1) << layout_.cluster_bits;
      missing_block_ = true;
      ++unfixed_errors_;
    }
  }

  Task<absl::Status> CompareBlock(uint64_t region, uint64_t begin, uint64_t end) {
    std::vector<uint8_t> block(layout_.cluster_bytes());
    const iovec part = ToIoVec(std::span<uint8_t>(block));
    const absl::Status read = co_await file_.Read(table_[region], IoVecs(&part, 1));
    if (!read.ok()) {
      ++result_.check_errors;
      Report("ERROR %s", std::string(read.message()));
      co_return absl::OkStatus();
    }
    bool changed = false;
    for (uint64_t cluster = begin; cluster < end; ++cluster) {
      const uint64_t at = cluster - begin;
      const uint64_t stored = layout_.refcount_order == 4
                                  ? uint64_t{block[2 * at]} << 8 | block[2 * at + 1]
                                  : ReadRefcount(block, layout_.refcount_order, at);
      const uint64_t counted = references_.Get(cluster);
      uint64_t final = stored;
      if (stored != counted) {
        const bool leak = stored > counted;
        const bool fix = (repair_ == Repair::kAll || (repair_ == Repair::kLeaks && leak)) &&
                         counted <= layout_.max_refcount();
        Report("%s cluster %d refcount=%d reference=%d",
               fix    ? "Repairing"
               : leak ? "Leaked"
                      : "ERROR",
               cluster, stored, counted);
        ++(leak ? result_.leaks : result_.corruptions);
        if (fix) {
          WriteRefcount(block, layout_.refcount_order, cluster - begin, counted);
          ++(leak ? result_.leaks_fixed : result_.corruptions_fixed);
          final = counted;
          changed = true;
        }
      }
      if (final > 0 || counted > 0) {
        result_.image_end_offset = (cluster + 1) << layout_.cluster_bits;
      }
    }
    if (changed)
      CO_RETURN_IF_ERROR(co_await WriteBytes(table_[region], block.data(), block.size()));
    co_return absl::OkStatus();
  }

  // A crash may leave counts behind the end of the file, for clusters that were never there. They
  // would leak as soon as the file grows over them.
  Task<absl::Status> ClearBehindEnd() {
    const uint64_t per_block = layout_.refcounts_per_block();
    std::vector<uint8_t> block(layout_.cluster_bytes());
    for (uint64_t region = file_clusters_ / per_block; region < table_.size(); ++region) {
      if (table_[region] == 0) continue;
      const iovec part = ToIoVec(std::span<uint8_t>(block));
      CO_RETURN_IF_ERROR(co_await file_.Read(table_[region], IoVecs(&part, 1)));
      bool changed = false;
      for (uint64_t at = file_clusters_ - std::min(file_clusters_, region * per_block);
           at < per_block; ++at) {
        if (ReadRefcount(block, layout_.refcount_order, at) == 0) continue;
        WriteRefcount(block, layout_.refcount_order, at, 0);
        changed = true;
      }
      if (!changed) continue;
      CO_RETURN_IF_ERROR(co_await WriteBytes(table_[region], block.data(), block.size()));
    }
    co_return absl::OkStatus();
  }

  // --- COPIED flags and reserved bits of the active tables ---

  // What the block that was asked last says, if `cluster` is one of its own.
  absl::StatusOr<uint64_t> StoredHere(uint64_t cluster) const {
    if (cluster / layout_.refcounts_per_block() != stored_region_) return absl::NotFoundError("");
    return ReadRefcount(stored_block_, layout_.refcount_order,
                        cluster % layout_.refcounts_per_block());
  }
  // What the blocks say now.
  Task<absl::StatusOr<uint64_t>> Stored(uint64_t cluster) {
    const uint64_t region = cluster / layout_.refcounts_per_block();
    if (region >= table_.size() || table_[region] == 0) co_return uint64_t{0};
    if (region != stored_region_) {
      stored_block_.resize(layout_.cluster_bytes());
      const iovec part = ToIoVec(std::span<uint8_t>(stored_block_));
      stored_region_ = ~uint64_t{0};
      CO_RETURN_IF_ERROR(co_await file_.Read(table_[region], IoVecs(&part, 1)));
      stored_region_ = region;
    }
    co_return ReadRefcount(stored_block_, layout_.refcount_order,
                           cluster % layout_.refcounts_per_block());
  }

  Task<absl::Status> CheckActiveFlags() {
    // Each cluster is counted once and has the flag: the tables were seen, there is nothing to
    // find.
    const bool flags_are_right = plain_ && !references_.any_shared() && result_.clean();
    std::vector<Be64> l1(header_.l1_entries);
    CO_RETURN_IF_ERROR(co_await ReadEntries(header_.l1_offset, l1));
    bool l1_changed = false;
    for (uint64_t index = 0; index < l1.size(); ++index) {
      const uint64_t entry = l1[index];
      const uint64_t table = entry & kEntryOffsetMask;
      if (table == 0 || layout_.offset_in_cluster(table) != 0 ||
          layout_.cluster_index(table) >= file_clusters_) {
        continue;
      }
      const absl::StatusOr<uint64_t> count = co_await Stored(layout_.cluster_index(table));
      if (!count.ok()) {
        ++result_.check_errors;
        continue;
      }
      uint64_t wanted = entry & ~kL1ReservedMask & ~kEntryCopied;
      if (*count == 1) wanted |= kEntryCopied;
      if ((entry & kEntryCopied) != (wanted & kEntryCopied)) {
        ++result_.corruptions;
        Report("%s OFLAG_COPIED L2 cluster: l1_index=%d l1_entry=%x refcount=%d",
               repair_ == Repair::kAll ? "Repairing" : "ERROR", index, entry, *count);
      }
      if (wanted != entry && repair_ == Repair::kAll) {
        ++result_.corruptions_fixed;
        l1[index] = wanted;
        l1_changed = true;
      }
      if (!flags_are_right) CO_RETURN_IF_ERROR(co_await CheckL2Flags(table));
    }
    if (l1_changed) {
      CO_RETURN_IF_ERROR(
          co_await WriteBytes(header_.l1_offset, l1.data(), l1.size() * sizeof(Be64)));
    }
    co_return absl::OkStatus();
  }

  Task<absl::Status> CheckL2Flags(uint64_t table) {
    std::vector<Be64> entries(layout_.cluster_bytes() / sizeof(Be64));
    const absl::Status read = co_await ReadEntries(table, entries);
    if (!read.ok()) co_return absl::OkStatus();  // Reported when it was counted.
    bool changed = false;
    for (size_t i = 0; i < entries.size(); i += words_per_entry()) {
      Be64& raw = entries[i];
      const uint64_t entry = raw;
      if (entry == 0) continue;
      uint64_t wanted = entry & ~kEntryCopied;
      if ((entry & kEntryCompressed) == 0) {
        wanted &= ~kL2ReservedMask;
        const uint64_t host_offset = entry & kEntryOffsetMask;
        if (layout_.external_data) {  // Not counted: as if its count were one.
          wanted |= entry & kEntryCopied;
          if (host_offset != 0) wanted |= kEntryCopied;
          if (wanted != entry) {
            ++result_.corruptions;
            Report("%s OFLAG_COPIED data cluster: l2_entry=%x refcount=1",
                   repair_ == Repair::kAll ? "Repairing" : "ERROR", entry);
          }
        } else if (layout_.offset_in_cluster(host_offset) != 0 ||
                   layout_.cluster_index(host_offset) >= file_clusters_) {
          continue;
        } else if (host_offset != 0) {
          const uint64_t cluster = layout_.cluster_index(host_offset);
          absl::StatusOr<uint64_t> count = StoredHere(cluster);
          if (!count.ok()) count = co_await Stored(cluster);
          if (!count.ok()) {
            ++result_.check_errors;
            continue;
          }
          if (*count == 1) wanted |= kEntryCopied;
          if ((entry & kEntryCopied) != (wanted & kEntryCopied)) {
            ++result_.corruptions;
            Report("%s OFLAG_COPIED data cluster: l2_entry=%x refcount=%d",
                   repair_ == Repair::kAll ? "Repairing" : "ERROR", entry, *count);
          }
        }
      }
      if (wanted == entry || repair_ != Repair::kAll) continue;
      ++result_.corruptions_fixed;
      raw = wanted;
      changed = true;
    }
    if (changed) {
      CO_RETURN_IF_ERROR(co_await WriteBytes(table, entries.data(), entries.size() * sizeof(Be64)));
    }
    co_return absl::OkStatus();
  }

  // --- Repairing ---

  // Writes refcount blocks and table anew, behind everything else, and switches the header to them.
  Task<absl::Status> Rebuild() {
    Report("Rebuilding refcount structure");
    const uint64_t per_block = layout_.refcounts_per_block();
    const uint64_t cluster_bytes = layout_.cluster_bytes();
    if (!file_.traits().growable) {
      co_return absl::UnimplementedError(
          absl::StrFormat("%s: refcounts cannot be rebuilt on a block device", file_.name()));
    }
    // What was in force no longer is.
    const uint64_t old_bytes = header_.refcount_table_clusters * cluster_bytes;
    if (old_bytes > 0 && header_.refcount_table_offset < file_.size()) {
      DropReference(header_.refcount_table_offset,
                    std::min(old_bytes, (file_clusters_ << layout_.cluster_bits) -
                                            header_.refcount_table_offset));
    }
    for (const uint64_t block : table_) {
      if (block != 0) DropReference(block, cluster_bytes);
    }

    const uint64_t first = file_clusters_;
    std::set<uint64_t> regions;
    for (uint64_t cluster = references_.Next(0, first); cluster < first;
         cluster = references_.Next((cluster / per_block + 1) * per_block, first)) {
      regions.insert(cluster / per_block);
    }
    uint64_t table_clusters = 1;
    while (true) {
      const size_t before = regions.size();
      const uint64_t last = first + regions.size() + table_clusters - 1;
      for (uint64_t region = first / per_block; region <= last / per_block; ++region) {
        regions.insert(region);
      }
      const uint64_t wanted =
          std::max(table_clusters, layout_.clusters_for((*regions.rbegin() + 1) * sizeof(Be64)));
      if (regions.size() == before && wanted == table_clusters) break;
      table_clusters = wanted;
    }
    if (table_clusters * cluster_bytes > kMaxRefcountTableBytes) {
      co_return absl::ResourceExhaustedError(
          absl::StrFormat("%s: the file is too large for a refcount table", file_.name()));
    }
    const uint64_t clusters = regions.size() + table_clusters;
    for (uint64_t i = 0; i < clusters; ++i) references_.Add(first + i, 1);

    table_.assign(table_clusters * cluster_bytes / sizeof(Be64), 0);
    uint64_t next = first << layout_.cluster_bits;
    for (const uint64_t region : regions) {
      std::vector<uint8_t> block(cluster_bytes);
      const uint64_t end = std::min((region + 1) * per_block, first + clusters);
      for (uint64_t cluster = references_.Next(region * per_block, end); cluster < end;
           cluster = references_.Next(cluster + 1, end)) {
        const uint64_t count = references_.Get(cluster);
        if (count > layout_.max_refcount()) {
          co_return absl::DataLossError(
              absl::StrFormat("%s: cluster %d has %d references, more than %d bits can count",
                              file_.name(), cluster, count, layout_.refcount_bits()));
        }
        WriteRefcount(block, layout_.refcount_order, cluster % per_block, count);
      }
      CO_RETURN_IF_ERROR(co_await WriteBytes(next, block.data(), block.size()));
      table_[region] = next;
      next += cluster_bytes;
    }
    std::vector<Be64> raw(table_.begin(), table_.end());
    CO_RETURN_IF_ERROR(co_await WriteBytes(next, raw.data(), raw.size() * sizeof(Be64)));
    CO_RETURN_IF_ERROR(co_await file_.Sync());

    struct {
      Be64 offset;
      Be32 clusters;
    } fields = {.offset = next, .clusters = static_cast<uint32_t>(table_clusters)};
    CO_RETURN_IF_ERROR(co_await WriteBytes(kRefcountTableFieldsOffset, &fields, sizeof(fields)));
    CO_RETURN_IF_ERROR(co_await file_.Sync());
    header_.refcount_table_offset = next;
    header_.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
    file_clusters_ = first + clusters;
    result_.image_end_offset = file_clusters_ << layout_.cluster_bits;
    result_.corruptions_fixed = result_.corruptions;
    unfixed_errors_ = 0;
    stored_region_ = ~uint64_t{0};
    co_return absl::OkStatus();
  }

  Task<absl::Status> ClearDamageBits() {
    const uint64_t wanted = header_.incompatible & ~(kIncompatibleDirty | kIncompatibleCorrupt);
    if (layout_.version < 3 || wanted == header_.incompatible) co_return absl::OkStatus();
    const Be64 field(wanted);
    CO_RETURN_IF_ERROR(co_await WriteBytes(kFeatureFieldsOffset, &field, sizeof(field)));
    const absl::Status status = co_await file_.Sync();
    co_return status;
  }

  File& file_;
  Header header_;
  const Layout layout_;
  const Repair repair_;
  CheckReport* const report_;
  uint64_t file_clusters_;
  CheckResult result_;
  ReferenceCounts references_;
  std::vector<uint64_t> table_;  // Refcount blocks by region; 0 = none that can be used.
  bool rebuild_ = false;         // The structures themselves cannot be right.
  bool missing_block_ = false;
  bool plain_ = true;  // All active L2 entries are data with the COPIED flag, or empty.
  uint64_t unfixed_errors_ = 0;
  uint64_t stored_region_ = ~uint64_t{0};
  std::vector<uint8_t> stored_block_;
};

}  // namespace

Task<absl::StatusOr<CheckResult>> CheckImage(File& file, Repair repair, CheckReport* report) {
  CO_ASSIGN_OR_RETURN(Header header, co_await ReadHeader(file, Access::kRepair));
  Checker checker(file, std::move(header), repair, report);
  absl::StatusOr<CheckResult> result = co_await checker.Run();
  co_return result;
}

}  // namespace vireo::qcow2
