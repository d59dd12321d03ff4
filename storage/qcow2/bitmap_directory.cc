#include "storage/qcow2/bitmap_directory.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo::qcow2 {

bool HasBitmaps(const Header& header) {
  return header.bitmaps.has_value() && (header.autoclear & kAutoclearBitmaps) != 0;
}

uint64_t BitmapTableEntries(const Layout& layout, uint64_t disk_bytes, uint32_t granularity_bits) {
  const uint64_t granules = DivideRoundUp<uint64_t>(disk_bytes, uint64_t{1} << granularity_bits);
  return layout.clusters_for(DivideRoundUp<uint64_t>(granules, 8));
}

Task<absl::StatusOr<std::vector<BitmapRecord>>> ReadBitmapDirectory(File& file,
                                                                    const Header& header) {
  std::vector<BitmapRecord> records;
  if (!HasBitmaps(header)) co_return records;
  const BitmapsExtension& extension = *header.bitmaps;
  const Layout& layout = header.layout;
  const auto bad = [&](const std::string& what) {
    return absl::DataLossError(absl::StrFormat("%s: the bitmap directory %s", file.name(), what));
  };
  if (extension.directory_bytes > file.size() ||
      extension.directory_offset > file.size() - extension.directory_bytes) {
    co_return bad("is past the end of the file");
  }
  std::vector<uint8_t> directory(extension.directory_bytes);
  const iovec part = ToIoVec(std::span<uint8_t>(directory));
  if (!directory.empty()) {
    CO_RETURN_IF_ERROR(co_await file.Read(extension.directory_offset, IoVecs(&part, 1)));
  }
  std::set<std::string> names;
  uint64_t at = 0;
  for (uint32_t i = 0; i < extension.bitmap_count; ++i) {
    RawBitmapEntry raw;
    if (directory.size() - at < sizeof(raw)) co_return bad("ends inside a record");
    std::memcpy(&raw, directory.data() + at, sizeof(raw));
    const uint64_t length =
        AlignUp<uint64_t>(sizeof(raw) + uint64_t{raw.extra_data_bytes} + raw.name_length, 8);
    if (length > directory.size() - at) co_return bad("ends inside a record");
    BitmapRecord record = {.table_offset = raw.table_offset,
                           .table_entries = raw.table_entries,
                           .flags = raw.flags,
                           .granularity_bits = raw.granularity_bits,
                           .directory_position = at};
    const uint8_t* const extra = directory.data() + at + sizeof(raw);
    record.extra_data.assign(extra, extra + raw.extra_data_bytes);
    record.name.assign(reinterpret_cast<const char*>(extra) + raw.extra_data_bytes,
                       raw.name_length);
    const uint64_t table_bytes = uint64_t{record.table_entries} * sizeof(Be64);
    if (raw.type != kBitmapTypeDirty || (record.flags & ~kKnownBitmapFlags) != 0 ||
        record.granularity_bits < kMinGranularityBits ||
        record.granularity_bits > kMaxGranularityBits || record.name.empty() ||
        record.name.size() > kMaxBitmapNameBytes || record.table_entries > kMaxBitmapTableEntries ||
        layout.offset_in_cluster(record.table_offset) != 0 ||
        record.table_offset < layout.cluster_bytes() || record.table_offset >= kMaxHostOffset ||
        record.table_offset + table_bytes >
            AlignUp<uint64_t>(file.size(), layout.cluster_bytes())) {
      co_return bad(absl::StrFormat("has a record that cannot be right, number %d", i));
    }
    if (!names.insert(record.name).second) co_return bad("has one name twice");
    records.push_back(std::move(record));
    at += length;
  }
  if (at != directory.size()) co_return bad("is longer than its records");
  co_return records;
}

absl::StatusOr<std::vector<uint8_t>> SerializeBitmapDirectory(std::vector<BitmapRecord>& records) {
  if (records.size() > kMaxBitmaps) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("an image has at most %d bitmaps", kMaxBitmaps));
  }
  std::vector<uint8_t> out;
  for (BitmapRecord& record : records) {
    record.directory_position = out.size();
    RawBitmapEntry raw = {};
    raw.table_offset = record.table_offset;
    raw.table_entries = record.table_entries;
    raw.flags = record.flags;
    raw.type = kBitmapTypeDirty;
    raw.granularity_bits = static_cast<uint8_t>(record.granularity_bits);
    raw.name_length = static_cast<uint16_t>(record.name.size());
    raw.extra_data_bytes = static_cast<uint32_t>(record.extra_data.size());
    const auto* const bytes = reinterpret_cast<const uint8_t*>(&raw);
    out.insert(out.end(), bytes, bytes + sizeof(raw));
    out.insert(out.end(), record.extra_data.begin(), record.extra_data.end());
    out.insert(out.end(), record.name.begin(), record.name.end());
    out.resize(AlignUp<uint64_t>(out.size(), 8));
  }
  if (out.size() > kMaxBitmapDirectoryBytes) {
    return absl::ResourceExhaustedError("the bitmap directory would be too large");
  }
  return out;
}

Task<absl::Status> WriteBitmapFlags(File& file, const Header& header, BitmapRecord record) {
  const Be32 flags(record.flags);
  const iovec part = {const_cast<Be32*>(&flags), sizeof(flags)};
  const uint64_t at = header.bitmaps->directory_offset + record.directory_position +
                      offsetof(RawBitmapEntry, flags);
  const absl::Status status = co_await file.Write(at, IoVecs(&part, 1));
  co_return status;
}

Task<absl::StatusOr<std::vector<uint64_t>>> ReadBitmapTable(File& file, const Layout& layout,
                                                            BitmapRecord record) {
  std::vector<Be64> raw(record.table_entries);
  const iovec part = {raw.data(), raw.size() * sizeof(Be64)};
  if (!raw.empty()) CO_RETURN_IF_ERROR(co_await file.Read(record.table_offset, IoVecs(&part, 1)));
  std::vector<uint64_t> table(raw.begin(), raw.end());
  for (const uint64_t entry : table) {
    const uint64_t offset = entry & kEntryOffsetMask;
    const bool sane = (entry & ~kEntryOffsetMask) <= (offset == 0 ? kBitmapEntryOnes : 0) &&
                      layout.offset_in_cluster(offset) == 0 && offset < file.size();
    if (sane) continue;
    co_return absl::DataLossError(absl::StrFormat("%s: bitmap \"%s\" has a table entry 0x%x",
                                                  file.name(), record.name, entry));
  }
  co_return table;
}

Task<absl::StatusOr<DirtyBitmap>> LoadBitmap(File& file, const Layout& layout, BitmapRecord record,
                                             uint64_t disk_bytes) {
  if (record.table_entries != BitmapTableEntries(layout, disk_bytes, record.granularity_bits)) {
    co_return absl::DataLossError(absl::StrFormat(
        "%s: the table of bitmap \"%s\" has %d entries, which does not fit the disk", file.name(),
        record.name, record.table_entries));
  }
  if (uint64_t{record.table_entries} << layout.cluster_bits >
      kMaxBitmapBytes + layout.cluster_bytes()) {
    co_return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: bitmap \"%s\" has more bits than can be kept", file.name(), record.name));
  }
  CO_ASSIGN_OR_RETURN(const std::vector<uint64_t> table,
                      co_await ReadBitmapTable(file, layout, record));
  DirtyBitmap bitmap(disk_bytes, record.granularity_bits);
  std::vector<uint8_t> bytes(layout.cluster_bytes());
  for (size_t i = 0; i < table.size(); ++i) {
    const uint64_t begin = i * layout.cluster_bytes();
    if (table[i] == kBitmapEntryOnes) bitmap.LoadOnes(begin, begin + layout.cluster_bytes());
    const uint64_t offset = table[i] & kEntryOffsetMask;
    if (offset == 0) continue;
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    CO_RETURN_IF_ERROR(co_await file.Read(offset, IoVecs(&part, 1)));
    bitmap.Load(begin, bytes);
  }
  co_return bitmap;
}

}  // namespace vireo::qcow2
