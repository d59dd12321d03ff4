#include "tests/model/bitmap_ledger.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/qcow2/bitmap_directory.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "storage/qcow2/header_reader.h"
#include "tests/model/content.h"

namespace vireo {
namespace {

const BitmapState* Find(const std::vector<BitmapState>& bitmaps, const std::string& name) {
  for (const BitmapState& bitmap : bitmaps) {
    if (bitmap.name == name) return &bitmap;
  }
  return nullptr;
}

bool At(const std::vector<bool>& sectors, uint64_t sector) {
  return sector < sectors.size() && sectors[sector];
}

std::string CompareBits(const BitmapState& before, const BitmapState& found,
                        const BitmapChanges& changes) {
  const uint64_t per_granule = (uint64_t{1} << found.granularity_bits) / kSectorBytes;
  for (uint64_t first = 0; first < found.dirty.size(); first += per_granule) {
    const uint64_t end = std::min<uint64_t>(first + per_granule, found.dirty.size());
    bool may_be_dirty = false;
    for (uint64_t sector = first; sector < end; ++sector) {
      const bool was = At(before.dirty, sector);
      const bool changed = found.enabled && At(changes.changed, sector);
      const bool touched = found.enabled && At(changes.touched, sector);
      may_be_dirty = may_be_dirty || was || touched;
      if ((was || changed) && !found.dirty[sector]) {
        return absl::StrFormat("bitmap %s says that sector %d is clean", found.name, sector);
      }
    }
    if (found.dirty[first] && !may_be_dirty) {
      return absl::StrFormat("bitmap %s says that sector %d is dirty", found.name, first);
    }
  }
  return "";
}

bool Same(const BitmapState& a, const BitmapState& b) {
  return a.granularity_bits == b.granularity_bits && a.enabled == b.enabled &&
         a.in_use == b.in_use && a.dirty == b.dirty;
}

std::string CompareEdited(const BitmapChanges::Edit& edit, const BitmapState* found) {
  const std::string& name = edit.from.has_value() ? edit.from->name : edit.to->name;
  const auto is = [found](const std::optional<BitmapState>& wanted) {
    if (found == nullptr || !wanted.has_value()) {
      return found == nullptr && !wanted.has_value();
    }
    return Same(*wanted, *found);
  };
  if (is(edit.to) || (!edit.done && is(edit.from))) return "";
  // Between the two, where its bits change.
  if (!edit.done && edit.from.has_value() && edit.to.has_value() && found != nullptr &&
      found->in_use) {
    return "";
  }
  return absl::StrFormat("bitmap %s is neither as it was nor as it should be", name);
}

}  // namespace

absl::StatusOr<std::vector<BitmapState>> ReadBitmaps(EventLoop& loop, File& file) {
  ASSIGN_OR_RETURN(const qcow2::Header header,
                   loop.RunTask(ReadHeader(file, qcow2::Access::kInspect)));
  ASSIGN_OR_RETURN(const std::vector<qcow2::BitmapRecord> records,
                   loop.RunTask(qcow2::ReadBitmapDirectory(file, header)));
  std::vector<BitmapState> bitmaps;
  for (const qcow2::BitmapRecord& record : records) {
    BitmapState bitmap = {.name = record.name,
                          .granularity_bits = record.granularity_bits,
                          .enabled = record.enabled(),
                          .in_use = record.in_use()};
    if (!bitmap.in_use) {
      ASSIGN_OR_RETURN(
          const qcow2::DirtyBitmap bits,
          loop.RunTask(qcow2::LoadBitmap(file, header.layout, record, header.size_bytes)));
      bitmap.dirty.resize(header.size_bytes / kSectorBytes);
      for (uint64_t sector = 0; sector < bitmap.dirty.size(); ++sector) {
        bitmap.dirty[sector] = bits.IsDirty(sector * kSectorBytes);
      }
    }
    bitmaps.push_back(std::move(bitmap));
  }
  return bitmaps;
}

std::string CompareBitmaps(const std::vector<BitmapState>& before,
                           const std::vector<BitmapState>& found, const BitmapChanges& changes) {
  std::string edited;
  if (changes.edit.has_value()) {
    edited = changes.edit->from.has_value() ? changes.edit->from->name : changes.edit->to->name;
    const std::string problem = CompareEdited(*changes.edit, Find(found, edited));
    if (!problem.empty()) return problem;
  }
  for (const BitmapState& old : before) {
    if (old.name == edited || Find(found, old.name) != nullptr) continue;
    return absl::StrFormat("bitmap %s is gone", old.name);
  }
  for (const BitmapState& bitmap : found) {
    if (bitmap.name == edited) continue;
    const BitmapState* const old = Find(before, bitmap.name);
    if (old == nullptr) return absl::StrFormat("nobody has made bitmap %s", bitmap.name);
    if (bitmap.granularity_bits != old->granularity_bits || bitmap.enabled != old->enabled) {
      return absl::StrFormat("bitmap %s is another one", bitmap.name);
    }
    if (old->in_use && !bitmap.in_use) {
      return absl::StrFormat("bitmap %s was lost and is trusted again", bitmap.name);
    }
    if (bitmap.in_use && !old->in_use && !changes.may_be_in_use) {
      return absl::StrFormat("bitmap %s is lost", bitmap.name);
    }
    if (bitmap.in_use) continue;
    const std::string problem = CompareBits(*old, bitmap, changes);
    if (!problem.empty()) return problem;
  }
  return "";
}

}  // namespace vireo
