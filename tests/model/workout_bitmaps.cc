// Persistent dirty bitmaps: which there are, what is done to them between sessions of requests, and
// what they may say after a cut.

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/check.h"
#include "base/status.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "tests/model/workout.h"

namespace vireo {

using qcow2::BitmapStore;
using qcow2::DirtyBitmap;

void Workout::MakeBitmaps(MemoryMedium& image) {
  MemoryFile file(*loop_, image);
  for (const bool enabled : {true, false, true}) {
    const uint32_t bits = 9 + static_cast<uint32_t>(chance_.Below(8));
    const BitmapState made = {.name = absl::StrCat("bitmap", ++last_bitmap_),
                              .granularity_bits = bits,
                              .enabled = enabled,
                              .dirty = std::vector<bool>(shape_.disk_bytes / kSectorBytes)};
    const absl::Status added = loop_->RunTask(Perform(&file, {.from = {}, .to = made}));
    VIREO_CHECK(added.ok(), added.ToString());
  }
}

Task<absl::Status> Workout::Perform(File* file, BitmapChanges::Edit edit) {
  absl::StatusOr<std::unique_ptr<BitmapStore>> opened = co_await BitmapStore::Open(*loop_, *file);
  CO_RETURN_IF_ERROR(opened.status());
  BitmapStore& store = **opened;
  absl::Status status;
  if (!edit.from.has_value()) {
    status = co_await store.Add(edit.to->name, edit.to->granularity_bits, edit.to->enabled);
  } else if (!edit.to.has_value()) {
    status = co_await store.Remove(edit.from->name);
  } else if (edit.from->enabled != edit.to->enabled) {
    status = co_await store.SetEnabled(edit.to->name, edit.to->enabled);
  } else {
    CO_ASSIGN_OR_RETURN(DirtyBitmap bits, co_await store.Load(edit.to->name));
    bits.MarkAllClean();
    for (uint64_t sector = 0; sector < edit.to->dirty.size(); ++sector) {
      if (edit.to->dirty[sector]) bits.MarkDirty(sector * kSectorBytes, kSectorBytes);
    }
    std::vector<BitmapStore::Stored> stored;
    stored.push_back({.name = edit.to->name, .bits = &bits});
    status = co_await store.Store(std::move(stored));
  }
  co_return status;
}

BitmapChanges::Edit Workout::PickEdit() {
  const uint64_t sectors = tags_.size();
  if (bitmaps_.empty() || (bitmaps_.size() < 5 && chance_.OneIn(3))) {
    const uint32_t bits = 9 + static_cast<uint32_t>(chance_.Below(8));
    return {.from = {},
            .to = BitmapState{.name = absl::StrCat("bitmap", ++last_bitmap_),
                              .granularity_bits = bits,
                              .enabled = chance_.OneIn(2),
                              .dirty = std::vector<bool>(sectors)}};
  }
  const BitmapState& from = bitmaps_[chance_.Below(bitmaps_.size())];
  // One that is lost can only go.
  if (from.in_use || chance_.OneIn(4)) return {.from = from, .to = {}};
  BitmapState to = from;
  switch (chance_.Below(3)) {
    case 0:
      to.enabled = !from.enabled;
      break;
    case 1:
      to.dirty.assign(sectors, false);
      break;
    default: {
      const uint64_t granule = (uint64_t{1} << from.granularity_bits) / kSectorBytes;
      const uint64_t first = AlignDown<uint64_t>(chance_.Below(sectors), granule);
      const uint64_t end = std::min(sectors, first + granule * (1 + chance_.Below(100)));
      std::fill(to.dirty.begin() + static_cast<ptrdiff_t>(first),
                to.dirty.begin() + static_cast<ptrdiff_t>(end), true);
    }
  }
  return {.from = from, .to = std::move(to)};
}

absl::Status Workout::EditBitmaps(File& file) {
  bitmap_edit_ = PickEdit();
  const absl::Status status = loop_->RunTask(Perform(&file, *bitmap_edit_));
  if (status.ok()) bitmap_edited_ = host_->Tick();
  return status;
}

absl::Status Workout::RemoveBitmaps(File& file) {
  if (!shape_.bitmaps) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<BitmapState> bitmaps, ReadBitmaps(*loop_, file));
  for (const BitmapState& bitmap : bitmaps) {
    RETURN_IF_ERROR(loop_->RunTask(Perform(&file, {.from = bitmap, .to = {}})));
  }
  return absl::OkStatus();
}

std::vector<BitmapState> Workout::BitmapsOf(MemoryMedium& left) {
  if (!shape_.bitmaps) return {};
  MemoryFile file(*loop_, left);
  absl::StatusOr<std::vector<BitmapState>> bitmaps = ReadBitmaps(*loop_, file);
  if (bitmaps.ok()) return *std::move(bitmaps);
  Problem(absl::StrCat("the bitmaps: ", bitmaps.status().ToString()));
  return {};
}

void Workout::VerifyBitmaps(const std::vector<BitmapState>& found,
                            const std::vector<uint64_t>& tags, uint64_t moment) {
  if (!shape_.bitmaps) return;
  BitmapChanges changes = {.changed = std::vector<bool>(tags.size()),
                           .touched = std::vector<bool>(tags.size())};
  for (uint64_t i = 0; i < tags.size(); ++i) {
    changes.changed[i] = tags[i] != (i < tags_.size() ? tags_[i] : 0);
    changes.touched[i] = history_->HasBegun(i, moment);
  }
  changes.edit = bitmap_edit_;
  if (changes.edit.has_value()) {
    changes.edit->done = bitmap_edited_ <= moment;
  } else {
    // A clean close stores them all; what could not be read for a failing host is given up.
    changes.may_be_in_use = closed_ > moment || host_->failed();
  }
  Problem(CompareBitmaps(bitmaps_, found, changes));
}

}  // namespace vireo
