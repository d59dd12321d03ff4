// One virtio-blk request (virtio 1.2 §5.2.6), parsed from its chain. No I/O here.
//
//   readable:  header (16 bytes) | data of a write, or segments of a discard
//   writable:  data of a read or the ID                     | status (last byte)
//
// The layout does not depend on where descriptors begin (§2.7.4.3).

#ifndef VIREO_DEVICES_VIRTIO_BLOCK_REQUEST_H_
#define VIREO_DEVICES_VIRTIO_BLOCK_REQUEST_H_

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "base/iovecs.h"
#include "devices/virtio/descriptor_chain.h"

namespace vireo::virtio {

// Segments of one discard or write-zeroes request (max_discard_seg, max_write_zeroes_seg).
inline constexpr uint32_t kMaxBlockSegments = 32;
// Sectors of one segment: 2 GiB.
inline constexpr uint32_t kMaxSegmentSectors = 1 << 22;

// What requests are checked against.
struct BlockLimits {
  uint64_t size_bytes = 0;
  uint32_t block_size = 512;
  bool read_only = false;
  bool discard = false;       // VIRTIO_BLK_F_DISCARD was negotiated.
  bool write_zeroes = false;  // VIRTIO_BLK_F_WRITE_ZEROES was negotiated.
};

struct BlockRange {
  uint64_t offset = 0;  // Bytes, as everywhere beyond the parser.
  uint64_t length = 0;
  bool may_unmap = false;
};

class BlockRequest {
 public:
  enum class Kind {
    kRead,
    kWrite,
    kFlush,
    kGetId,
    kDiscard,
    kWriteZeroes,
    kRefused,  // status() is the answer.
  };

  // Looks at the chain only, copies its header and segments once, and refuses what lies outside of
  // `limits`: a request that is not refused can be executed as it is. The views point into the
  // chain's memory and list, which therefore outlives the request.
  static BlockRequest Parse(const DescriptorChain& chain, const BlockLimits& limits);

  Kind kind() const { return kind_; }
  uint64_t offset() const { return offset_; }  // kRead, kWrite: bytes.
  uint64_t length() const { return length_; }  // kRead, kWrite, kGetId: bytes of data().
  const IoVecList& data() const { return data_; }
  // kDiscard, kWriteZeroes.
  const absl::InlinedVector<BlockRange, 1>& ranges() const { return ranges_; }

  // Writes the status byte for what Execute found, and marks what was written dirty. Returns the
  // used length: 0 if the driver left no room for a status.
  uint32_t Finish(DescriptorChain& chain, const absl::Status& result) const;

 private:
  BlockRequest() = default;
  void Refuse(uint8_t status) {
    kind_ = Kind::kRefused;
    refused_status_ = status;
  }
  void ParseTransfer(uint64_t sector, const BlockLimits& limits);
  void ParseSegments(const DescriptorChain& chain, const BlockLimits& limits);

  Kind kind_ = Kind::kRefused;
  uint8_t refused_status_ = 0;
  uint64_t offset_ = 0;
  uint64_t length_ = 0;
  IoVecList data_;
  absl::InlinedVector<BlockRange, 1> ranges_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_BLOCK_REQUEST_H_
