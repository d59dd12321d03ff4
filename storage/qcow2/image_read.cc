// Reading, and what stores a range.

#include <algorithm>

#include "base/align.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {

Task<absl::Status> Image::Read(uint64_t offset, IoVecs dst) {
  const InFlight::Operation operation(in_flight_);
  const uint64_t length = TotalSize(dst);
  CO_RETURN_IF_ERROR(CheckRequest(file_->name(), geometry_, offset, length));
  if (length == 0) co_return absl::OkStatus();
  const std::optional<MappedRun> run = map_.LookupCached(offset, length);
  if (run.has_value() && run->length == length) {
    const absl::Status status = co_await ReadRun(*run, offset, dst);
    co_return status;
  }
  const absl::Status status = co_await ReadBytes(offset, dst);
  co_return status;
}

Task<absl::Status> Image::ReadBytes(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  CO_ASSIGN_OR_RETURN(MappedRun run, co_await map_.Lookup(offset, length));
  if (run.length == length) {
    const absl::Status status = co_await ReadRun(run, offset, dst);
    co_return status;
  }
  // All pieces are under way at once.
  absl::Status status;
  TaskScope pieces(loop_);
  uint64_t done = 0;
  while (true) {
    pieces.Spawn(ReadPiece(run, offset + done, Slice(dst, done, run.length), &status));
    done += run.length;
    if (done == length) break;
    const absl::StatusOr<MappedRun> next = co_await map_.Lookup(offset + done, length - done);
    if (!next.ok()) {
      status = next.status();
      break;
    }
    run = *next;
  }
  co_await pieces.Join();
  co_return status;
}

Task<void> Image::ReadPiece(MappedRun run, uint64_t offset, IoVecList dst, absl::Status* status) {
  const absl::Status read = co_await ReadRun(run, offset, dst);
  if (!read.ok()) *status = read;
}

Task<absl::Status> Image::ReadRun(MappedRun run, uint64_t offset, IoVecs dst) {
  if (const auto* allocated = std::get_if<Allocated>(&run.mapping)) {
    if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kReadAio);
    const absl::Status status = co_await data_.Read(allocated->host_offset, dst);
    co_return status;
  }
  if (std::holds_alternative<Unallocated>(run.mapping)) {
    const absl::Status status = co_await ReadBacking(offset, dst);
    co_return status;
  }
  if (const auto* compressed = std::get_if<Compressed>(&run.mapping)) {
    if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kReadCompressed);
    CO_ASSIGN_OR_RETURN(const CompressedClusters::Cluster cluster,
                        co_await compressed_.Get(*compressed));
    CopyToIoVecs(std::span(*cluster).subspan(layout_.offset_in_cluster(offset)), dst);
    co_return absl::OkStatus();
  }
  if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
    const absl::Status status = co_await OnInvalid(offset, *invalid);
    co_return status;
  }
  FillIoVecs(dst, 0);
  co_return absl::OkStatus();
}

// What a longer backing file holds behind our end is invisible, also to clusters that reach there.
uint64_t Image::BackingEnd() const {
  if (backing_ == nullptr) return 0;
  return std::min(backing_->geometry().size_bytes, geometry_.size_bytes);
}

// Found once; what is not in memory yet is for the reader that comes there to load.
ChainMap::Answer Image::LayersWithout(uint64_t cluster) {
  if (const std::optional<ChainMap::Answer> known = chain_map_->Find(cluster)) return *known;
  if (beneath_.empty()) {
    for (Image* layer = backing_image_; layer != nullptr; layer = layer->backing_image_) {
      beneath_.push_back(layer);
    }
  }
  const uint64_t bytes = layout_.cluster_bytes();
  ChainMap::Answer answer = {.whole = true};
  uint64_t end = BackingEnd();
  while (answer.layers < beneath_.size() && beneath_[answer.layers]->debug_ == nullptr) {
    Image& layer = *beneath_[answer.layers];
    const std::optional<MappedRun> run =
        cluster + bytes <= end ? layer.map_.LookupCached(cluster, bytes) : MappedRun{.length = 0};
    if (!run.has_value()) return {.layers = answer.layers, .whole = false};
    answer.whole = run->length == bytes;
    if (!answer.whole || !std::holds_alternative<Unallocated>(run->mapping)) break;
    end = layer.BackingEnd();
    ++answer.layers;
  }
  chain_map_->Learn(cluster, answer);
  return answer;
}

Image* Image::LowestEmptyLayer(uint64_t offset, uint64_t length) {
  Image* layer = this;
  const uint64_t cluster = layout_.cluster_start(offset);
  const uint64_t end = cluster + layout_.cluster_bytes();
  if (chain_map_.has_value() && offset + length <= end && end <= BackingEnd()) {
    const ChainMap::Answer answer = LayersWithout(cluster);
    if (answer.layers > 0) layer = beneath_[answer.layers - 1];
    if (answer.whole) return layer;
  }
  while (layer->backing_image_ != nullptr && layer->backing_image_->debug_ == nullptr &&
         offset + length <= layer->BackingEnd()) {
    const std::optional<MappedRun> run = layer->backing_image_->map_.LookupCached(offset, length);
    if (!run.has_value() || run->length < length ||
        !std::holds_alternative<Unallocated>(run->mapping)) {
      break;
    }
    layer = layer->backing_image_;
  }
  return layer;
}

Task<absl::Status> Image::ReadBacking(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  Image* const layer = debug_ == nullptr ? LowestEmptyLayer(offset, length) : this;
  const uint64_t end = layer->BackingEnd();
  const uint64_t stored = offset < end ? std::min(length, end - offset) : 0;
  IoVecList part;
  if (stored < length) {
    const IoVecList rest = Slice(dst, stored, length - stored);
    FillIoVecs(rest, 0);
    if (stored == 0) co_return absl::OkStatus();
    part = Slice(dst, 0, stored);
    dst = part;
  }
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kReadBackingAio);
  Image* const next = layer->backing_image_;
  std::optional<MappedRun> run;
  if (next != nullptr) run = next->map_.LookupCached(offset, stored);
  if (run.has_value() && run->length == stored) {
    const absl::Status status = co_await next->ReadRun(*run, offset, dst);
    co_return status;
  }
  const absl::Status status = co_await layer->backing_->Read(offset, dst);
  co_return status;
}

bool Image::HasUnwrittenClusters() {
  if (has_unwritten_clusters_.has_value()) return *has_unwritten_clusters_;
  // As QEMU sees it: one cluster in ten is missing on the host, and more than two are.
  const absl::StatusOr<uint64_t> bytes = data_.AllocatedBytes();
  const uint64_t stored = bytes.ok() ? layout_.clusters_for(*bytes) : 0;
  const uint64_t wanted = data_.size() >> layout_.cluster_bits;
  has_unwritten_clusters_ = bytes.ok() && wanted >= std::max(stored * 10 / 9, stored + 2);
  return *has_unwritten_clusters_;
}

Task<absl::Status> Image::LookForHole(RangeStatus* answer) {
  constexpr uint64_t kSector = 512;
  if (*answer->host_offset >= data_.size()) {
    answer->reads_as_zeros = true;
    co_return absl::OkStatus();
  }
  CO_ASSIGN_OR_RETURN(const FileExtent extent, co_await data_.Extent(*answer->host_offset));
  // A hole's last part of a sector counts as data, except at the end of the file.
  const bool ends_file = *answer->host_offset + extent.length >= data_.size();
  const uint64_t length = extent.data || ends_file ? AlignUp<uint64_t>(extent.length, kSector)
                                                   : AlignDown<uint64_t>(extent.length, kSector);
  answer->reads_as_zeros = !extent.data && length > 0;
  if (answer->reads_as_zeros && ends_file) co_return absl::OkStatus();
  answer->length = std::min(answer->length, std::max(length, kSector));
  co_return absl::OkStatus();
}

void Image::SetPlace(RangeStatus* answer, std::optional<uint64_t> host_offset) const {
  if (!host_offset.has_value() || header_.crypt_method != kCryptNone) return;
  answer->host_offset = host_offset;
  answer->file_name = &data_.name();
}

Task<absl::StatusOr<RangeStatus>> Image::Status(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckRequest(file_->name(), geometry_, offset, length));
  CO_ASSIGN_OR_RETURN(const MappedRun run, co_await map_.Lookup(offset, length));
  if (const auto* invalid = std::get_if<Invalid>(&run.mapping)) {
    const absl::Status status = co_await OnInvalid(offset, *invalid);
    co_return status;
  }
  RangeStatus answer = {.kind = RangeKind::kData, .length = run.length, .present = true};
  if (const auto* allocated = std::get_if<Allocated>(&run.mapping)) {
    SetPlace(&answer, allocated->host_offset);
    if (answer.host_offset.has_value()) answer.file = &data_;
    if (answer.file != nullptr && HasUnwrittenClusters()) {
      CO_RETURN_IF_ERROR(co_await LookForHole(&answer));
    }
  } else if (const auto* zero = std::get_if<Zero>(&run.mapping)) {
    answer.kind = RangeKind::kZero;
    answer.reads_as_zeros = true;
    SetPlace(&answer, zero->host_offset);
  }
  const auto* const unallocated = std::get_if<Unallocated>(&run.mapping);
  if (unallocated == nullptr) co_return answer;
  answer = {.kind = RangeKind::kHole, .length = run.length, .reads_as_zeros = true};
  if (backing_ == nullptr || offset >= backing_->geometry().size_bytes) {
    if (!layout_.extended_l2()) co_return answer;
    // What is set aside for a cluster has a place, though nothing is there.
    answer.length =
        std::min(answer.length, layout_.cluster_bytes() - layout_.offset_in_cluster(offset));
    SetPlace(&answer, unallocated->host_offset);
    co_return answer;
  }
  const uint64_t stored = std::min(run.length, backing_->geometry().size_bytes - offset);
  CO_ASSIGN_OR_RETURN(answer, co_await backing_->Status(offset, stored));
  ++answer.depth;
  co_return answer;
}

}  // namespace vireo::qcow2
