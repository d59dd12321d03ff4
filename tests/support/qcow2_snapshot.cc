#include "tests/support/qcow2_snapshot.h"

#include <cstring>
#include <span>

#include "base/align.h"
#include "base/check.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

uint64_t Load64(const std::vector<uint8_t>& image, uint64_t offset) {
  Be64 value;
  std::memcpy(&value, image.data() + offset, sizeof(value));
  return value;
}

void Store64(std::vector<uint8_t>& image, uint64_t offset, uint64_t value) {
  const Be64 wire(value);
  std::memcpy(image.data() + offset, &wire, sizeof(wire));
}

}  // namespace

void AddInternalSnapshot(std::vector<uint8_t>& image) {
  const absl::StatusOr<Header> header =
      ParseHeader("image", std::span(image).first(std::min<size_t>(image.size(), 1 << 21)),
                  image.size(), Access::kReadWrite);
  VIREO_CHECK(header.ok() && header->snapshot_count == 0);
  const Layout& layout = header->layout;
  const uint64_t cluster = layout.cluster_bytes();
  const uint64_t block = Load64(image, header->refcount_table_offset);
  const auto count = [&](uint64_t offset, int64_t change) {
    const uint64_t index = layout.cluster_index(offset);
    VIREO_CHECK(index < layout.refcounts_per_block(), "all is in the first refcount block");
    const std::span<uint8_t> bytes = std::span(image).subspan(block, cluster);
    WriteRefcount(bytes, layout.refcount_order, index,
                  ReadRefcount(bytes, layout.refcount_order, index) + change);
  };

  // Behind everything else: a copy of the L1 table, then the snapshot table.
  const uint64_t l1_bytes = uint64_t{header->l1_entries} * 8;
  const uint64_t l1_copy = AlignUp<uint64_t>(image.size(), cluster);
  const uint64_t table = l1_copy + AlignUp<uint64_t>(l1_bytes, cluster);
  image.resize(table + cluster);
  for (uint64_t at = l1_copy; at < table + cluster; at += cluster) count(at, 1);

  for (uint64_t i = 0; i < header->l1_entries; ++i) {
    const uint64_t entry = Load64(image, header->l1_offset + i * 8);
    const uint64_t l2 = entry & kEntryOffsetMask;
    Store64(image, l1_copy + i * 8, l2);
    if (l2 == 0) continue;
    count(l2, 1);
    Store64(image, header->l1_offset + i * 8, l2);  // No longer COPIED.
    for (uint64_t j = 0; j < layout.l2_entries(); ++j) {
      const uint64_t at = l2 + j * layout.l2_entry_bytes;
      const uint64_t mapping = Load64(image, at);
      VIREO_CHECK((mapping & kEntryCompressed) == 0);
      if ((mapping & kEntryOffsetMask) == 0) continue;
      count(mapping & kEntryOffsetMask, 1);
      Store64(image, at, mapping & ~kEntryCopied);
    }
  }

  RawSnapshot snapshot = {};
  snapshot.l1_table_offset = l1_copy;
  snapshot.l1_size = header->l1_entries;
  snapshot.id_length = 1;
  snapshot.name_length = 4;
  snapshot.extra_data_bytes = 16;
  std::memcpy(image.data() + table, &snapshot, sizeof(snapshot));
  Store64(image, table + sizeof(snapshot) + 8, header->size_bytes);
  std::memcpy(image.data() + table + sizeof(snapshot) + 16, "1snap", 5);

  RawHeader raw;
  std::memcpy(&raw, image.data(), sizeof(raw));
  raw.snapshot_count = 1;
  raw.snapshots_offset = table;
  std::memcpy(image.data(), &raw, kVersion2HeaderBytes);
}

}  // namespace vireo::qcow2
