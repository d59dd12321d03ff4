// Persistent dirty bitmaps as the file has them (qcow2 spec, "Bitmaps extension"): the directory
// and the bits of one bitmap.
//
//   header extension -> directory -> bitmap table -> clusters of bits
//                        (records)    (one entry per cluster; 0 zeros, 1 ones, or an offset)
//
// A bitmap with the flag in_use was being changed when somebody stopped without storing it: nobody
// can know its bits any more, and it can only be removed.

#ifndef VIREO_STORAGE_QCOW2_BITMAP_DIRECTORY_H_
#define VIREO_STORAGE_QCOW2_BITMAP_DIRECTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

struct BitmapRecord {
  std::string name;
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  uint32_t flags = 0;  // kBitmapInUse and its kin.
  uint32_t granularity_bits = 16;
  std::vector<uint8_t> extra_data;  // Kept. We know of none: such a bitmap is only kept.
  uint64_t directory_position = 0;  // Of the record, from the start of the directory.

  bool in_use() const { return (flags & kBitmapInUse) != 0; }
  bool enabled() const { return (flags & kBitmapAuto) != 0; }
  bool usable() const { return !in_use() && extra_data.empty(); }
};

// Whether the extension counts: an image whose autoclear bit says otherwise was written by somebody
// who knows no bitmaps, and has none.
bool HasBitmaps(const Header& header);

// Entries of the table of a bitmap of a disk of `disk_bytes`.
uint64_t BitmapTableEntries(const Layout& layout, uint64_t disk_bytes, uint32_t granularity_bits);

// Empty unless HasBitmaps(). DATA_LOSS for a directory that is damaged or lies past the end of the
// file.
Task<absl::StatusOr<std::vector<BitmapRecord>>> ReadBitmapDirectory(File& file,
                                                                    const Header& header);

// Sets directory_position of each. RESOURCE_EXHAUSTED beyond the limits of the format.
absl::StatusOr<std::vector<uint8_t>> SerializeBitmapDirectory(std::vector<BitmapRecord>& records);

// The record's flags, in place, as they stand in `record`; no flush.
Task<absl::Status> WriteBitmapFlags(File& file, const Header& header, BitmapRecord record);

// The entries of the bitmap's table.
Task<absl::StatusOr<std::vector<uint64_t>>> ReadBitmapTable(File& file, const Layout& layout,
                                                            BitmapRecord record);

// The bits. DATA_LOSS if the table does not fit a disk of `disk_bytes` or an entry cannot be right;
// RESOURCE_EXHAUSTED for more bits than anybody may store.
Task<absl::StatusOr<DirtyBitmap>> LoadBitmap(File& file, const Layout& layout, BitmapRecord record,
                                             uint64_t disk_bytes);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_BITMAP_DIRECTORY_H_
