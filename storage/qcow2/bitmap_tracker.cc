#include "storage/qcow2/bitmap_tracker.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

// Of all bitmaps of an image together, as stored; memory is needed for what is neither all clean
// nor all dirty. Many of a hostile image may share what they are stored in.
constexpr uint64_t kMaxTrackedBytes = uint64_t{2} << 30;

}  // namespace

Task<absl::Status> BitmapTracker::Load(MetadataSet* metadata) {
  CO_ASSIGN_OR_RETURN(records_, co_await ReadBitmapDirectory(file_, header_));
  if (records_.empty()) co_return absl::OkStatus();
  bool disjoint = metadata->AddRange(MetadataKind::kBitmaps, header_.bitmaps->directory_offset,
                                     header_.bitmaps->directory_bytes);
  for (const BitmapRecord& record : records_) {
    if (record.table_entries == 0) continue;
    disjoint &= metadata->AddRange(MetadataKind::kBitmaps, record.table_offset,
                                   uint64_t{record.table_entries} * sizeof(Be64));
  }
  if (disjoint) co_return absl::OkStatus();
  co_return absl::DataLossError(
      absl::StrFormat("%s: the tables of its bitmaps overlap other metadata", file_.name()));
}

bool BitmapTracker::IsTracked(const std::string& name) const {
  return std::any_of(tracked_.begin(), tracked_.end(),
                     [&](const Tracked& one) { return one.record.name == name; });
}

Task<absl::Status> BitmapTracker::Start() {
  const absl::Status status = co_await Take(/*disabled_too=*/false);
  co_return status;
}

Task<absl::Status> BitmapTracker::Take(bool disabled_too) {
  std::vector<Tracked> taken;
  uint64_t total = 0;
  for (const Tracked& one : tracked_) total += one.bits.stored_bytes();
  bool marked = false;
  for (BitmapRecord& record : records_) {
    if (!record.usable() || IsTracked(record.name)) continue;
    if (!record.enabled() && !disabled_too) continue;
    absl::StatusOr<DirtyBitmap> bits = absl::ResourceExhaustedError("there are too many bitmaps");
    total += uint64_t{record.table_entries} << header_.layout.cluster_bits;
    if (total <= kMaxTrackedBytes) {
      bits = co_await LoadBitmap(file_, header_.layout, record, header_.size_bytes);
    }
    BitmapRecord in_use = record;
    in_use.flags |= kBitmapInUse;
    CO_RETURN_IF_ERROR(co_await WriteBitmapFlags(file_, header_, in_use));
    marked = true;
    if (bits.ok()) {
      taken.push_back({.record = std::move(in_use), .bits = *std::move(bits)});
    } else {
      LogWarning("%s: bitmap \"%s\" is lost: %s", file_.name(), record.name,
                 bits.status().ToString());
      record.flags |= kBitmapInUse;
    }
  }
  if (marked) CO_RETURN_IF_ERROR(co_await file_.Sync());
  for (Tracked& one : taken) tracked_.push_back(std::move(one));
  co_return absl::OkStatus();
}

Task<absl::Status> BitmapTracker::PrepareResize() {
  for (const BitmapRecord& record : records_) {
    if (record.usable()) continue;
    co_return absl::FailedPreconditionError(
        absl::StrFormat("Bitmap '%s' is inconsistent and cannot be used", record.name));
  }
  const absl::Status status = co_await Take(/*disabled_too=*/true);
  co_return status;
}

void BitmapTracker::Resize(uint64_t disk_bytes) {
  for (Tracked& one : tracked_) one.bits.Resize(disk_bytes);
}

Task<absl::Status> BitmapTracker::Store() {
  if (tracked_.empty()) co_return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<BitmapStore>> store = co_await BitmapStore::Open(loop_, file_);
  CO_RETURN_IF_ERROR(store.status());
  std::vector<BitmapStore::Stored> bitmaps;
  for (const Tracked& one : tracked_) {
    bitmaps.push_back({.name = one.record.name, .bits = &one.bits});
  }
  const absl::Status status = co_await (*store)->Store(std::move(bitmaps));
  co_return status;
}

DirtyBitmap* BitmapTracker::Find(const std::string& name) {
  for (Tracked& one : tracked_) {
    if (one.record.name == name) return &one.bits;
  }
  return nullptr;
}

}  // namespace vireo::qcow2
