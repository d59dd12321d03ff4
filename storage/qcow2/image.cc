#include "storage/qcow2/image.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {
namespace {

// Dirty L2 slices that bring a commit forward (2 MiB; less in a small cache). Writers wait when
// there are four times as many, which is never more than half of the cache.
constexpr uint64_t kDirtySlices = 512;

std::shared_ptr<CacheBudget> BudgetOf(const Image::Options& options) {
  if (options.cache_budget != nullptr) return options.cache_budget;
  return std::make_shared<CacheBudget>(options.cache_bytes);
}

Image* UnwrittenImage(BlockBackend* backing) {
  auto* const image = dynamic_cast<Image*>(backing);
  return image != nullptr && image->geometry().read_only ? image : nullptr;
}

}  // namespace

Image::Image(EventLoop& loop, Header header, Parts parts, const Options& options)
    : loop_(loop),
      file_(std::move(parts.file)),
      owned_data_(std::move(parts.data)),
      data_(owned_data_ == nullptr ? *file_ : *owned_data_),
      debug_(file_->debug_events()),
      backing_(std::move(parts.backing)),
      backing_image_(UnwrittenImage(backing_.get())),
      header_(std::move(header)),
      layout_(header_.layout),
      options_(options),
      barrier_(*file_, data_),
      metadata_(layout_),
      budget_(BudgetOf(options)),
      cache_(loop, *file_, layout_, budget_),
      refcounts_(layout_, {.file = *file_,
                           .barrier = barrier_,
                           .cache = cache_,
                           .metadata = metadata_,
                           .in_flight = in_flight_}),
      map_(layout_,
           {.file = *file_, .cache = cache_, .metadata = metadata_, .refcounts = refcounts_}),
      compressed_(loop, *file_, layout_, static_cast<Compression>(header_.compression_type)),
      packed_(layout_, refcounts_),
      bitmaps_(loop, *file_, header_),
      dirty_limit_(std::min(kDirtySlices, cache_.limit_slices() / 8)),
      background_(loop) {
  if (backing_image_ != nullptr && backing_image_->backing_image_ != nullptr) {
    chain_map_.emplace(layout_.cluster_bits, budget_);
  }
  geometry_.size_bytes = header_.size_bytes;
  geometry_.block_size = 512;
  geometry_.optimal_io_bytes = static_cast<uint32_t>(layout_.cluster_bytes());
  geometry_.discard_granularity = static_cast<uint32_t>(layout_.cluster_bytes());
  geometry_.read_only = options.read_only;
}

Task<absl::StatusOr<std::unique_ptr<BlockBackend>>> Image::Open(EventLoop& loop, Header header,
                                                                Parts parts, Options options) {
  File& file = *parts.file;
  if (header.layout.external_data && parts.data == nullptr) {
    co_return absl::InvalidArgumentError(
        absl::StrFormat("%s: 'data-file' is required for this image", file.name()));
  }
  if (!options.read_only) {
    CO_ASSIGN_OR_RETURN(header, co_await RepairIfDirty(file, std::move(header)));
  }
  std::unique_ptr<Image> image(new Image(loop, std::move(header), std::move(parts), options));
  CO_RETURN_IF_ERROR(co_await image->Load());
  std::unique_ptr<BlockBackend> opened = std::move(image);
  co_return opened;
}

Task<absl::Status> Image::Load() {
  ClusterMap* const map = &map_;
  cache_.set_vet([map](MetadataKind kind, std::span<const uint8_t> slice) {
    return kind == MetadataKind::kL2Table && map->IsSuspicious(slice);
  });
  const MetadataSet* const metadata = &metadata_;
  cache_.set_guard([metadata](MetadataKind kind, uint64_t host_offset) {
    return metadata->Is(kind, host_offset);
  });
  CO_RETURN_IF_ERROR(
      co_await refcounts_.Load(header_.refcount_table_offset, header_.refcount_table_clusters));
  if (header_.encryption.has_value() &&
      !metadata_.AddRange(MetadataKind::kEncryption, header_.encryption->offset,
                          header_.encryption->bytes)) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the encryption header overlaps other metadata", file_->name()));
  }
  CO_RETURN_IF_ERROR(co_await LoadSnapshots());
  CO_RETURN_IF_ERROR(co_await map_.Load(header_.l1_offset, header_.l1_entries));
  if (!geometry_.read_only) CO_RETURN_IF_ERROR(co_await bitmaps_.Load(&metadata_));
  co_return absl::OkStatus();
}

Task<absl::Status> Image::LoadSnapshots() {
  if (header_.snapshot_count == 0) co_return absl::OkStatus();
  const absl::StatusOr<SnapshotTable> table = co_await ReadSnapshotTable(*file_, header_);
  if (!table.ok()) {
    // A reader does not need them; a writer could not tell what they share with the image.
    if (geometry_.read_only) co_return absl::OkStatus();
    co_return table.status();
  }
  bool disjoint =
      metadata_.AddRange(MetadataKind::kSnapshots, header_.snapshots_offset, table->bytes);
  for (const Snapshot& snapshot : table->snapshots) {
    const absl::Status sane = CheckSnapshotL1(*file_, layout_, snapshot);
    if (!sane.ok()) {
      if (geometry_.read_only) continue;
      co_return sane;
    }
    const uint64_t bytes = uint64_t{snapshot.l1_entries} * sizeof(Be64);
    if (bytes == 0) continue;
    disjoint &= metadata_.AddRange(MetadataKind::kSnapshots, snapshot.l1_offset, bytes);
  }
  if (!disjoint && !geometry_.read_only) {
    co_return absl::DataLossError(
        absl::StrFormat("%s: the tables of its snapshots overlap", file_->name()));
  }
  co_return absl::OkStatus();
}

// --- Header ---

Task<absl::Status> Image::WriteHeader(uint64_t offset, std::vector<uint8_t> bytes) {
  const iovec part = ToIoVec(std::span<const uint8_t>(bytes));
  CO_RETURN_IF_ERROR(co_await file_->Write(offset, IoVecs(&part, 1)));
  const absl::Status status = co_await barrier_.Sync();
  co_return status;
}

Task<absl::Status> Image::WriteFeatures() {
  std::vector<uint8_t> fields =
      BytesOf64({header_.incompatible, header_.compatible, header_.autoclear});
  const absl::Status status = co_await WriteHeader(kFeatureFieldsOffset, std::move(fields));
  co_return status;
}

Task<absl::Status> Image::PrepareToWrite() {
  const AsyncMutex::Guard guard = co_await preparing_.Lock();
  if (prepared_) co_return absl::OkStatus();
  // What a bit promises and nobody here keeps up is promised no more (qcow2 spec,
  // "autoclear_features").
  uint64_t kept = 0;
  if (header_.bitmaps.has_value()) kept |= kAutoclearBitmaps;
  if ((header_.incompatible & kIncompatibleDataFile) != 0) kept |= kAutoclearRawDataFile;
  if ((header_.autoclear & ~kept) != 0) {
    const uint64_t before = std::exchange(header_.autoclear, header_.autoclear & kept);
    const absl::Status written = co_await WriteFeatures();
    if (!written.ok()) {
      header_.autoclear = before;
      co_return written;
    }
  }
  CO_RETURN_IF_ERROR(co_await bitmaps_.Start());
  prepared_ = true;
  co_return absl::OkStatus();
}

Task<void> Image::MarkCorrupt(absl::Status damage) {
  if (!damage_.ok() || geometry_.read_only) co_return;
  damage_ = damage;
  LogError("%s: the image contradicts itself, writes are refused from now on: %s", file_->name(),
           std::string(damage.message()));
  if (layout_.version < 3) co_return;
  header_.incompatible |= kIncompatibleCorrupt;
  const absl::Status written = co_await WriteFeatures();
  if (!written.ok()) LogError("%s: %s", file_->name(), written.ToString());
}

Task<absl::Status> Image::OnInvalid(uint64_t guest_offset, Invalid invalid) {
  const absl::Status damage = absl::DataLossError(
      absl::StrFormat("%s: guest offset %d: %s", file_->name(), guest_offset, invalid.reason));
  co_await MarkCorrupt(damage);
  co_return damage;
}
Task<absl::Status> Image::Close() {
  background_.RequestStop();
  co_await in_flight_.Drain();
  co_await background_.Join();
  absl::Status status;
  if (!geometry_.read_only) {
    status = damage_;
    packed_.Release();
    const absl::Status committed = co_await Commit();
    if (status.ok()) status = committed;
    // After damage or a failed flush nothing is counted down: leaks are the safe side.
    if (status.ok()) status = co_await refcounts_.Close();
    if (status.ok()) status = co_await bitmaps_.Store();
  }
  if (owned_data_ != nullptr) {
    const absl::Status data_closed = co_await owned_data_->Close();
    if (status.ok()) status = data_closed;
  }
  const absl::Status closed = co_await file_->Close();
  if (status.ok()) status = closed;
  if (backing_ != nullptr) {
    const absl::Status backing_closed = co_await backing_->Close();
    if (status.ok()) status = backing_closed;
  }
  co_return status;
}

}  // namespace vireo::qcow2
