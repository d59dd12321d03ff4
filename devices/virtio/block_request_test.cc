#include "devices/virtio/block_request.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "devices/virtio/spec.h"
#include "devices/virtio/virtqueue.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_guest_memory.h"
#include "tests/support/virtio_driver.h"

namespace vireo::virtio {
namespace {

using testing::ElementsAre;
using Kind = BlockRequest::Kind;

constexpr BlockLimits kDisk = {
    .size_bytes = 8 * 512, .block_size = 512, .discard = true, .write_zeroes = true};

Segment Header(uint32_t type, uint64_t sector = 0) {
  BlkRequestHeader header;
  header.type = type;
  header.reserved = uint32_t{0};
  header.sector = sector;
  return ReadableObject(header);
}

Segment Ranges(const std::vector<BlkSegment>& segments) {
  std::vector<uint8_t> bytes;
  for (const BlkSegment& segment : segments) {
    const std::vector<uint8_t> one = ReadableObject(segment).readable;
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  return Readable(bytes);
}

BlkSegment Range(uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
  BlkSegment segment;
  segment.sector = sector;
  segment.sectors = sectors;
  segment.flags = flags;
  return segment;
}

// A chain as a device takes it from a ring.
struct OneChain {
  explicit OneChain(const std::vector<Segment>& segments) {
    driver.Add(segments);
    chain = device.PopAvailable();
  }
  // Ends the request with `result` and returns the chain as the driver gets it.
  UsedChain Finish(const BlockRequest& request, const absl::Status& result) {
    (void)device.PushUsed(chain->head(), request.Finish(*chain, result));
    return *driver.PopUsed();
  }

  FakeGuestMemory guest;
  DriverRing driver{guest, {.size = 64}};
  Virtqueue device = *Virtqueue::Create(guest.memory(), driver.config());
  std::optional<DescriptorChain> chain;
};

TEST(BlockRequestTest, ReadNamesItsBytesAndBuffers) {
  OneChain c({Header(kBlkTypeIn, 3), Writable(512), Writable(512), Writable(1)});
  const BlockRequest request = BlockRequest::Parse(*c.chain, kDisk);
  EXPECT_EQ(request.kind(), Kind::kRead);
  EXPECT_EQ(request.offset(), 3u * 512);
  EXPECT_EQ(request.length(), 1024u);
  EXPECT_EQ(TotalSize(request.data()), 1024u);
  FillIoVecs(request.data(), 7);
  const UsedChain used = c.Finish(request, absl::OkStatus());
  EXPECT_EQ(used.written, 1025u);
  std::vector<uint8_t> want(1024, 7);
  want.push_back(kBlkStatusOk);
  EXPECT_EQ(used.bytes, want);
}

TEST(BlockRequestTest, LayoutDoesNotDependOnDescriptorBoundaries) {
  std::vector<uint8_t> out = Header(kBlkTypeOut, 1).readable;
  out.insert(out.end(), 512, 9);
  std::vector<Segment> segments;
  for (size_t at = 0; at < out.size(); at += 60) {
    segments.push_back(Readable({out.begin() + at, out.begin() + std::min(out.size(), at + 60)}));
  }
  segments.push_back(Writable(1));
  OneChain c(segments);
  const BlockRequest request = BlockRequest::Parse(*c.chain, kDisk);
  EXPECT_EQ(request.kind(), Kind::kWrite);
  EXPECT_EQ(request.offset(), 512u);
  std::vector<uint8_t> data(512);
  EXPECT_EQ(CopyFromIoVecs(request.data(), data), 512u);
  EXPECT_EQ(data, std::vector<uint8_t>(512, 9));
}

TEST(BlockRequestTest, StatusSharesADescriptorWithTheData) {
  OneChain c({Header(kBlkTypeIn), Writable(513)});
  const BlockRequest request = BlockRequest::Parse(*c.chain, kDisk);
  EXPECT_EQ(request.kind(), Kind::kRead);
  EXPECT_EQ(request.length(), 512u);
  EXPECT_EQ(c.Finish(request, absl::OkStatus()).bytes.back(), kBlkStatusOk);
}

TEST(BlockRequestTest, WritesItsUsedLengthOnlyForWhatIsFilledFromTheStart) {
  OneChain read({Header(kBlkTypeIn), Writable(512), Writable(1)});
  EXPECT_EQ(read.Finish(BlockRequest::Parse(*read.chain, kDisk), absl::DataLossError("x")).written,
            0u);
  OneChain write({Header(kBlkTypeOut), ReadableZeros(512), Writable(1)});
  EXPECT_EQ(
      write.Finish(BlockRequest::Parse(*write.chain, kDisk), absl::DataLossError("x")).written, 1u);
  OneChain id({Header(kBlkTypeGetId), Writable(100), Writable(1)});
  EXPECT_EQ(id.Finish(BlockRequest::Parse(*id.chain, kDisk), absl::OkStatus()).written, 20u);
}

TEST(BlockRequestTest, UnimplementedIsUnsupportedAndAllElseAnError) {
  OneChain a({Header(kBlkTypeFlush), Writable(1)});
  EXPECT_THAT(a.Finish(BlockRequest::Parse(*a.chain, kDisk), absl::UnimplementedError("")).bytes,
              ElementsAre(kBlkStatusUnsupported));
  OneChain b({Header(kBlkTypeFlush), Writable(1)});
  EXPECT_THAT(
      b.Finish(BlockRequest::Parse(*b.chain, kDisk), absl::ResourceExhaustedError("")).bytes,
      ElementsAre(kBlkStatusIoError));
}

TEST(BlockRequestTest, DiscardTakesSeveralRanges) {
  OneChain c(
      {Header(kBlkTypeDiscard), Ranges({Range(0, 1), Range(4, 0), Range(5, 3)}), Writable(1)});
  const BlockRequest request = BlockRequest::Parse(*c.chain, kDisk);
  ASSERT_EQ(request.kind(), Kind::kDiscard);
  ASSERT_EQ(request.ranges().size(), 2u);  // The empty one is done already.
  EXPECT_EQ(request.ranges()[1].offset, 5u * 512);
  EXPECT_EQ(request.ranges()[1].length, 3u * 512);
}

TEST(BlockRequestTest, WriteZeroesKnowsUnmap) {
  OneChain c({Header(kBlkTypeWriteZeroes), Ranges({Range(0, 1, kBlkSegmentUnmap), Range(1, 1)}),
              Writable(1)});
  const BlockRequest request = BlockRequest::Parse(*c.chain, kDisk);
  ASSERT_EQ(request.kind(), Kind::kWriteZeroes);
  EXPECT_TRUE(request.ranges()[0].may_unmap);
  EXPECT_FALSE(request.ranges()[1].may_unmap);
}

TEST(BlockRequestTest, ChainWithoutRoomForAStatusEndsEmpty) {
  OneChain c({Header(kBlkTypeOut), ReadableZeros(512)});
  const BlockRequest request = BlockRequest::Parse(*c.chain, kDisk);
  EXPECT_EQ(request.kind(), Kind::kRefused);
  EXPECT_EQ(c.Finish(request, absl::InvalidArgumentError("")).written, 0u);
}

struct Bad {
  std::string name;
  std::vector<Segment> segments;
  uint8_t want;
  std::function<void(BlockLimits&)> adjust = [](BlockLimits&) {};
};

class BadBlockRequestTest : public testing::TestWithParam<Bad> {};

TEST_P(BadBlockRequestTest, IsAnsweredAndNotExecuted) {
  BlockLimits limits = kDisk;
  GetParam().adjust(limits);
  OneChain c(GetParam().segments);
  ASSERT_TRUE(c.chain.has_value());
  const BlockRequest request = BlockRequest::Parse(*c.chain, limits);
  EXPECT_EQ(request.kind(), Kind::kRefused);
  EXPECT_EQ(c.Finish(request, absl::OkStatus()).bytes.back(), GetParam().want);
}

std::vector<Bad> BadBlockRequests() {
  const auto read_only = [](BlockLimits& limits) { limits.read_only = true; };
  const auto big_blocks = [](BlockLimits& limits) { limits.block_size = 4096; };
  const auto no_discard = [](BlockLimits& limits) { limits.discard = false; };
  const auto no_zeroes = [](BlockLimits& limits) { limits.write_zeroes = false; };
  const std::vector<BlkSegment> too_many(kMaxBlockSegments + 1, Range(0, 1));
  return {
      {"HeaderTooShort", {ReadableZeros(15), Writable(512), Writable(1)}, kBlkStatusIoError},
      {"NoHeader", {Writable(513)}, kBlkStatusIoError},
      {"UnknownType", {Header(0xff), Writable(1)}, kBlkStatusUnsupported},
      {"BarrierBit", {Header(0x80000000), Writable(1)}, kBlkStatusUnsupported},
      {"ReadStartsPastTheEnd", {Header(kBlkTypeIn, 8), Writable(513)}, kBlkStatusIoError},
      {"ReadEndsPastTheEnd", {Header(kBlkTypeIn, 7), Writable(1025)}, kBlkStatusIoError},
      {"ReadOfNothing", {Header(kBlkTypeIn), Writable(1)}, kBlkStatusIoError},
      {"ReadOfHalfASector", {Header(kBlkTypeIn), Writable(257)}, kBlkStatusIoError},
      {"SectorOverflows",
       {Header(kBlkTypeIn, uint64_t{1} << 55), Writable(513)},
       kBlkStatusIoError},
      {"SectorIsTheLargest", {Header(kBlkTypeIn, ~uint64_t{0}), Writable(513)}, kBlkStatusIoError},
      {"WriteEndsPastTheEnd",
       {Header(kBlkTypeOut, 8), ReadableZeros(512), Writable(1)},
       kBlkStatusIoError},
      {"WriteOfNothing", {Header(kBlkTypeOut), Writable(1)}, kBlkStatusIoError},
      {"WriteOfHalfASector",
       {Header(kBlkTypeOut), ReadableZeros(511), Writable(1)},
       kBlkStatusIoError},
      {"WriteToReadOnly",
       {Header(kBlkTypeOut), ReadableZeros(512), Writable(1)},
       kBlkStatusIoError,
       read_only},
      {"ReadOffItsBlock", {Header(kBlkTypeIn, 1), Writable(513)}, kBlkStatusIoError, big_blocks},
      {"ReadOfLessThanABlock", {Header(kBlkTypeIn), Writable(513)}, kBlkStatusIoError, big_blocks},
      {"DiscardNotNegotiated",
       {Header(kBlkTypeDiscard), Ranges({Range(0, 1)}), Writable(1)},
       kBlkStatusUnsupported,
       no_discard},
      {"DiscardOnReadOnly",
       {Header(kBlkTypeDiscard), Ranges({Range(0, 1)}), Writable(1)},
       kBlkStatusIoError,
       read_only},
      {"DiscardWithUnmap",
       {Header(kBlkTypeDiscard), Ranges({Range(0, 1, kBlkSegmentUnmap)}), Writable(1)},
       kBlkStatusUnsupported},
      {"DiscardPastTheEnd",
       {Header(kBlkTypeDiscard), Ranges({Range(0, 1), Range(8, 1)}), Writable(1)},
       kBlkStatusIoError},
      {"DiscardCutShort",
       {Header(kBlkTypeDiscard), ReadableZeros(15), Writable(1)},
       kBlkStatusIoError},
      {"DiscardOfNoRange", {Header(kBlkTypeDiscard), Writable(1)}, kBlkStatusIoError},
      {"DiscardOfTooManyRanges",
       {Header(kBlkTypeDiscard), Ranges(too_many), Writable(1)},
       kBlkStatusIoError},
      {"ZeroesNotNegotiated",
       {Header(kBlkTypeWriteZeroes), Ranges({Range(0, 1)}), Writable(1)},
       kBlkStatusUnsupported,
       no_zeroes},
      {"ZeroesWithUnknownFlag",
       {Header(kBlkTypeWriteZeroes), Ranges({Range(0, 1, 2)}), Writable(1)},
       kBlkStatusUnsupported},
      {"ZeroesTooLong",
       {Header(kBlkTypeWriteZeroes), Ranges({Range(0, kMaxSegmentSectors + 1)}), Writable(1)},
       kBlkStatusIoError,
       [](BlockLimits& limits) { limits.size_bytes = uint64_t{1} << 40; }},
  };
}

INSTANTIATE_TEST_SUITE_P(Malformed, BadBlockRequestTest, testing::ValuesIn(BadBlockRequests()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace vireo::virtio
