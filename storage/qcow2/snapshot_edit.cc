#include "storage/qcow2/snapshot_edit.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/offline_image.h"
#include "storage/qcow2/offline_tables.h"

namespace vireo::qcow2 {
namespace {

std::vector<uint8_t> BytesOf(std::span<const Be64> entries, uint64_t wanted_entries) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(entries.data());
  std::vector<uint8_t> table(bytes, bytes + entries.size_bytes());
  table.resize(wanted_entries * sizeof(Be64));
  return table;
}

absl::Status NotFound(const File& file, const std::string& id) {
  return absl::NotFoundError(
      absl::StrFormat("%s: there is no snapshot with the id %s", file.name(), id));
}

std::string NextId(const std::vector<Snapshot>& snapshots) {
  uint64_t most = 0;
  for (const Snapshot& snapshot : snapshots) {
    uint64_t id;
    if (absl::SimpleAtoi(snapshot.id, &id)) most = std::max(most, id);
  }
  return absl::StrCat(most + 1);
}

class Editor {
 public:
  static Task<absl::StatusOr<std::unique_ptr<Editor>>> Open(EventLoop& loop, File& file) {
    absl::StatusOr<std::unique_ptr<OfflineImage>> image = co_await OfflineImage::Open(loop, file);
    CO_RETURN_IF_ERROR(image.status());
    if (((*image)->header().incompatible & kIncompatibleDataFile) != 0) {
      co_return absl::UnimplementedError(absl::StrFormat(
          "%s: an image with an external data file has no internal snapshots", file.name()));
    }
    co_return std::make_unique<Editor>(*std::move(image));
  }

  explicit Editor(std::unique_ptr<OfflineImage> image)
      : image_(std::move(image)), header_(image_->header()), counts_(image_->counts()) {}

  Task<absl::StatusOr<std::string>> Create(NewSnapshot wanted) {
    std::vector<Snapshot> snapshots = image_->snapshots().snapshots;
    Snapshot snapshot = {.l1_entries = header_.l1_entries,
                         .id = NextId(snapshots),
                         .name = std::move(wanted.name),
                         .date_seconds = wanted.date_seconds,
                         .date_nanoseconds = wanted.date_nanoseconds,
                         .disk_bytes = header_.size_bytes,
                         .instructions = 0};
    snapshots.push_back(snapshot);
    // That there are not too many is said before anything is counted.
    CO_RETURN_IF_ERROR(SerializeSnapshotTable(snapshots).status());

    std::vector<Be64> l1;
    CO_ASSIGN_OR_RETURN(
        l1, co_await ReadL1Table(image_->file(), header_.l1_offset, header_.l1_entries));
    CO_RETURN_IF_ERROR(co_await image_->RaiseTree(l1));
    if (!l1.empty()) {
      CO_ASSIGN_OR_RETURN(snapshots.back().l1_offset,
                          co_await counts_.Allocate(image_->ClustersOfL1(l1.size())));
    }
    CO_ASSIGN_OR_RETURN(const NewTable table, co_await PrepareTable(snapshots));
    CO_RETURN_IF_ERROR(co_await counts_.Write());
    CO_RETURN_IF_ERROR(co_await image_->RefreshCopied(l1));
    std::vector<uint8_t> l1_bytes = BytesOf(l1, l1.size());
    CO_RETURN_IF_ERROR(co_await image_->WriteBytes(header_.l1_offset, l1_bytes));
    if (!l1.empty()) {
      CO_RETURN_IF_ERROR(
          co_await image_->WriteTable(snapshots.back().l1_offset, std::move(l1_bytes)));
    }
    CO_RETURN_IF_ERROR(co_await SwitchTable(table));
    CO_RETURN_IF_ERROR(co_await counts_.Write());
    CO_RETURN_IF_ERROR(co_await image_->Sync());
    co_return snapshot.id;
  }

  Task<absl::Status> Delete(std::string id) {
    std::vector<Snapshot> snapshots = image_->snapshots().snapshots;
    const auto found = Find(snapshots, id);
    if (found == snapshots.end()) co_return NotFound(image_->file(), id);
    const Snapshot snapshot = *found;
    snapshots.erase(found);
    CO_RETURN_IF_ERROR(CheckSnapshotL1(image_->file(), image_->layout(), snapshot));
    CO_ASSIGN_OR_RETURN(
        const std::vector<Be64> old_l1,
        co_await ReadL1Table(image_->file(), snapshot.l1_offset, snapshot.l1_entries));
    CO_ASSIGN_OR_RETURN(
        std::vector<Be64> l1,
        co_await ReadL1Table(image_->file(), header_.l1_offset, header_.l1_entries));
    CO_ASSIGN_OR_RETURN(const NewTable table, co_await PrepareTable(snapshots));
    CO_RETURN_IF_ERROR(co_await counts_.Write());
    CO_RETURN_IF_ERROR(co_await SwitchTable(table));

    // From here on an error costs leaks, not the snapshot: it is gone. All that can be done is.
    absl::Status first_error = co_await image_->LowerTree(old_l1);
    const ClusterRun l1_run = L1Run(snapshot.l1_offset, snapshot.l1_entries);
    const absl::Status lowered = co_await counts_.Lower(std::span(&l1_run, 1));
    if (first_error.ok()) first_error = lowered;
    CO_RETURN_IF_ERROR(co_await counts_.Write());
    CO_RETURN_IF_ERROR(co_await image_->RefreshCopied(l1));
    const std::vector<uint8_t> l1_bytes = BytesOf(l1, l1.size());
    CO_RETURN_IF_ERROR(co_await image_->WriteBytes(header_.l1_offset, l1_bytes));
    CO_RETURN_IF_ERROR(co_await image_->Sync());
    co_return first_error;
  }

  Task<absl::Status> Apply(std::string id) {
    std::vector<Snapshot>& snapshots = image_->snapshots().snapshots;
    const auto found = Find(snapshots, id);
    if (found == snapshots.end()) co_return NotFound(image_->file(), id);
    const Snapshot& snapshot = *found;
    if (header_.bitmaps.has_value() && (header_.autoclear & kAutoclearBitmaps) != 0) {
      co_return absl::FailedPreconditionError(
          absl::StrFormat("%s: its dirty bitmaps do not cover what a snapshot changes: remove them "
                          "first",
                          image_->file().name()));
    }
    const Layout& layout = image_->layout();
    CO_RETURN_IF_ERROR(CheckSnapshotL1(image_->file(), layout, snapshot));
    const uint64_t entries =
        std::max<uint64_t>(snapshot.l1_entries, layout.l1_entries_for(snapshot.disk_bytes));
    if (snapshot.disk_bytes >= uint64_t{1} << 63 || entries * sizeof(Be64) > kMaxL1Bytes) {
      co_return absl::DataLossError(
          absl::StrFormat("%s: the disk of snapshot %s has %d bytes, more than an L1 table covers",
                          image_->file().name(), snapshot.id, snapshot.disk_bytes));
    }
    CO_ASSIGN_OR_RETURN(
        std::vector<Be64> l1,
        co_await ReadL1Table(image_->file(), snapshot.l1_offset, snapshot.l1_entries));
    CO_ASSIGN_OR_RETURN(
        const std::vector<Be64> old_l1,
        co_await ReadL1Table(image_->file(), header_.l1_offset, header_.l1_entries));
    CO_RETURN_IF_ERROR(co_await image_->RaiseTree(l1));
    uint64_t l1_offset = 0;
    if (entries > 0) {
      CO_ASSIGN_OR_RETURN(l1_offset, co_await counts_.Allocate(image_->ClustersOfL1(entries)));
    }
    CO_RETURN_IF_ERROR(co_await counts_.Write());
    // Shared with the snapshot, whatever they were before.
    CO_RETURN_IF_ERROR(co_await image_->RefreshCopied(l1));
    if (entries > 0) {
      std::vector<uint8_t> bytes = BytesOf(l1, entries);
      CO_RETURN_IF_ERROR(co_await image_->WriteTable(l1_offset, std::move(bytes)));
    }
    CO_RETURN_IF_ERROR(co_await image_->Sync());

    const ClusterRun old_run = L1Run(header_.l1_offset, header_.l1_entries);
    CO_RETURN_IF_ERROR(co_await SwitchL1(snapshot.disk_bytes, l1_offset, entries));
    absl::Status first_error = co_await image_->LowerTree(old_l1);
    const absl::Status lowered = co_await counts_.Lower(std::span(&old_run, 1));
    if (first_error.ok()) first_error = lowered;
    CO_RETURN_IF_ERROR(co_await counts_.Write());
    CO_RETURN_IF_ERROR(co_await image_->Sync());
    co_return first_error;
  }

 private:
  struct NewTable {
    uint64_t offset = 0;
    uint64_t clusters = 0;
    uint32_t count = 0;
  };

  static std::vector<Snapshot>::iterator Find(std::vector<Snapshot>& snapshots,
                                              const std::string& id) {
    return std::find_if(snapshots.begin(), snapshots.end(),
                        [&](const Snapshot& snapshot) { return snapshot.id == id; });
  }

  ClusterRun L1Run(uint64_t offset, uint64_t entries) const {
    return {image_->layout().cluster_index(offset), image_->ClustersOfL1(entries)};
  }

  // Writes a table of `snapshots` to clusters of its own; nothing points there yet.
  Task<absl::StatusOr<NewTable>> PrepareTable(const std::vector<Snapshot>& snapshots) {
    NewTable table;
    if (snapshots.empty()) co_return table;
    CO_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, SerializeSnapshotTable(snapshots));
    table.count = static_cast<uint32_t>(snapshots.size());
    table.clusters = image_->layout().clusters_for(bytes.size());
    CO_ASSIGN_OR_RETURN(table.offset, co_await counts_.Allocate(table.clusters));
    CO_RETURN_IF_ERROR(co_await image_->WriteTable(table.offset, std::move(bytes)));
    co_return table;
  }

  // Flushes all that was written, makes `table` the one in force, durably, and frees the old one,
  // in memory.
  Task<absl::Status> SwitchTable(NewTable table) {
    CO_RETURN_IF_ERROR(co_await image_->Sync());
    struct {
      Be32 count;
      Be64 offset;
    } fields = {.count = table.count, .offset = table.offset};
    static_assert(sizeof(fields) == 12);
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(&fields), sizeof(fields));
    CO_RETURN_IF_ERROR(co_await image_->WriteBytes(kSnapshotFieldsOffset, bytes));
    CO_RETURN_IF_ERROR(co_await image_->Sync());
    const ClusterRun old = {image_->layout().cluster_index(header_.snapshots_offset),
                            image_->layout().clusters_for(image_->snapshots().bytes)};
    header_.snapshot_count = table.count;
    header_.snapshots_offset = table.offset;
    const absl::Status status = co_await counts_.Lower(std::span(&old, 1));
    co_return status;
  }

  // Size and L1 table change in one write: they lie in one sector.
  Task<absl::Status> SwitchL1(uint64_t size_bytes, uint64_t l1_offset, uint64_t entries) {
    struct {
      Be64 size;
      Be32 crypt_method;
      Be32 l1_size;
      Be64 l1_table_offset;
    } fields = {.size = size_bytes,
                .crypt_method = header_.crypt_method,
                .l1_size = static_cast<uint32_t>(entries),
                .l1_table_offset = l1_offset};
    static_assert(sizeof(fields) == 24);
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(&fields), sizeof(fields));
    CO_RETURN_IF_ERROR(co_await image_->WriteBytes(kSizeFieldOffset, bytes));
    const absl::Status status = co_await image_->Sync();
    co_return status;
  }

  const std::unique_ptr<OfflineImage> image_;
  Header& header_;
  OfflineRefcounts& counts_;
};

}  // namespace

Task<absl::StatusOr<std::string>> CreateSnapshot(EventLoop& loop, File& file, NewSnapshot wanted) {
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<Editor> editor, co_await Editor::Open(loop, file));
  absl::StatusOr<std::string> id = co_await editor->Create(std::move(wanted));
  co_return id;
}

Task<absl::Status> DeleteSnapshot(EventLoop& loop, File& file, std::string id) {
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<Editor> editor, co_await Editor::Open(loop, file));
  const absl::Status status = co_await editor->Delete(std::move(id));
  co_return status;
}

Task<absl::Status> ApplySnapshot(EventLoop& loop, File& file, std::string id) {
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<Editor> editor, co_await Editor::Open(loop, file));
  const absl::Status status = co_await editor->Apply(std::move(id));
  co_return status;
}

}  // namespace vireo::qcow2
