#include "storage/raw_file.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/request_check.h"

namespace vireo {

RawFile::RawFile(std::unique_ptr<File> file, Options options)
    : file_(std::move(file)), debug_(file_->debug_events()) {
  geometry_.block_size = 512;
  geometry_.size_bytes = AlignUp<uint64_t>(file_->size(), geometry_.block_size);
  if (!file_->traits().growable) {
    geometry_.size_bytes = AlignDown<uint64_t>(file_->size(), geometry_.block_size);
  }
  geometry_.optimal_io_bytes = std::max<uint32_t>(file_->traits().alignment, 4096);
  geometry_.discard_granularity = 4096;
  geometry_.read_only = options.read_only;
}

Task<absl::Status> RawFile::Read(uint64_t offset, IoVecs dst) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckRequest(file_->name(), geometry_, offset, TotalSize(dst)));
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kReadAio);
  const absl::Status status = co_await file_->Read(offset, dst);
  co_return status;
}

Task<absl::Status> RawFile::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, TotalSize(src)));
  if (debug_ != nullptr) co_await debug_->Reach(DebugEvent::kWriteAio);
  CO_RETURN_IF_ERROR(co_await file_->Write(offset, src));
  if (!flags.fua) co_return absl::OkStatus();
  const absl::Status status = co_await file_->Sync();
  co_return status;
}

Task<absl::Status> RawFile::Flush() {
  const InFlight::Operation operation(in_flight_);
  if (geometry_.read_only) co_return absl::OkStatus();
  if (debug_ != nullptr) {
    co_await debug_->Reach(DebugEvent::kFlushToOs);
    co_await debug_->Reach(DebugEvent::kFlushToDisk);
  }
  const absl::Status status = co_await file_->Sync();
  co_return status;
}

Task<absl::Status> RawFile::Discard(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  const absl::Status status = co_await file_->Discard(offset, length);
  co_return status;
}

Task<absl::Status> RawFile::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, offset, length));
  const absl::Status status = co_await file_->WriteZeroes(offset, length, flags.may_unmap);
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> RawFile::Status(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckRequest(file_->name(), geometry_, offset, length));
  CO_ASSIGN_OR_RETURN(const FileExtent extent, co_await file_->Extent(offset));
  const uint64_t block = geometry_.block_size;
  RangeStatus answer = {
      .present = true, .host_offset = offset, .file_name = &file_->name(), .file = file_.get()};
  // The last block of a file may be a part of one.
  const bool ends_file = offset + extent.length >= file_->size();
  if (!extent.data && (extent.length >= block || ends_file)) {
    answer.kind = RangeKind::kHole;
    answer.reads_as_zeros = true;
    const uint64_t hole = ends_file ? AlignUp<uint64_t>(extent.length, block)
                                    : AlignDown<uint64_t>(extent.length, block);
    answer.length = std::clamp<uint64_t>(hole, block, length);
  } else {
    answer.kind = RangeKind::kData;
    answer.length = std::clamp<uint64_t>(AlignUp<uint64_t>(extent.length, block), block, length);
  }
  co_return answer;
}

Task<absl::Status> RawFile::Resize(uint64_t size_bytes) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(CheckChange(file_->name(), geometry_, 0, 0));
  if (!IsAligned<uint64_t>(size_bytes, geometry_.block_size)) {
    co_return absl::InvalidArgumentError(absl::StrFormat("%s: %d bytes are not whole blocks of %d",
                                                         file_->name(), size_bytes,
                                                         geometry_.block_size));
  }
  if (size_bytes < geometry_.size_bytes) {
    co_return absl::FailedPreconditionError(
        absl::StrFormat("%s: an open disk does not shrink (%d to %d bytes)", file_->name(),
                        geometry_.size_bytes, size_bytes));
  }
  if (!file_->traits().growable) {
    co_return absl::UnimplementedError(
        absl::StrFormat("%s: a block device keeps its size", file_->name()));
  }
  CO_RETURN_IF_ERROR(co_await file_->Truncate(size_bytes));
  geometry_.size_bytes = size_bytes;
  co_return absl::OkStatus();
}

Task<absl::Status> RawFile::Close() {
  co_await in_flight_.Drain();
  absl::Status status;
  if (!geometry_.read_only) status = co_await file_->Sync();
  const absl::Status closed = co_await file_->Close();
  if (status.ok()) status = closed;
  co_return status;
}

}  // namespace vireo
