#include "storage/qcow2/amend.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_rewrite.h"
#include "storage/qcow2/offline_image.h"
#include "storage/qcow2/offline_tables.h"
#include "storage/qcow2/refcount_entry.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kMinClusterBytesForNames = 8192;

absl::Status Refuse(const std::string& why) { return absl::FailedPreconditionError(why); }

// The zero flags of the tables at `tables`, each of them once: taken away, and what they kept is
// freed; or, with a backing file, an error.
Task<absl::Status> DropZeroFlags(OfflineImage& image, std::vector<uint64_t> tables) {
  const Layout& layout = image.layout();
  const bool backing = image.header().backing_file.has_value();
  TableWindow window(image.loop(), image.file(), layout);
  const size_t step = TableWindow::Size(layout);
  std::vector<ClusterRun> freed;
  for (size_t at = 0; at < tables.size(); at += step) {
    const auto part = std::span(tables).subspan(at, std::min(step, tables.size() - at));
    CO_RETURN_IF_ERROR(co_await window.Read(part));
    for (size_t i = 0; i < window.size(); ++i) {
      const std::span<uint8_t> table = window.table(i);
      for (size_t entry_at = 0; entry_at < table.size(); entry_at += sizeof(Be64)) {
        Be64 raw;
        std::memcpy(&raw, table.data() + entry_at, sizeof(raw));
        if ((raw & kEntryCompressed) != 0 || (raw & kEntryZero) == 0) continue;
        if (backing) {
          co_return absl::UnimplementedError(
              "Downgrading an image with a backing file whose snapshots have zero clusters is not "
              "supported");
        }
        const uint64_t host_offset = raw & kEntryOffsetMask;
        if (host_offset != 0) {
          // One reference for each tree that the table belongs to.
          CO_ASSIGN_OR_RETURN(const uint64_t trees,
                              co_await image.counts().Get(layout.cluster_index(part[i])));
          freed.insert(freed.end(), trees, {layout.cluster_index(host_offset), 1});
        }
        raw = 0;
        std::memcpy(table.data() + entry_at, &raw, sizeof(raw));
        window.MarkChanged(i);
      }
    }
    CO_RETURN_IF_ERROR(co_await window.WriteChanged());
  }
  CO_RETURN_IF_ERROR(co_await image.Sync());
  CO_RETURN_IF_ERROR(co_await image.counts().Lower(freed));
  CO_RETURN_IF_ERROR(co_await image.counts().Write());
  const absl::Status status = co_await image.Sync();
  co_return status;
}

}  // namespace

Task<absl::Status> UpgradeToVersion3(EventLoop& loop, File& file) {
  absl::StatusOr<std::unique_ptr<OfflineImage>> image = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(image.status());
  Header header = (*image)->header();
  if (header.layout.version >= 3) co_return absl::OkStatus();
  header.layout.version = 3;
  header.header_length = kFullHeaderBytes;
  header.has_feature_names = header.layout.cluster_bytes() >= kMinClusterBytesForNames;
  const absl::Status status = co_await RewriteHeader(file, std::move(header));
  co_return status;
}

Task<absl::Status> DowngradeToVersion2(EventLoop& loop, File& file) {
  absl::StatusOr<std::unique_ptr<BitmapStore>> store = co_await BitmapStore::Open(loop, file);
  CO_RETURN_IF_ERROR(store.status());
  OfflineImage& image = (*store)->image();
  if (image.layout().version < 3) co_return absl::OkStatus();
  const uint64_t incompatible = image.header().incompatible;
  if ((incompatible & kIncompatibleDataFile) != 0) {
    co_return Refuse("Cannot downgrade an image with a data file");
  }
  if (image.layout().refcount_order != 4) {
    co_return Refuse("compat=0.10 requires refcount_bits=16");
  }
  if (incompatible != 0) {
    co_return Refuse(absl::StrFormat(
        "Cannot downgrade an image with incompatible features 0x%x set", incompatible));
  }
  std::set<uint64_t> tables;
  std::vector<std::pair<uint64_t, uint64_t>> trees = {
      {image.header().l1_offset, image.header().l1_entries}};
  for (const Snapshot& snapshot : image.snapshots().snapshots) {
    CO_RETURN_IF_ERROR(CheckSnapshotL1(file, image.layout(), snapshot));
    trees.emplace_back(snapshot.l1_offset, snapshot.l1_entries);
  }
  for (const auto& [offset, entries] : trees) {
    CO_ASSIGN_OR_RETURN(const std::vector<Be64> l1, co_await ReadL1Table(file, offset, entries));
    CO_ASSIGN_OR_RETURN(const std::vector<uint64_t> found, TablesOf(file, image.layout(), l1));
    tables.insert(found.begin(), found.end());
  }
  std::vector<uint64_t> list(tables.begin(), tables.end());
  CO_RETURN_IF_ERROR(co_await DropZeroFlags(image, std::move(list)));
  while (!(*store)->records().empty()) {
    std::string name = (*store)->records().front().name;
    CO_RETURN_IF_ERROR(co_await (*store)->Remove(std::move(name)));
  }
  Header header = image.header();
  header.layout.version = 2;
  header.header_length = kVersion2HeaderBytes;
  header.compatible = 0;
  header.autoclear = 0;
  header.bitmaps.reset();
  header.unknown_fields.clear();
  header.has_feature_names = false;
  const absl::Status status = co_await RewriteHeader(file, std::move(header));
  co_return status;
}

Task<absl::Status> SetLazyRefcounts(EventLoop& loop, File& file, bool lazy) {
  absl::StatusOr<std::unique_ptr<OfflineImage>> image = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(image.status());
  Header& header = (*image)->header();
  if (((header.compatible & kCompatibleLazyRefcounts) != 0) == lazy) co_return absl::OkStatus();
  if (header.layout.version < 3) {
    co_return Refuse(
        "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or "
        "greater)");
  }
  header.compatible ^= kCompatibleLazyRefcounts;
  const absl::Status status = co_await (*image)->WriteFeatures();
  co_return status;
}

Task<absl::Status> ChangeRefcountOrder(EventLoop& loop, File& file, uint32_t order) {
  absl::StatusOr<std::unique_ptr<OfflineImage>> opened = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(opened.status());
  OfflineImage& image = **opened;
  const Header& header = image.header();
  if (header.layout.refcount_order == order) co_return absl::OkStatus();
  if (header.layout.version < 3) {
    co_return Refuse(
        "Refcount widths other than 16 bits require compatibility level 1.1 or above (use "
        "compat=1.1 or greater)");
  }
  Layout wanted = header.layout;
  wanted.refcount_order = order;
  const uint64_t per_block = wanted.refcounts_per_block();
  const uint64_t cluster_bytes = wanted.cluster_bytes();

  // Behind everything: [blocks] [table]. A region without a count has no block. A device is longer
  // than what it holds: behind what is counted.
  CO_ASSIGN_OR_RETURN(const uint64_t end, co_await image.counts().EndCluster());
  const bool growable = file.traits().growable;
  const uint64_t first = growable ? std::max(end, wanted.clusters_for(file.size())) : end;
  std::set<uint64_t> regions;
  for (uint64_t cluster = 0; cluster < end; ++cluster) {
    CO_ASSIGN_OR_RETURN(const uint64_t count, co_await image.counts().Get(cluster));
    if (count == 0) continue;
    if (count > wanted.max_refcount()) {
      co_return Refuse(absl::StrFormat(
          "Cannot decrease refcount entry width to %d bits: Cluster at offset %#x has a refcount "
          "of %d",
          wanted.refcount_bits(), cluster << wanted.cluster_bits, count));
    }
    regions.insert(cluster / per_block);
  }
  uint64_t table_clusters = 1;
  while (true) {
    const size_t before = regions.size();
    const uint64_t last = first + regions.size() + table_clusters - 1;
    for (uint64_t region = first / per_block; region <= last / per_block; ++region) {
      regions.insert(region);
    }
    const uint64_t needed =
        std::max(table_clusters, wanted.clusters_for((*regions.rbegin() + 1) * sizeof(Be64)));
    if (regions.size() == before && needed == table_clusters) break;
    table_clusters = needed;
  }
  if (table_clusters * cluster_bytes > kMaxRefcountTableBytes) {
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: the file is too large for a refcount table", file.name()));
  }

  const uint64_t behind = first + regions.size() + table_clusters;
  if (!growable && behind > wanted.cluster_index(file.size())) {
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: no room for %d more clusters", file.name(), behind - first));
  }
  std::vector<Be64> table(table_clusters * cluster_bytes / sizeof(Be64), Be64(0));
  uint64_t next = first << wanted.cluster_bits;
  for (const uint64_t region : regions) {
    std::vector<uint8_t> block(cluster_bytes);
    const uint64_t stop = std::min((region + 1) * per_block, behind);
    for (uint64_t cluster = region * per_block; cluster < stop; ++cluster) {
      uint64_t count = 1;
      if (cluster < first) {
        CO_ASSIGN_OR_RETURN(count, co_await image.counts().Get(cluster));
      }
      if (count != 0) WriteRefcount(block, order, cluster % per_block, count);
    }
    CO_RETURN_IF_ERROR(co_await image.WriteBytes(next, block));
    table[region] = next;
    next += cluster_bytes;
  }
  CO_RETURN_IF_ERROR(co_await image.WriteBytes(
      next,
      std::span(reinterpret_cast<const uint8_t*>(table.data()), table.size() * sizeof(Be64))));
  CO_RETURN_IF_ERROR(co_await image.Sync());

  // From the table's place to the width: one write, inside one sector.
  RawHeader raw;
  const iovec head = {&raw, sizeof(raw)};
  CO_RETURN_IF_ERROR(co_await file.Read(0, IoVecs(&head, 1)));
  raw.refcount_table_offset = next;
  raw.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
  raw.refcount_order = order;
  constexpr size_t kBegin = offsetof(RawHeader, refcount_table_offset);
  constexpr size_t kEnd = offsetof(RawHeader, refcount_order) + sizeof(Be32);
  const auto* const bytes = reinterpret_cast<const uint8_t*>(&raw);
  const std::vector<ClusterRun> old = image.counts().StructureRuns();
  CO_RETURN_IF_ERROR(co_await image.WriteBytes(kBegin, std::span(bytes + kBegin, kEnd - kBegin)));
  CO_RETURN_IF_ERROR(co_await image.Sync());

  // The old structures are no longer pointed to.
  absl::StatusOr<std::unique_ptr<OfflineImage>> changed = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(changed.status());
  CO_RETURN_IF_ERROR(co_await (*changed)->counts().Lower(old));
  CO_RETURN_IF_ERROR(co_await (*changed)->counts().Write());
  const absl::Status status = co_await (*changed)->CutFile();
  co_return status;
}

}  // namespace vireo::qcow2
