// Parses virtio-blk requests of arbitrary bytes, cut into descriptors at arbitrary places. What is
// not refused lies within the disk, on its blocks, and a status is always written where there is
// room.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "devices/virtio/block_request.h"
#include "devices/virtio/descriptor_chain.h"
#include "devices/virtio/spec.h"
#include "tests/support/fake_guest_memory.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kReadable = 0x10000;
constexpr uint64_t kWritable = 0x40000;

void CheckRange(uint64_t offset, uint64_t length, const BlockLimits& limits) {
  VIREO_CHECK(offset <= limits.size_bytes && length <= limits.size_bytes - offset,
              "an accepted range lies on the disk");
  VIREO_CHECK(offset % limits.block_size == 0 && length % limits.block_size == 0,
              "an accepted range consists of blocks");
}

void Run(std::span<const uint8_t> input) {
  static FakeGuestMemory& guest = *new FakeGuestMemory();
  if (input.size() < 8) return;
  const BlockLimits limits = {.size_bytes = uint64_t{input[0]} * 4096,
                              .block_size = (input[1] & 1) != 0 ? 4096u : 512u,
                              .read_only = (input[1] & 2) != 0,
                              .discard = (input[1] & 4) != 0,
                              .write_zeroes = (input[1] & 8) != 0};
  const uint64_t writable_bytes = uint64_t{input[2]} * 64 + input[3];
  const uint64_t padding = uint64_t{input[4]} * 64;  // Readable zeros behind the input.
  const uint64_t cut = uint64_t{input[5]} + 8;
  const bool sector_is_small = (input[6] & 1) != 0;
  input = input.subspan(8);

  std::vector<uint8_t> bytes(input.begin(), input.end());
  if (sector_is_small && bytes.size() >= 16) {
    for (size_t i = 9; i < 16; ++i) bytes[i] = 0;
  }
  bytes.resize(bytes.size() + padding);
  bytes.resize(std::min<size_t>(bytes.size(), kWritable - kReadable));
  guest.Write(GuestAddress(kReadable), bytes);
  auto buffers = std::make_unique<ChainBuffers>(guest.memory());
  for (uint64_t at = 0; at < bytes.size(); at += cut) {
    const uint64_t part = std::min<uint64_t>(cut, bytes.size() - at);
    VIREO_CHECK(
        guest.memory().AppendReadable(GuestAddress(kReadable + at), part, &buffers->readable));
    buffers->readable_bytes += part;
  }
  for (uint64_t at = 0; at < writable_bytes; at += cut) {
    const uint64_t part = std::min<uint64_t>(cut, writable_bytes - at);
    VIREO_CHECK(buffers->writable.Append(GuestAddress(kWritable + at), part));
  }
  ChainPool pool(guest.memory());
  DescriptorChain chain(0, std::move(buffers), pool);

  const BlockRequest request = BlockRequest::Parse(chain, limits);
  switch (request.kind()) {
    case BlockRequest::Kind::kRead:
    case BlockRequest::Kind::kWrite:
      CheckRange(request.offset(), request.length(), limits);
      VIREO_CHECK(request.length() != 0 && TotalSize(request.data()) == request.length());
      VIREO_CHECK(request.kind() == BlockRequest::Kind::kRead || !limits.read_only);
      break;
    case BlockRequest::Kind::kGetId:
      VIREO_CHECK(request.length() <= kBlkIdBytes);
      VIREO_CHECK(TotalSize(request.data()) == request.length());
      break;
    case BlockRequest::Kind::kDiscard:
    case BlockRequest::Kind::kWriteZeroes:
      VIREO_CHECK(!limits.read_only && request.ranges().size() <= kMaxBlockSegments);
      for (const BlockRange& range : request.ranges()) {
        CheckRange(range.offset, range.length, limits);
      }
      break;
    case BlockRequest::Kind::kFlush:
    case BlockRequest::Kind::kRefused:
      break;
  }
  const uint8_t unwritten = 0xee;
  if (writable_bytes != 0) {
    VIREO_CHECK(chain.CopyToWritable(writable_bytes - 1, std::span(&unwritten, 1)));
  }
  const uint32_t used = request.Finish(chain, absl::OkStatus());
  VIREO_CHECK(used <= writable_bytes);
  if (writable_bytes != 0) {
    const auto status = guest.ReadObject<uint8_t>(GuestAddress(kWritable + writable_bytes - 1));
    VIREO_CHECK(status <= kBlkStatusUnsupported, "there is a status");
    VIREO_CHECK((status == kBlkStatusOk) == (request.kind() != BlockRequest::Kind::kRefused));
  }
}

}  // namespace
}  // namespace vireo::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vireo::virtio::Run({data, size});
  return 0;
}
