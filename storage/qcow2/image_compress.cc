// Writing compressed clusters: several are compressed at once, on the pool's threads, and placed
// one after the other.

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/async/async_event.h"
#include "base/status.h"
#include "storage/qcow2/compressor.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {

struct Image::CompressedWrite {
  std::vector<uint8_t> cluster;  // Padded with zeros.
  std::optional<std::vector<uint8_t>> stream;
  AsyncEvent ended;
};

Task<absl::Status> Image::WriteCompressed(uint64_t offset, IoVecs src) {
  const InFlight::Operation operation(in_flight_);
  const uint64_t length = TotalSize(src);
  const uint64_t end = offset + length;
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  CO_RETURN_IF_ERROR(WriteError());
  if (layout_.external_data || header_.crypt_method != 0) {
    co_return absl::UnimplementedError(
        absl::StrFormat("%s: no compressed clusters %s", file_->name(),
                        layout_.external_data ? "beside a data file" : "in an encrypted image"));
  }
  if (layout_.offset_in_cluster(offset) != 0 ||
      (layout_.offset_in_cluster(end) != 0 && end != geometry_.size_bytes)) {
    co_return absl::InvalidArgumentError(
        absl::StrFormat("%s: bytes %d to %d are not whole clusters", file_->name(), offset, end));
  }
  if (length == 0) co_return absl::OkStatus();
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  const absl::Status status = co_await CompressAndPlace(offset, src);
  bitmaps_.MarkDirty(offset, length);
  co_return status;
}

Task<absl::Status> Image::CompressAndPlace(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  const uint64_t cluster_bytes = layout_.cluster_bytes();
  TaskScope compressing(loop_);
  std::vector<std::unique_ptr<CompressedWrite>> writes;
  absl::Status status;
  uint64_t done = 0;  // Placed.
  uint64_t begun = 0;
  while (done < length && status.ok()) {
    while (begun < length && begun - done < kCompressedAtOnce * cluster_bytes) {
      auto write = std::make_unique<CompressedWrite>();
      write->cluster.resize(cluster_bytes);
      const uint64_t count = std::min(cluster_bytes, length - begun);
      const IoVecList part = Slice(src, begun, count);
      CopyFromIoVecs(part, std::span(write->cluster).first(count));
      compressing.Spawn(CompressCluster(write.get()));
      writes.push_back(std::move(write));
      begun += count;
    }
    CompressedWrite& write = *writes[done / cluster_bytes];
    co_await write.ended.Wait();
    const uint64_t count = std::min(cluster_bytes, length - done);
    if (write.stream.has_value()) {
      status = co_await PlaceCompressed(offset + done, *write.stream);
    } else {
      const IoVecList part = Slice(src, done, count);
      status = co_await WriteBytes(offset + done, part);
    }
    write.cluster = {};
    write.stream.reset();
    done += count;
  }
  co_await compressing.Join();
  co_return status;
}

Task<void> Image::CompressCluster(CompressedWrite* write) {
  const auto compression = static_cast<Compression>(header_.compression_type);
  const std::span<const uint8_t> cluster(write->cluster);
  auto compress = [compression, cluster]() { return Compress(compression, cluster); };
  auto compressing = loop_.Offload(std::move(compress));
  write->stream = co_await std::move(compressing);
  write->ended.Set();
}

Task<absl::Status> Image::PlaceCompressed(uint64_t guest_offset, std::span<const uint8_t> stream) {
  const uint64_t index = layout_.cluster_index(guest_offset);
  const RangeLock::Guard guard = co_await clusters_.Lock(index, index);
  CO_RETURN_IF_ERROR(WriteError());
  absl::StatusOr<MetadataCache::Slice> prepared = co_await map_.PrepareSlice(guest_offset);
  if (absl::IsDataLoss(prepared.status())) co_await MarkCorrupt(prepared.status());
  CO_RETURN_IF_ERROR(prepared.status());
  MetadataCache::Slice slice = *std::move(prepared);
  const ClusterEntry old = map_.Get(slice, guest_offset);
  if (old.kind == ClusterEntry::Kind::kInvalid) {
    const absl::Status status = co_await OnInvalid(guest_offset, Invalid{old.reason});
    co_return status;
  }
  const absl::StatusOr<uint64_t> host_offset = co_await packed_.Allocate(stream.size());
  if (absl::IsDataLoss(host_offset.status())) co_await MarkCorrupt(host_offset.status());
  CO_RETURN_IF_ERROR(host_offset.status());
  if (*host_offset + stream.size() > MaxCompressedOffset(layout_)) {
    FreeOld({.kind = ClusterEntry::Kind::kCompressed,
             .host_offset = *host_offset,
             .compressed_bytes = static_cast<uint32_t>(stream.size())});
    co_return absl::ResourceExhaustedError(
        absl::StrFormat("%s: no entry can say where a compressed cluster at offset %d is",
                        file_->name(), *host_offset));
  }
  const ClusterEntry placed = {.kind = ClusterEntry::Kind::kCompressed,
                               .host_offset = *host_offset,
                               .compressed_bytes = static_cast<uint32_t>(stream.size())};
  const iovec part = ToIoVec(stream);
  const absl::Status written = co_await file_->Write(*host_offset, IoVecs(&part, 1));
  if (!written.ok()) {
    FreeOld(placed);
    co_return written;
  }
  // Neither the stream nor its count may come after the entry.
  map_.RequireBarrier();
  compressed_.Forget(*host_offset);
  FreeOld(old);
  map_.Set(slice, guest_offset, placed);
  NoteDirty();
  if (IsTooDirty()) CO_RETURN_IF_ERROR(co_await Commit());
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
