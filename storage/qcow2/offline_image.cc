#include "storage/qcow2/offline_image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/offline_tables.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kKnownAutoclear = kAutoclearBitmaps | kAutoclearRawDataFile;

}  // namespace

Task<absl::StatusOr<std::unique_ptr<OfflineImage>>> OfflineImage::Open(EventLoop& loop,
                                                                       File& file) {
  CO_ASSIGN_OR_RETURN(Header header, co_await ReadHeader(file, Access::kReadWrite));
  CO_ASSIGN_OR_RETURN(header, co_await RepairIfDirty(file, std::move(header)));
  std::unique_ptr<OfflineImage> image(new OfflineImage(loop, file, std::move(header)));
  CO_RETURN_IF_ERROR(co_await image->Load());
  co_return image;
}

Task<absl::Status> OfflineImage::Load() {
  CO_ASSIGN_OR_RETURN(snapshots_, co_await ReadSnapshotTable(file_, header_));
  CO_RETURN_IF_ERROR(co_await counts_.Load());

  std::vector<ClusterRun> runs = counts_.StructureRuns();
  const auto add = [&](uint64_t offset, uint64_t bytes) {
    runs.push_back({layout().cluster_index(offset), layout().clusters_for(bytes)});
  };
  add(0, 1);
  add(header_.l1_offset, uint64_t{header_.l1_entries} * sizeof(Be64));
  if (header_.snapshot_count > 0) add(header_.snapshots_offset, snapshots_.bytes);
  for (const Snapshot& snapshot : snapshots_.snapshots) {
    if (!CheckSnapshotL1(file_, layout(), snapshot).ok()) continue;
    add(snapshot.l1_offset, uint64_t{snapshot.l1_entries} * sizeof(Be64));
  }
  std::erase_if(runs, [](const ClusterRun& run) { return run.count == 0; });
  std::sort(runs.begin(), runs.end(),
            [](const ClusterRun& a, const ClusterRun& b) { return a.first < b.first; });
  for (size_t i = 1; i < runs.size(); ++i) {
    if (runs[i].first >= runs[i - 1].first + runs[i - 1].count) continue;
    co_return absl::DataLossError(absl::StrFormat("%s: two of its tables overlap in cluster %d",
                                                  file_.name(), runs[i].first));
  }
  metadata_ = std::move(runs);
  CO_RETURN_IF_ERROR(co_await ProtectMetadata());

  if ((header_.autoclear & ~kKnownAutoclear) != 0) {
    header_.autoclear &= kKnownAutoclear;
    CO_RETURN_IF_ERROR(co_await WriteFeatures());
  }
  co_return absl::OkStatus();
}

Task<absl::Status> OfflineImage::ProtectMetadata() {
  counts_.Protect(metadata_);
  std::vector<Be64> l1;
  CO_ASSIGN_OR_RETURN(l1, co_await ReadL1Table(file_, header_.l1_offset, header_.l1_entries));
  for (const Be64& entry : l1) {
    // What cannot be right is for those to refuse who would go there.
    const absl::StatusOr<std::vector<uint64_t>> table =
        TablesOf(file_, layout(), std::span(&entry, 1));
    if (!table.ok() || table->empty()) continue;
    const ClusterRun run = {layout().cluster_index(table->front()), 1};
    counts_.Protect(std::span(&run, 1));
  }
  if (!HasBitmaps(header_)) co_return absl::OkStatus();
  CO_ASSIGN_OR_RETURN(const std::vector<BitmapRecord> bitmaps,
                      co_await ReadBitmapDirectory(file_, header_));
  std::vector<ClusterRun> runs = {{layout().cluster_index(header_.bitmaps->directory_offset),
                                   layout().clusters_for(header_.bitmaps->directory_bytes)}};
  for (const BitmapRecord& bitmap : bitmaps) {
    runs.push_back({layout().cluster_index(bitmap.table_offset),
                    layout().clusters_for(uint64_t{bitmap.table_entries} * sizeof(Be64))});
  }
  for (const ClusterRun& run : runs) {
    for (uint64_t i = 0; i < run.count; ++i) {
      if (!counts_.IsProtected(run.first + i)) continue;
      co_return absl::DataLossError(
          absl::StrFormat("%s: the tables of its bitmaps overlap other metadata", file_.name()));
    }
    counts_.Protect(std::span(&run, 1));
  }
  co_return absl::OkStatus();
}

bool OfflineImage::IsMetadata(uint64_t host_offset) const {
  const uint64_t cluster = layout().cluster_index(host_offset);
  return Touches(metadata_, cluster, cluster);
}

// --- Trees ---

Task<absl::Status> OfflineImage::RaiseTree(std::span<const Be64> l1) {
  CO_ASSIGN_OR_RETURN(const std::vector<uint64_t> tables, TablesOf(file_, layout(), l1));
  for (const uint64_t table : tables) {
    if (!IsMetadata(table)) continue;
    co_return absl::DataLossError(absl::StrFormat(
        "%s: an L1 entry points to offset %d, which holds other metadata", file_.name(), table));
  }
  const absl::Status status = co_await ChangeTables(tables, true);
  co_return status;
}

Task<absl::Status> OfflineImage::LowerTree(std::span<const Be64> l1) {
  std::vector<uint64_t> tables;
  absl::Status first_error;
  for (size_t i = 0; i < l1.size(); ++i) {
    const absl::StatusOr<std::vector<uint64_t>> one = TablesOf(file_, layout(), l1.subspan(i, 1));
    if (!one.ok() && first_error.ok()) first_error = one.status();
    if (one.ok() && !one->empty() && !IsMetadata(one->front())) tables.push_back(one->front());
  }
  const absl::Status changed = co_await ChangeTables(tables, false);
  co_return first_error.ok() ? changed : first_error;
}

Task<absl::Status> OfflineImage::ChangeTables(std::span<const uint64_t> tables, bool raise) {
  const bool external_data = (header_.incompatible & kIncompatibleDataFile) != 0;
  absl::Status first_error;
  TableWindow window(loop_, file_, layout());
  const size_t step = TableWindow::Size(layout());
  for (size_t at = 0; at < tables.size(); at += step) {
    const std::span<const uint64_t> part = tables.subspan(at, std::min(step, tables.size() - at));
    absl::Status status = co_await window.Read(part);
    std::vector<ClusterRun> runs;
    for (size_t i = 0; i < window.size() && status.ok(); ++i) {
      const uint64_t own = layout().cluster_index(part[i]);
      if (!runs.empty() && runs.back().first + runs.back().count == own) {
        ++runs.back().count;
      } else {
        runs.push_back({own, 1});
      }
      if (external_data) continue;
      status = AppendReferences(file_.name(), layout(), window.table(i), metadata_,
                                /*skip_invalid=*/!raise, &runs);
    }
    if (status.ok() && raise) status = co_await counts_.Raise(runs);
    if (status.ok() && !raise) status = co_await counts_.Lower(runs);
    if (!status.ok() && raise) co_return status;
    if (!status.ok() && first_error.ok()) first_error = status;
  }
  co_return first_error;
}

Task<absl::Status> OfflineImage::RefreshCopied(std::span<Be64> l1) {
  std::vector<uint64_t> tables;
  for (Be64& entry : l1) {
    const uint64_t table = entry & kEntryOffsetMask;
    if (table == 0 || layout().offset_in_cluster(table) != 0 || table >= file_.size() ||
        IsMetadata(table)) {
      continue;
    }
    CO_ASSIGN_OR_RETURN(const uint64_t count, co_await counts_.Get(layout().cluster_index(table)));
    entry = (entry & ~kL1ReservedMask & ~kEntryCopied) | (count == 1 ? kEntryCopied : 0);
    tables.push_back(table);
  }
  TableWindow window(loop_, file_, layout());
  const size_t step = TableWindow::Size(layout());
  for (size_t at = 0; at < tables.size(); at += step) {
    const auto part = std::span(tables).subspan(at, std::min(step, tables.size() - at));
    CO_RETURN_IF_ERROR(co_await window.Read(part));
    for (size_t i = 0; i < window.size(); ++i) {
      const std::span<uint8_t> table = window.table(i);
      for (size_t entry_at = 0; entry_at < table.size(); entry_at += layout().l2_entry_bytes) {
        Be64 raw;
        std::memcpy(&raw, table.data() + entry_at, sizeof(raw));
        const uint64_t entry = raw;
        const uint64_t host_offset = entry & kEntryOffsetMask;
        if ((entry & kEntryCompressed) != 0 || host_offset == 0 ||
            layout().offset_in_cluster(host_offset) != 0) {
          continue;
        }
        const uint64_t cluster = layout().cluster_index(host_offset);
        std::optional<uint64_t> count = counts_.Peek(cluster);
        if (!count.has_value()) {
          CO_ASSIGN_OR_RETURN(count, co_await counts_.Get(cluster));
        }
        const bool copied = (entry & kEntryCopied) != 0;
        if (copied == (*count == 1)) continue;
        raw = entry ^ kEntryCopied;
        std::memcpy(table.data() + entry_at, &raw, sizeof(raw));
        window.MarkChanged(i);
      }
    }
    CO_RETURN_IF_ERROR(co_await window.WriteChanged());
  }
  co_return absl::OkStatus();
}

// --- Writing ---

Task<absl::Status> OfflineImage::WriteTable(uint64_t host_offset, std::vector<uint8_t> bytes) {
  bytes.resize(AlignUp<uint64_t>(bytes.size(), layout().cluster_bytes()));
  const absl::Status status = co_await WriteBytes(host_offset, bytes);
  co_return status;
}

Task<absl::Status> OfflineImage::WriteBytes(uint64_t offset, std::span<const uint8_t> bytes) {
  const iovec part = {const_cast<uint8_t*>(bytes.data()), bytes.size()};
  if (bytes.empty()) co_return absl::OkStatus();
  const absl::Status status = co_await file_.Write(offset, IoVecs(&part, 1));
  co_return status;
}

Task<absl::Status> OfflineImage::WriteFeatures() {
  const Be64 words[3] = {header_.incompatible, header_.compatible, header_.autoclear};
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(words), sizeof(words));
  CO_RETURN_IF_ERROR(co_await WriteBytes(kFeatureFieldsOffset, bytes));
  const absl::Status status = co_await Sync();
  co_return status;
}

Task<absl::Status> OfflineImage::CutFile() {
  if (file_.traits().growable) {
    CO_RETURN_IF_ERROR(co_await Sync());
    CO_RETURN_IF_ERROR(co_await counts_.DropEmptyBlocks());
    CO_ASSIGN_OR_RETURN(const uint64_t end, co_await counts_.EndCluster());
    const uint64_t wanted = end << layout().cluster_bits;
    if (wanted > 0 && wanted < file_.size()) CO_RETURN_IF_ERROR(co_await file_.Truncate(wanted));
  }
  const absl::Status status = co_await Sync();
  co_return status;
}

}  // namespace vireo::qcow2
