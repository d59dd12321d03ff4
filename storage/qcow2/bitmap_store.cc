#include "storage/qcow2/bitmap_store.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_rewrite.h"

namespace vireo::qcow2 {
namespace {

// Of all bitmaps together, as stored.
constexpr uint64_t kMaxTakenBytes = uint64_t{2} << 30;

}  // namespace

Task<absl::StatusOr<std::unique_ptr<BitmapStore>>> BitmapStore::Open(EventLoop& loop, File& file) {
  absl::StatusOr<std::unique_ptr<OfflineImage>> image = co_await OfflineImage::Open(loop, file);
  CO_RETURN_IF_ERROR(image.status());
  std::unique_ptr<BitmapStore> store(new BitmapStore(*std::move(image)));
  CO_ASSIGN_OR_RETURN(store->records_, co_await ReadBitmapDirectory(file, store->image_->header()));
  co_return store;
}

const BitmapRecord* BitmapStore::Find(const std::string& name) const {
  for (const BitmapRecord& record : records_) {
    if (record.name == name) return &record;
  }
  return nullptr;
}

absl::StatusOr<BitmapRecord*> BitmapStore::FindUsable(const std::string& name) {
  for (BitmapRecord& record : records_) {
    if (record.name != name) continue;
    if (record.usable()) return &record;
    return absl::FailedPreconditionError(
        absl::StrFormat("Bitmap '%s' is inconsistent and cannot be used", name));
  }
  return absl::NotFoundError(absl::StrFormat("Dirty bitmap '%s' not found", name));
}

// --- The directory ---

Task<absl::Status> BitmapStore::SwitchDirectory(std::vector<BitmapRecord> records) {
  Header& header = image_->header();
  const bool had = HasBitmaps(header);
  const BitmapsExtension old = had ? *header.bitmaps : BitmapsExtension{};
  if (records.empty()) {
    header.bitmaps.reset();
    header.autoclear &= ~kAutoclearBitmaps;
  } else {
    CO_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, SerializeBitmapDirectory(records));
    BitmapsExtension extension = {.bitmap_count = static_cast<uint32_t>(records.size()),
                                  .directory_bytes = bytes.size()};
    CO_ASSIGN_OR_RETURN(
        extension.directory_offset,
        co_await image_->counts().Allocate(image_->layout().clusters_for(bytes.size())));
    CO_RETURN_IF_ERROR(co_await image_->counts().Write());
    CO_RETURN_IF_ERROR(co_await image_->WriteTable(extension.directory_offset, std::move(bytes)));
    CO_RETURN_IF_ERROR(co_await image_->Sync());
    header.bitmaps = extension;
    header.autoclear |= kAutoclearBitmaps;
  }
  CO_RETURN_IF_ERROR(co_await RewriteHeader(image_->file(), header));
  records_ = std::move(records);
  if (!had) co_return absl::OkStatus();
  const ClusterRun run = RunOf(old.directory_offset, old.directory_bytes);
  CO_RETURN_IF_ERROR(co_await image_->counts().Lower(std::span(&run, 1)));
  const absl::Status status = co_await image_->counts().Write();
  co_return status;
}

Task<absl::Status> BitmapStore::Add(std::string name, uint32_t granularity_bits, bool enabled) {
  if (image_->layout().version < 3) {
    co_return absl::UnimplementedError("Cannot store dirty bitmaps in qcow2 v2 files");
  }
  if (name.empty()) co_return absl::InvalidArgumentError("Bitmap name cannot be empty");
  if (name.size() > kMaxBitmapNameBytes) {
    co_return absl::OutOfRangeError(
        absl::StrFormat("Name length exceeds maximum (%d characters)", kMaxBitmapNameBytes));
  }
  if (Find(name) != nullptr) {
    co_return absl::AlreadyExistsError(absl::StrFormat("Bitmap already exists: %s", name));
  }
  if (granularity_bits < kMinGranularityBits || granularity_bits > kMaxGranularityBits) {
    co_return absl::InvalidArgumentError("Granularity must be power of 2 and at least 512");
  }
  const uint64_t entries = BitmapTableEntries(image_->layout(), disk_bytes(), granularity_bits);
  if (entries > kMaxBitmapTableEntries ||
      entries > DivideRoundUp<uint64_t>(kMaxBitmapBytes, cluster_bytes())) {
    co_return absl::ResourceExhaustedError(
        "Much space will be occupied by the bitmap. Use larger granularity");
  }
  BitmapRecord record = {.name = std::move(name),
                         .table_entries = static_cast<uint32_t>(entries),
                         .flags = enabled ? kBitmapAuto : 0,
                         .granularity_bits = granularity_bits};
  // A disk without a byte has a table without an entry, which still has a place.
  const uint64_t clusters =
      std::max<uint64_t>(1, image_->layout().clusters_for(entries * sizeof(Be64)));
  CO_ASSIGN_OR_RETURN(record.table_offset, co_await image_->counts().Allocate(clusters));
  std::vector<uint8_t> zeros(entries * sizeof(Be64));
  CO_RETURN_IF_ERROR(co_await image_->WriteTable(record.table_offset, std::move(zeros)));
  std::vector<BitmapRecord> records = records_;
  records.push_back(std::move(record));
  const absl::Status status = co_await SwitchDirectory(std::move(records));
  co_return status;
}

Task<absl::Status> BitmapStore::Remove(std::string name) {
  const BitmapRecord* const found = Find(name);
  if (found == nullptr) {
    co_return absl::NotFoundError(absl::StrFormat("Dirty bitmap '%s' not found", name));
  }
  const BitmapRecord record = *found;
  // A table that cannot be read leaks what it points to.
  std::vector<ClusterRun> freed = {RunOf(record.table_offset, record.table_entries * sizeof(Be64))};
  const absl::StatusOr<std::vector<uint64_t>> table =
      co_await ReadBitmapTable(image_->file(), image_->layout(), record);
  if (table.ok()) {
    for (const uint64_t entry : *table) {
      const uint64_t offset = entry & kEntryOffsetMask;
      if (offset != 0 && !image_->IsProtected(offset)) freed.push_back(RunOf(offset, 1));
    }
  }
  std::vector<BitmapRecord> records = records_;
  std::erase_if(records, [&](const BitmapRecord& one) { return one.name == name; });
  CO_RETURN_IF_ERROR(co_await SwitchDirectory(std::move(records)));
  CO_RETURN_IF_ERROR(co_await image_->counts().Lower(freed));
  CO_RETURN_IF_ERROR(co_await image_->counts().Write());
  const absl::Status status = co_await image_->Sync();
  co_return status;
}

Task<absl::Status> BitmapStore::SetEnabled(std::string name, bool enabled) {
  CO_ASSIGN_OR_RETURN(BitmapRecord* const record, FindUsable(name));
  if (record->enabled() == enabled) co_return absl::OkStatus();
  record->flags ^= kBitmapAuto;
  CO_RETURN_IF_ERROR(co_await WriteBitmapFlags(image_->file(), image_->header(), *record));
  const absl::Status status = co_await image_->Sync();
  co_return status;
}

// --- Bits ---

Task<absl::StatusOr<DirtyBitmap>> BitmapStore::Load(std::string name) {
  CO_ASSIGN_OR_RETURN(BitmapRecord* const record, FindUsable(name));
  absl::StatusOr<DirtyBitmap> bits =
      co_await LoadBitmap(image_->file(), image_->layout(), *record, disk_bytes());
  co_return bits;
}

Task<absl::StatusOr<std::vector<DirtyBitmap>>> BitmapStore::TakeAll() {
  std::vector<DirtyBitmap> all;
  uint64_t total = 0;
  for (const BitmapRecord& record : records_) {
    total += uint64_t{record.table_entries} << image_->layout().cluster_bits;
    if (total > kMaxTakenBytes)
      co_return absl::ResourceExhaustedError("there are too many bitmaps");
    CO_ASSIGN_OR_RETURN(DirtyBitmap bits, co_await Load(record.name));
    all.push_back(std::move(bits));
  }
  for (BitmapRecord& record : records_) {
    record.flags |= kBitmapInUse;
    CO_RETURN_IF_ERROR(co_await WriteBitmapFlags(image_->file(), image_->header(), record));
  }
  if (!records_.empty()) CO_RETURN_IF_ERROR(co_await image_->Sync());
  co_return all;
}

Task<absl::Status> BitmapStore::Store(std::vector<Stored> bitmaps) {
  std::vector<Job> jobs;
  for (const Stored& stored : bitmaps) {
    for (BitmapRecord& record : records_) {
      if (record.name != stored.name) continue;
      jobs.push_back({.record = &record, .bits = stored.bits});
    }
  }
  bool marked = false;
  for (Job& job : jobs) {
    if (job.record->in_use()) continue;
    job.record->flags |= kBitmapInUse;
    marked = true;
    CO_RETURN_IF_ERROR(co_await WriteBitmapFlags(image_->file(), image_->header(), *job.record));
  }
  if (marked) CO_RETURN_IF_ERROR(co_await image_->Sync());

  // What is counted and holds its bits is durable before a table points there; what is freed is no
  // longer pointed to.
  for (Job& job : jobs) CO_RETURN_IF_ERROR(co_await WriteData(&job));
  CO_RETURN_IF_ERROR(co_await image_->counts().Write());
  CO_RETURN_IF_ERROR(co_await image_->Sync());
  for (Job& job : jobs) CO_RETURN_IF_ERROR(co_await WriteTable(&job));
  CO_RETURN_IF_ERROR(co_await image_->Sync());
  for (Job& job : jobs) {
    job.record->flags &= ~kBitmapInUse;
    CO_RETURN_IF_ERROR(co_await WriteBitmapFlags(image_->file(), image_->header(), *job.record));
  }
  CO_RETURN_IF_ERROR(co_await image_->Sync());
  bool freed = false;
  for (const Job& job : jobs) {
    if (job.freed.empty()) continue;
    freed = true;
    CO_RETURN_IF_ERROR(co_await image_->counts().Lower(job.freed));
  }
  if (!freed) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await image_->counts().Write());
  const absl::Status status = co_await image_->Sync();
  co_return status;
}

Task<absl::Status> BitmapStore::WriteData(Job* job) {
  const Layout& layout = image_->layout();
  BitmapRecord& record = *job->record;
  const uint64_t entries = BitmapTableEntries(layout, disk_bytes(), record.granularity_bits);
  if (entries > kMaxBitmapTableEntries) {
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("bitmap '%s' would be too large", record.name));
  }
  // Clusters that hold bits are written again: nobody trusts them while the bitmap is in use.
  CO_ASSIGN_OR_RETURN(job->table, co_await ReadBitmapTable(image_->file(), layout, record));
  std::vector<uint64_t>& table = job->table;
  for (size_t i = entries; i < table.size(); ++i) {
    const uint64_t offset = table[i] & kEntryOffsetMask;
    if (offset != 0 && !image_->IsProtected(offset)) job->freed.push_back(RunOf(offset, 1));
  }
  table.resize(entries);
  std::vector<uint8_t> bytes(layout.cluster_bytes());
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t begin = i << layout.cluster_bits;
    const uint64_t end = begin + layout.cluster_bytes();
    DirtyBitmap::Fill fill = job->bits->FillOf(begin, end);
    // The bits behind the last granule are zeros.
    if (fill == DirtyBitmap::Fill::kOnes && end * 8 > job->bits->granules()) {
      fill = DirtyBitmap::Fill::kMixed;
    }
    const uint64_t old = table[i] & kEntryOffsetMask;
    if (old != 0 && image_->IsProtected(old)) {
      co_return absl::DataLossError(absl::StrFormat("%s: bitmap \"%s\" points to metadata",
                                                    image_->file().name(), record.name));
    }
    if (fill != DirtyBitmap::Fill::kMixed) {
      if (old != 0) job->freed.push_back(RunOf(old, 1));
      table[i] = fill == DirtyBitmap::Fill::kOnes ? kBitmapEntryOnes : 0;
      continue;
    }
    if (old == 0) {
      CO_ASSIGN_OR_RETURN(table[i], co_await image_->counts().Allocate(1));
    }
    job->bits->Store(begin, bytes);
    CO_RETURN_IF_ERROR(co_await image_->WriteBytes(table[i] & kEntryOffsetMask, bytes));
  }

  const uint64_t old_bytes = uint64_t{record.table_entries} * sizeof(Be64);
  job->moved = record.table_entries != entries;
  const uint64_t clusters = std::max<uint64_t>(1, layout.clusters_for(entries * sizeof(Be64)));
  if (job->moved && clusters != std::max<uint64_t>(1, layout.clusters_for(old_bytes))) {
    job->freed.push_back(RunOf(record.table_offset, old_bytes));
    CO_ASSIGN_OR_RETURN(record.table_offset, co_await image_->counts().Allocate(clusters));
  }
  record.table_entries = static_cast<uint32_t>(entries);
  co_return absl::OkStatus();
}

Task<absl::Status> BitmapStore::WriteTable(Job* job) {
  const BitmapRecord& record = *job->record;
  std::vector<Be64> raw(job->table.begin(), job->table.end());
  const auto* const bytes = reinterpret_cast<const uint8_t*>(raw.data());
  std::vector<uint8_t> table(bytes, bytes + raw.size() * sizeof(Be64));
  if (table.empty()) table.resize(sizeof(Be64));
  CO_RETURN_IF_ERROR(co_await image_->WriteTable(record.table_offset, std::move(table)));
  if (!job->moved) co_return absl::OkStatus();
  // Where the record says that its table is. Offset and number of entries are two words, which may
  // lie in two sectors: never more entries than the table in force has clusters for.
  const uint64_t at = image_->header().bitmaps->directory_offset + record.directory_position;
  const Be64 offset(record.table_offset);
  const Be32 entries(record.table_entries);
  CO_RETURN_IF_ERROR(co_await image_->Sync());
  CO_RETURN_IF_ERROR(co_await image_->WriteBytes(
      at, std::span(reinterpret_cast<const uint8_t*>(&offset), sizeof(offset))));
  CO_RETURN_IF_ERROR(co_await image_->Sync());
  const absl::Status status = co_await image_->WriteBytes(
      at + sizeof(offset), std::span(reinterpret_cast<const uint8_t*>(&entries), sizeof(entries)));
  co_return status;
}

}  // namespace vireo::qcow2
