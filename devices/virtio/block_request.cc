#include "devices/virtio/block_request.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "absl/status/status.h"
#include "base/align.h"
#include "base/check.h"
#include "base/iovecs.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

template <typename T>
std::span<uint8_t> BytesOf(T& object) {
  return {reinterpret_cast<uint8_t*>(&object), sizeof(object)};
}

// Sectors to bytes, within the disk and on its blocks.
bool ToRange(uint64_t sector, uint64_t length, const BlockLimits& limits, uint64_t* offset) {
  const std::optional<uint64_t> start = CheckedMul(sector, kSectorBytes);
  if (!start.has_value() || *start > limits.size_bytes) return false;
  if (length > limits.size_bytes - *start) return false;
  *offset = *start;
  return IsAligned<uint64_t>(*start, limits.block_size) &&
         IsAligned<uint64_t>(length, limits.block_size);
}

}  // namespace

BlockRequest BlockRequest::Parse(const DescriptorChain& chain, const BlockLimits& limits) {
  BlockRequest request;
  BlkRequestHeader header;
  if (!chain.CopyFromReadable(0, BytesOf(header)) || chain.writable_bytes() == 0) {
    request.Refuse(kBlkStatusIoError);
    return request;
  }
  const uint64_t out_bytes = chain.readable_bytes() - sizeof(header);
  const uint64_t in_bytes = chain.writable_bytes() - 1;  // The status byte is last.

  switch (header.type.value()) {
    case kBlkTypeIn:
      request.kind_ = Kind::kRead;
      request.length_ = in_bytes;
      request.ParseTransfer(header.sector, limits);
      if (request.kind_ == Kind::kRead) request.data_ = Slice(chain.writable(), 0, in_bytes);
      break;
    case kBlkTypeOut:
      request.kind_ = Kind::kWrite;
      request.length_ = out_bytes;
      request.ParseTransfer(header.sector, limits);
      if (request.kind_ == Kind::kWrite) {
        request.data_ = Slice(chain.readable(), sizeof(header), out_bytes);
      }
      break;
    case kBlkTypeFlush:
      request.kind_ = Kind::kFlush;
      break;
    case kBlkTypeGetId:
      request.kind_ = Kind::kGetId;
      request.length_ = std::min(in_bytes, kBlkIdBytes);
      request.data_ = Slice(chain.writable(), 0, request.length_);
      break;
    case kBlkTypeDiscard:
      request.kind_ = Kind::kDiscard;
      request.ParseSegments(chain, limits);
      break;
    case kBlkTypeWriteZeroes:
      request.kind_ = Kind::kWriteZeroes;
      request.ParseSegments(chain, limits);
      break;
    default:
      request.Refuse(kBlkStatusUnsupported);
      break;
  }
  return request;
}

void BlockRequest::ParseTransfer(uint64_t sector, const BlockLimits& limits) {
  if (length_ == 0 || !ToRange(sector, length_, limits, &offset_) ||
      (kind_ == Kind::kWrite && limits.read_only)) {  // §5.2.6.2
    Refuse(kBlkStatusIoError);
  }
}

void BlockRequest::ParseSegments(const DescriptorChain& chain, const BlockLimits& limits) {
  const bool zeroes = kind_ == Kind::kWriteZeroes;
  if (!(zeroes ? limits.write_zeroes : limits.discard)) return Refuse(kBlkStatusUnsupported);
  if (limits.read_only) return Refuse(kBlkStatusIoError);
  const uint64_t bytes = chain.readable_bytes() - sizeof(BlkRequestHeader);
  if (bytes == 0 || bytes % sizeof(BlkSegment) != 0 ||
      bytes / sizeof(BlkSegment) > kMaxBlockSegments) {
    return Refuse(kBlkStatusIoError);
  }
  std::array<BlkSegment, kMaxBlockSegments> copies;
  const std::span<BlkSegment> segments(copies.data(), bytes / sizeof(BlkSegment));
  const std::span<uint8_t> raw(reinterpret_cast<uint8_t*>(copies.data()), bytes);
  VIREO_CHECK(chain.CopyFromReadable(sizeof(BlkRequestHeader), raw));
  for (const BlkSegment& segment : segments) {
    const uint32_t flags = segment.flags;
    // §5.2.6.2: no flag but UNMAP, and that for write zeroes only.
    if ((flags & ~kBlkSegmentUnmap) != 0 || (!zeroes && flags != 0)) {
      return Refuse(kBlkStatusUnsupported);
    }
    BlockRange range;
    range.length = uint64_t{segment.sectors.value()} * kSectorBytes;
    range.may_unmap = (flags & kBlkSegmentUnmap) != 0;
    if (segment.sectors.value() > kMaxSegmentSectors ||
        !ToRange(segment.sector, range.length, limits, &range.offset)) {
      return Refuse(kBlkStatusIoError);
    }
    if (range.length != 0) ranges_.push_back(range);
  }
}

uint32_t BlockRequest::Finish(DescriptorChain& chain, const absl::Status& result) const {
  const uint64_t writable = chain.writable_bytes();
  if (writable == 0) return 0;
  uint8_t status = kBlkStatusOk;
  if (kind_ == Kind::kRefused) {
    status = refused_status_;
  } else if (absl::IsUnimplemented(result)) {
    status = kBlkStatusUnsupported;
  } else if (!result.ok()) {
    status = kBlkStatusIoError;
  }
  VIREO_CHECK(chain.CopyToWritable(writable - 1, std::span<const uint8_t>(&status, 1)));
  // Everything, whatever became of the data: a read that failed may have moved some of it, and the
  // status, which the driver looks at, is at the very end.
  chain.CompleteWrites(writable);
  // §2.7.8.2: of the used length every byte, from the first on, has been written.
  const uint64_t data_bytes = writable - 1;
  uint64_t filled = 0;
  if (status == kBlkStatusOk && (kind_ == Kind::kRead || kind_ == Kind::kGetId)) filled = length_;
  const uint64_t used = filled == data_bytes ? writable : filled;
  return static_cast<uint32_t>(std::min<uint64_t>(used, std::numeric_limits<uint32_t>::max()));
}

}  // namespace vireo::virtio
