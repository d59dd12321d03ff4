// Changing the size.

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/image.h"
#include "storage/request_check.h"

namespace vireo::qcow2 {

Task<absl::Status> Image::Resize(uint64_t size_bytes) {
  std::optional<InFlight::Operation> operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, 0, 0));
  CO_RETURN_IF_ERROR(WriteError());
  const uint64_t old_size = geometry_.size_bytes;
  if (!IsAligned<uint64_t>(size_bytes, geometry_.block_size)) {
    co_return absl::InvalidArgumentError(absl::StrFormat("%s: %d bytes are not whole blocks of %d",
                                                         file_->name(), size_bytes,
                                                         geometry_.block_size));
  }
  if (size_bytes < old_size) {
    co_return absl::FailedPreconditionError(absl::StrFormat(
        "%s: an open disk does not shrink (%d to %d bytes)", file_->name(), old_size, size_bytes));
  }
  if (layout_.version < 3 && header_.snapshot_count > 0) {
    co_return absl::UnimplementedError(absl::StrFormat(
        "%s: a version 2 image with internal snapshots keeps its size", file_->name()));
  }
  const uint64_t entries = layout_.l1_entries_for(size_bytes);
  if (size_bytes >= uint64_t{1} << 63 || entries * sizeof(Be64) > kMaxL1Bytes) {
    co_return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes need more than %d L1 entries", file_->name(), size_bytes,
                        kMaxL1Bytes / sizeof(Be64)));
  }
  if (!prepared_) CO_RETURN_IF_ERROR(co_await PrepareToWrite());
  CO_RETURN_IF_ERROR(co_await bitmaps_.PrepareResize());
  if (entries > map_.l1_entries()) CO_RETURN_IF_ERROR(co_await GrowL1(entries));

  // New space reads as zeros, also where a longer backing file has bytes.
  geometry_.size_bytes = size_bytes;
  bitmaps_.Resize(size_bytes);  // They miss nothing that is written there from now on.
  absl::Status status;
  if (backing_ != nullptr && backing_->geometry().size_bytes > old_size) {
    const uint64_t end = std::min(size_bytes, backing_->geometry().size_bytes);
    status = co_await ZeroRange(old_size, end - old_size, {});
    if (status.ok()) status = co_await Commit();
  }
  std::vector<uint8_t> size_field = BytesOf64({size_bytes});
  if (status.ok()) status = co_await WriteHeader(kSizeFieldOffset, std::move(size_field));
  if (!status.ok()) {
    geometry_.size_bytes = old_size;
    bitmaps_.Resize(old_size);
    co_return status;
  }
  header_.size_bytes = size_bytes;
  if (layout_.external_data && data_.size() < size_bytes && data_.traits().growable) {
    CO_RETURN_IF_ERROR(co_await data_.Truncate(size_bytes));
  }
  if (header_.raw_external_data()) {
    CO_RETURN_IF_ERROR(co_await MapRawData(old_size, size_bytes));
  }
  // Who began before took the old end for the end of its cluster: a discard up to there drops all
  // of it. Nobody may write behind that end before they are through.
  operation.reset();
  co_await in_flight_.WaitUntilPassed(in_flight_.Now());
  co_return absl::OkStatus();
}

Task<absl::Status> Image::MapRawData(uint64_t begin, uint64_t end) {
  for (uint64_t at = layout_.cluster_start(begin); at < end;) {
    const uint64_t stop = std::min(map_.SliceEnd(at), AlignUp(end, layout_.cluster_bytes()));
    const RangeLock::Guard guard =
        co_await clusters_.Lock(layout_.cluster_index(at), layout_.cluster_index(stop - 1));
    CO_RETURN_IF_ERROR(WriteError());
    CO_ASSIGN_OR_RETURN(MetadataCache::Slice slice, co_await map_.PrepareSlice(at));
    for (; at < stop; at += layout_.cluster_bytes()) {
      const ClusterEntry old = map_.Get(slice, at);
      if (old.kind != ClusterEntry::Kind::kStandard || old.has_host) continue;
      map_.Set(slice, at,
               {.has_host = true,
                .copied = true,
                .host_offset = at,
                .allocated = SubclusterMask(0, layout_.subclusters())});
    }
    NoteDirty();
    if (IsTooDirty()) CO_RETURN_IF_ERROR(co_await Commit());
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Image::GrowL1(uint64_t entries) {
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kL1GrowAllocTable);
  const absl::StatusOr<uint64_t> allocated =
      co_await refcounts_.AllocateContiguous(layout_.clusters_for(entries * sizeof(Be64)));
  if (absl::IsDataLoss(allocated.status())) co_await MarkCorrupt(allocated.status());
  CO_RETURN_IF_ERROR(allocated.status());
  const uint64_t l1_offset = *allocated;
  // Until the header has switched, no table is made and no commit runs but ours: the copy is exact.
  const AsyncMutex::Guard tables = co_await map_.LockTables();
  const AsyncMutex::Guard commits = co_await committing_.Lock();
  CO_RETURN_IF_ERROR(co_await RunCommit());
  std::vector<uint8_t> table = map_.SerializeL1();
  table.resize(layout_.clusters_for(entries * sizeof(Be64)) << layout_.cluster_bits);
  const iovec part = ToIoVec(std::span<uint8_t>(table));
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kL1GrowWriteTable);
  CO_RETURN_IF_ERROR(co_await file_->Write(l1_offset, IoVecs(&part, 1)));
  CO_RETURN_IF_ERROR(co_await barrier_.Sync());

  struct {
    Be32 entries;
    Be64 offset;
  } fields = {.entries = static_cast<uint32_t>(entries), .offset = l1_offset};
  static_assert(sizeof(fields) == 12);
  const auto* const bytes = reinterpret_cast<const uint8_t*>(&fields);
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kL1GrowActivateTable);
  const absl::Status switched =
      co_await WriteHeader(kL1FieldsOffset, std::vector<uint8_t>(bytes, bytes + sizeof(fields)));
  if (!switched.ok()) {
    barrier_.Fail(switched);  // Which of the two tables counts is not known.
    co_return switched;
  }
  const HostRun old = {.host_offset = map_.l1_offset(),
                       .clusters = layout_.clusters_for(map_.l1_entries() * sizeof(Be64))};
  map_.Moved(l1_offset, entries);
  header_.l1_entries = static_cast<uint32_t>(entries);
  header_.l1_offset = l1_offset;
  if (old.clusters > 0) refcounts_.Rest({old});
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
