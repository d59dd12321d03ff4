#include "storage/img/image_copy.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "storage/host_copy.h"
#include "storage/qcow2/compressor.h"

namespace vireo::img {
namespace {

constexpr uint64_t kPieceBytes = 2 << 20;
constexpr uint64_t kSector = 512;

bool IsZero(const uint8_t* bytes, uint64_t length) {
  const iovec part = ToIoVec(std::span<const uint8_t>(bytes, length));
  return IsAllZero(IoVecs(&part, 1));
}

std::string Reason(const absl::Status& status) {
  const int error = StatusErrno(status);
  return error != 0 ? std::strerror(error) : std::string(status.message());
}

absl::Status At(const char* what, uint64_t offset, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrFormat("error while %s at byte %d: %s", what, offset,
                                                     Reason(status)));
}

}  // namespace

ImageCopy::ImageCopy(EventLoop& loop, Options options, Progress& progress)
    : loop_(loop),
      options_(std::move(options)),
      progress_(progress),
      pace_(loop, options_.bytes_per_second),
      offload_(options_.offload),
      workers_(loop) {
  for (const BlockBackend* source : options_.sources) {
    starts_.push_back(total_);
    total_ += source->geometry().size_bytes;
  }
}

Task<absl::Status> ImageCopy::Run() {
  progress_.Set(0);
  CO_RETURN_IF_ERROR(co_await CountBytes());
  for (int i = 0; i < options_.workers; ++i) workers_.Spawn(Work());
  co_await workers_.Join();
  co_return status_;
}

Task<absl::StatusOr<ImageCopy::Extent>> ImageCopy::ExtentAt(uint64_t offset) {
  const size_t index =
      static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), offset) -
                          starts_.begin()) -
      1;
  BlockBackend& source = *options_.sources[index];
  const uint64_t inside = offset - starts_[index];
  const absl::StatusOr<RangeStatus> answer =
      co_await source.Status(inside, source.geometry().size_bytes - inside);
  if (!answer.ok()) {
    if (options_.salvage) {
      warnings_.push_back(absl::StrFormat("error while reading block status at offset %d: %s",
                                          offset, Reason(answer.status())));
      co_return Extent{.kind = Kind::kData, .end = std::min(offset + kSector, total_)};
    }
    co_return absl::Status(answer.status().code(),
                           absl::StrFormat("error while reading block status at offset %d: %s",
                                           offset, Reason(answer.status())));
  }
  Extent extent = {.end = offset + answer->length};
  const bool own = answer->depth == 0 && (answer->present || !options_.source_has_backing);
  if (options_.target_has_backing && !own) {
    extent.kind = Kind::kSkip;
  } else if (answer->reads_as_zeros) {
    const bool behind_backing =
        options_.target_has_backing && offset >= options_.target_backing_bytes;
    extent.kind = behind_backing ? Kind::kSkip : Kind::kZero;
    if (options_.sparse_bytes == 0 && extent.kind == Kind::kZero) extent.kind = Kind::kData;
  }
  co_return extent;
}

// What there is to write, for the progress.
Task<absl::Status> ImageCopy::CountBytes() {
  const size_t warned = warnings_.size();
  for (uint64_t offset = 0; offset < total_;) {
    CO_ASSIGN_OR_RETURN(const Extent extent, co_await ExtentAt(offset));
    const bool written =
        extent.kind == Kind::kData || (extent.kind == Kind::kZero && !options_.target_is_zero);
    if (written) to_copy_ += extent.end - offset;
    offset = extent.end;
  }
  warnings_.resize(warned);  // The copy will meet them again.
  co_return absl::OkStatus();
}

Task<absl::StatusOr<ImageCopy::Piece>> ImageCopy::NextPiece() {
  const AsyncMutex::Guard guard = co_await walking_.Lock();
  Piece piece = {.offset = position_};
  if (position_ == total_) co_return piece;
  CO_ASSIGN_OR_RETURN(const Extent extent, co_await ExtentAt(position_));
  const uint64_t unit = options_.unit_bytes;
  uint64_t end = position_;
  if (extent.kind != Kind::kData) {
    end = extent.end == total_ ? total_ : AlignDown<uint64_t>(extent.end, unit);
    piece.kind = extent.kind;
  }
  if (end <= position_) {  // Data, or less than a unit of something else.
    piece.kind = Kind::kData;
    const uint64_t limit = std::max(kPieceBytes, unit);
    end = std::min(AlignUp<uint64_t>(extent.end, unit), position_ + limit);
    if (extent.kind != Kind::kData) end = position_ + unit;
    end = std::min(end, total_);
  }
  piece.length = end - position_;
  piece.ticket = next_ticket_++;
  position_ = end;
  co_return piece;
}

Task<void> ImageCopy::Work() {
  const AlignedBytes bytes = AllocateAligned(std::max(kPieceBytes, options_.unit_bytes));
  while (status_.ok()) {
    const absl::StatusOr<Piece> piece = co_await NextPiece();
    if (!piece.ok()) {
      Fail(piece.status());
      co_return;
    }
    if (piece->length == 0) co_return;
    const absl::Status copied = co_await CopyPiece(*piece, bytes.get());
    if (!copied.ok()) {
      Fail(copied);
      co_return;
    }
  }
}

Task<absl::Status> ImageCopy::CopyPiece(Piece piece, uint8_t* bytes) {
  if (piece.kind == Kind::kData && offload_) {
    if (options_.in_order) co_await WaitForTurn(piece.ticket);
    if (!status_.ok()) co_return absl::OkStatus();  // Another one has failed: told once.
    CO_ASSIGN_OR_RETURN(const bool copied, co_await OffloadPiece(piece));
    if (copied) {
      if (options_.in_order) EndTurn(piece.ticket);
      CountDone(piece);
      co_await pace_.Admit(piece.length);
      co_return absl::OkStatus();
    }
  }
  if (piece.kind == Kind::kData) {
    const absl::Status read = co_await ReadPiece(piece.offset, piece.length, bytes);
    if (!read.ok()) co_return read;
    co_await pace_.Admit(piece.length);
  }
  if (options_.packer != nullptr) {
    const absl::Status status = co_await PackPiece(piece, bytes);
    co_return status;
  }
  if (options_.in_order) co_await WaitForTurn(piece.ticket);
  if (!status_.ok()) co_return absl::OkStatus();  // Another one has failed: told once.
  absl::Status status;
  {
    TaskScope writes(loop_);
    StartWrites(piece, bytes, writes, &status);
    if (options_.in_order) EndTurn(piece.ticket);
    co_await writes.Join();
  }
  if (status.ok()) CountDone(piece);
  co_return status;
}

Task<absl::StatusOr<bool>> ImageCopy::OffloadPiece(Piece piece) {
  const uint64_t end = piece.offset + piece.length;
  for (uint64_t at = piece.offset; at < end;) {
    const size_t index = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), at) -
                                             starts_.begin()) -
                         1;
    BlockBackend& source = *options_.sources[index];
    const uint64_t inside = at - starts_[index];
    const uint64_t left = std::min(end - at, source.geometry().size_bytes - inside);
    const auto from = co_await source.Status(inside, left);
    const auto to = co_await options_.target->Status(at, end - at);
    if (!from.ok() || !to.ok() || !from->host_offset.has_value() || from->file == nullptr ||
        !to->host_offset.has_value() || to->file == nullptr) {
      co_return false;
    }
    const uint64_t length = std::min(from->length, to->length);
    const absl::Status copied = co_await CopyInHost(loop_, {.from = from->file,
                                                            .from_offset = *from->host_offset,
                                                            .to = to->file,
                                                            .to_offset = *to->host_offset,
                                                            .length = length});
    if (absl::IsUnimplemented(copied)) {
      offload_ = false;
      co_return false;
    }
    if (!copied.ok()) co_return At("writing", at, copied);
    at += length;
  }
  co_return true;
}

void ImageCopy::CountDone(const Piece& piece) {
  const bool counted =
      piece.kind == Kind::kData || (piece.kind == Kind::kZero && !options_.target_is_zero);
  if (!counted) return;
  copied_ += piece.length;
  progress_.Set(100.0f * static_cast<float>(std::min(copied_, to_copy_)) /
                static_cast<float>(std::max<uint64_t>(to_copy_, 1)));
}

Task<absl::Status> ImageCopy::PackPiece(Piece piece, uint8_t* bytes) {
  const uint64_t unit = options_.unit_bytes;
  std::vector<Packed> clusters;
  if (piece.kind == Kind::kData) {
    clusters.resize(DivideRoundUp<uint64_t>(piece.length, unit));
    // The disk may end inside of its last cluster.
    std::memset(bytes + piece.length, 0, AlignUp<uint64_t>(piece.length, unit) - piece.length);
    TaskScope compressing(loop_);
    for (size_t i = 0; i < clusters.size(); ++i) {
      clusters[i].zero = options_.sparse_bytes != 0 && IsZero(bytes + i * unit, unit);
      if (!clusters[i].zero) compressing.Spawn(CompressCluster(bytes + i * unit, &clusters[i]));
    }
    co_await compressing.Join();
  }
  co_await WaitForTurn(piece.ticket);
  if (!status_.ok()) co_return absl::OkStatus();  // Another one has failed: told once.
  absl::Status status;
  if (piece.kind == Kind::kData) {
    status = co_await PackData(piece, bytes, &clusters);
  } else if (piece.kind == Kind::kZero) {
    status = co_await PackZeros(piece.offset, piece.length);
  }
  if (!status.ok()) co_return At("writing", piece.offset, status);
  EndTurn(piece.ticket);
  CountDone(piece);
  co_return absl::OkStatus();
}

Task<void> ImageCopy::CompressCluster(const uint8_t* bytes, Packed* packed) {
  const std::span<const uint8_t> cluster(bytes, options_.unit_bytes);
  const auto compression =
      static_cast<qcow2::Compression>(options_.packer->header().compression_type);
  auto compress = [compression, cluster] { return qcow2::Compress(compression, cluster); };
  auto compressing = loop_.Offload(std::move(compress));
  std::optional<std::vector<uint8_t>> stream = co_await std::move(compressing);
  if (stream.has_value()) packed->stream = *std::move(stream);
}

Task<absl::Status> ImageCopy::PackData(Piece piece, const uint8_t* bytes,
                                       std::vector<Packed>* clusters) {
  const uint64_t unit = options_.unit_bytes;
  for (size_t i = 0; i < clusters->size(); ++i) {
    const Packed& packed = (*clusters)[i];
    const uint64_t offset = piece.offset + i * unit;
    if (packed.zero) {
      CO_RETURN_IF_ERROR(co_await PackZeros(offset, unit));
      continue;
    }
    const std::span<const uint8_t> cluster(bytes + i * unit, unit);
    CO_RETURN_IF_ERROR(co_await options_.packer->Add(offset, packed.stream, cluster));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ImageCopy::PackZeros(uint64_t offset, uint64_t length) {
  if (options_.target_is_zero) co_return absl::OkStatus();
  const uint64_t unit = options_.unit_bytes;
  const bool has_zero_clusters = options_.packer->header().layout.version >= 3;
  const std::vector<uint8_t> zeros(has_zero_clusters ? 0 : unit);
  std::vector<uint8_t> stream;
  if (!has_zero_clusters) {
    stream = qcow2::Compress(qcow2::Compression::kDeflate, zeros).value_or(stream);
  }
  for (uint64_t at = 0; at < length; at += unit) {
    if (has_zero_clusters) {
      CO_RETURN_IF_ERROR(co_await options_.packer->AddZeros(offset + at));
    } else {
      CO_RETURN_IF_ERROR(co_await options_.packer->Add(offset + at, stream, zeros));
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ImageCopy::ReadPiece(uint64_t offset, uint64_t length, uint8_t* bytes) {
  while (length > 0) {
    const size_t index =
        static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), offset) -
                            starts_.begin()) -
        1;
    BlockBackend* const source = options_.sources[index];
    const uint64_t inside = offset - starts_[index];
    const uint64_t part = std::min(length, source->geometry().size_bytes - inside);
    const iovec dst = {bytes, part};
    const absl::Status read = co_await source->Read(inside, IoVecs(&dst, 1));
    if (!read.ok() && !options_.salvage) co_return At("reading", offset, read);
    if (!read.ok()) {
      CO_RETURN_IF_ERROR(co_await Salvage(source, starts_[index], inside, part, bytes));
    }
    bytes += part;
    offset += part;
    length -= part;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ImageCopy::Salvage(BlockBackend* source, uint64_t base, uint64_t offset,
                                      uint64_t length, uint8_t* bytes) {
  for (uint64_t at = 0; at < length; at += kSector) {
    const iovec dst = {bytes + at, kSector};
    const absl::Status read = co_await source->Read(offset + at, IoVecs(&dst, 1));
    if (read.ok()) continue;
    std::memset(bytes + at, 0, kSector);
    warnings_.push_back(
        absl::StrFormat("error while reading offset %d: %s", base + offset + at, Reason(read)));
  }
  co_return absl::OkStatus();
}

void ImageCopy::StartWrites(const Piece& piece, uint8_t* bytes, TaskScope& writes,
                            absl::Status* status) {
  if (piece.kind == Kind::kSkip) return;
  if (piece.kind == Kind::kZero) {
    writes.Spawn(WriteZeros(piece.offset, piece.length, status));
    return;
  }
  // Runs of units that are all zeros, or not; a short run of zeros joins what is around it.
  const uint64_t unit = options_.unit_bytes;
  uint64_t data = 0;   // Where data that is not written yet begins.
  uint64_t zeros = 0;  // Where the zeros behind it begin.
  const auto write_data = [&](uint64_t begin, uint64_t end) {
    if (begin == end) return;
    const uint64_t offset = piece.offset + begin;
    if (options_.compress) {
      writes.Spawn(WriteCompressed(offset, bytes + begin, end - begin, status));
    } else {
      writes.Spawn(WriteData(offset, bytes + begin, end - begin, status));
    }
  };
  for (uint64_t at = 0;; at += unit) {
    const bool ends = at >= piece.length;
    const uint64_t length = ends ? 0 : std::min(unit, piece.length - at);
    if (!ends && options_.sparse_bytes != 0 && IsZero(bytes + at, length)) continue;
    const uint64_t here = std::min(at, piece.length);
    // [zeros, here) is zeros, and data begins here, or the piece ends.
    const bool whole = zeros == 0 && here == piece.length;
    const bool long_enough = options_.compress || here - zeros >= options_.sparse_bytes;
    if (here > zeros && (long_enough || whole)) {
      write_data(data, zeros);
      writes.Spawn(WriteZeros(piece.offset + zeros, here - zeros, status));
      data = here;
    }
    if (ends) {
      write_data(data, piece.length);
      return;
    }
    zeros = at + length;
  }
}

Task<void> ImageCopy::WriteData(uint64_t offset, const uint8_t* bytes, uint64_t length,
                                absl::Status* status) {
  const iovec src = {const_cast<uint8_t*>(bytes), length};
  const absl::Status written = co_await options_.target->Write(offset, IoVecs(&src, 1));
  if (!written.ok()) *status = At("writing", offset, written);
}

Task<void> ImageCopy::WriteCompressed(uint64_t offset, const uint8_t* bytes, uint64_t length,
                                      absl::Status* status) {
  const bool ends = offset + length == options_.target->geometry().size_bytes;
  const uint64_t whole = ends ? length : AlignDown<uint64_t>(length, options_.unit_bytes);
  if (whole > 0) {
    const iovec src = {const_cast<uint8_t*>(bytes), whole};
    const absl::Status written = co_await options_.target->WriteCompressed(offset, IoVecs(&src, 1));
    if (!written.ok()) {
      *status = At("writing", offset, written);
      co_return;
    }
  }
  if (whole < length) co_await WriteData(offset + whole, bytes + whole, length - whole, status);
}

Task<void> ImageCopy::WriteZeros(uint64_t offset, uint64_t length, absl::Status* status) {
  if (options_.target_is_zero) co_return;
  const absl::Status written =
      co_await options_.target->WriteZeroes(offset, length, {.may_unmap = true});
  if (!written.ok()) *status = At("writing", offset, written);
}

Task<void> ImageCopy::WaitForTurn(uint64_t ticket) {
  while (turn_ != ticket && status_.ok()) {
    turned_.Reset();
    co_await turned_.Wait();
  }
}

void ImageCopy::EndTurn(uint64_t ticket) {
  turn_ = ticket + 1;
  turned_.Set();
}

void ImageCopy::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
  turned_.Set();  // Who waits for a turn that will not come.
}

}  // namespace vireo::img
