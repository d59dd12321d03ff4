// Snapshots of the disk, made, deleted and gone back to between sessions of requests.

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/snapshot_edit.h"
#include "storage/qcow2/snapshots.h"
#include "tests/model/workout.h"

namespace vireo {

absl::Status Workout::EditSnapshots(File& file) {
  if (snapshots_.empty() || (snapshots_.size() < 4 && chance_.OneIn(2)))
    return CreateSnapshot(file);
  return chance_.OneIn(2) ? DeleteSnapshot(file) : ApplySnapshot(file);
}

absl::Status Workout::CreateSnapshot(File& file) {
  const absl::StatusOr<std::string> id =
      loop_->RunTask(qcow2::CreateSnapshot(*loop_, file, {.name = "another"}));
  uint64_t highest = 0;
  for (const Kept& kept : snapshots_) {
    highest = std::max<uint64_t>(highest, std::strtoull(kept.id.c_str(), nullptr, 10));
  }
  doubtful_ = {.kept = {std::to_string(highest + 1), tags_}, .made = true};
  if (!id.ok()) return id.status();
  if (*id != doubtful_->kept.id) Problem("a new snapshot has the id " + *id);
  doubtful_->done = host_->Tick();
  return absl::OkStatus();
}

absl::Status Workout::DeleteSnapshot(File& file) {
  const size_t index = chance_.Below(snapshots_.size());
  doubtful_ = {.kept = snapshots_[index], .made = false};
  snapshots_.erase(snapshots_.begin() + static_cast<ptrdiff_t>(index));
  const absl::Status deleted =
      loop_->RunTask(qcow2::DeleteSnapshot(*loop_, file, doubtful_->kept.id));
  if (deleted.ok()) doubtful_->done = host_->Tick();
  return deleted;
}

absl::Status Workout::ApplySnapshot(File& file) {
  const Kept& kept = snapshots_[chance_.Below(snapshots_.size())];
  if (!bitmaps_.empty()) {
    const absl::Status refused = loop_->RunTask(qcow2::ApplySnapshot(*loop_, file, kept.id));
    if (refused.ok()) Problem("going back leaves bitmaps that do not know of it");
    return absl::IsFailedPrecondition(refused) ? absl::OkStatus() : refused;
  }
  applied_ = kept.tags;
  const uint64_t began = host_->Tick();
  history_->Grow(std::max<uint64_t>(history_->sectors(), applied_.size()));
  std::vector<size_t> changes;
  for (uint64_t i = 0; i < applied_.size(); ++i) {
    changes.push_back(history_->Begin(i, applied_[i], began));
  }
  sizes_.push_back({.sectors = applied_.size(), .began = began, .ended = kNever});
  const absl::Status status = loop_->RunTask(qcow2::ApplySnapshot(*loop_, file, kept.id));
  if (!status.ok()) return status;
  const uint64_t ended = host_->Tick();
  for (uint64_t i = 0; i < applied_.size(); ++i) {
    history_->End(i, changes[i], ended, /*durably=*/true);
  }
  sizes_.back().ended = ended;
  return status;
}

absl::StatusOr<std::vector<std::string>> Workout::SnapshotIds(MemoryMedium& left) {
  MemoryFile file(*loop_, left);
  ASSIGN_OR_RETURN(const qcow2::Header header,
                   loop_->RunTask(ReadHeader(file, qcow2::Access::kInspect)));
  ASSIGN_OR_RETURN(const qcow2::SnapshotTable table,
                   loop_->RunTask(ReadSnapshotTable(file, header)));
  std::vector<std::string> ids;
  for (const qcow2::Snapshot& snapshot : table.snapshots) ids.push_back(snapshot.id);
  return ids;
}

void Workout::VerifySnapshots(MemoryMedium& left, uint64_t moment) {
  const absl::StatusOr<std::vector<std::string>> ids = SnapshotIds(left);
  if (!ids.ok()) return Problem(absl::StrCat("the snapshots: ", ids.status().ToString()));
  std::vector<const Kept*> there;
  for (const Kept& kept : snapshots_) {
    if (std::find(ids->begin(), ids->end(), kept.id) == ids->end()) {
      return Problem("a snapshot is gone: " + kept.id);
    }
    there.push_back(&kept);
  }
  if (doubtful_.has_value()) {
    const bool found = std::find(ids->begin(), ids->end(), doubtful_->kept.id) != ids->end();
    if (found) there.push_back(&doubtful_->kept);
    if (moment >= doubtful_->done && found != doubtful_->made) {
      return Problem("a snapshot is not made or not deleted: " + doubtful_->kept.id);
    }
  }
  if (there.size() != ids->size()) return Problem("there is a snapshot that nobody made");
  if (there.empty() || !chance_.OneIn(2)) return;
  const Kept& kept = *there[chance_.Below(there.size())];
  MemoryMedium copy = left;
  MemoryFile file(*loop_, copy);
  const absl::Status removed = RemoveBitmaps(file);
  if (!removed.ok()) return Problem(absl::StrCat("removing bitmaps: ", removed.ToString()));
  const absl::Status applied = loop_->RunTask(qcow2::ApplySnapshot(*loop_, file, kept.id));
  if (!applied.ok()) return Problem(absl::StrCat("going back: ", applied.ToString()));
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = files_.Open(files_.FilesOf(copy), true);
  if (!disk.ok())
    return Problem(absl::StrCat("opened after going back: ", disk.status().ToString()));
  if (ReadTags(**disk) != kept.tags) Problem("a snapshot holds something else now: " + kept.id);
  (void)loop_->RunTask((*disk)->Close());
}

void Workout::FindSnapshots(MemoryMedium& left) {
  const absl::StatusOr<std::vector<std::string>> ids = SnapshotIds(left);
  if (!ids.ok()) return Problem(absl::StrCat("the snapshots: ", ids.status().ToString()));
  if (doubtful_.has_value() &&
      std::find(ids->begin(), ids->end(), doubtful_->kept.id) != ids->end()) {
    snapshots_.push_back(doubtful_->kept);
  }
}

}  // namespace vireo
