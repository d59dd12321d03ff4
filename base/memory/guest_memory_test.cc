#include "base/memory/guest_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/align.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using Backing = GuestMemory::Backing;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMiB = 1 << 20;

// Two regions that touch at 2 MiB, one above a hole at 4 GiB.
constexpr uint64_t kLow = 2 * kMiB;
constexpr uint64_t kHigh = uint64_t{4} << 30;

std::vector<GuestMemory::RegionSpec> Specs() {
  return {{GuestAddress(0), kLow}, {GuestAddress(kLow), kMiB}, {GuestAddress(kHigh), kMiB}};
}

std::vector<uint8_t> Counting(size_t size) {
  std::vector<uint8_t> bytes(size);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  return bytes;
}

class GuestMemoryTest : public testing::TestWithParam<Backing> {
 protected:
  GuestMemoryTest() {
    absl::StatusOr<std::unique_ptr<GuestMemory>> memory = GuestMemory::Create(Specs(), GetParam());
    EXPECT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
  }

  std::vector<uint64_t> DirtyPages(size_t region) {
    std::vector<uint64_t> pages;
    const std::vector<uint64_t> bitmap = memory_->dirty_log().FetchAndClear(region);
    for (uint64_t page = 0; page < bitmap.size() * 64; ++page) {
      if ((bitmap[page / 64] >> (page % 64) & 1) != 0) pages.push_back(page);
    }
    return pages;
  }

  std::unique_ptr<GuestMemory> memory_;
};

TEST_P(GuestMemoryTest, HasItsRegionsInOrder) {
  ASSERT_EQ(memory_->regions().size(), 3u);
  EXPECT_EQ(memory_->regions()[2].base, GuestAddress(kHigh));
  EXPECT_EQ(memory_->regions()[2].host.size(), kMiB);
  EXPECT_EQ(memory_->size(), kLow + 2 * kMiB);
  for (const GuestMemory::Region& region : memory_->regions()) {
    EXPECT_TRUE(IsAligned<uint64_t>(reinterpret_cast<uintptr_t>(region.host.data()), 2 * kMiB));
  }
}

TEST_P(GuestMemoryTest, ReadsBackWhatWasWrittenAcrossRegions) {
  const std::vector<uint8_t> out = Counting(3 * kPage);
  ASSERT_TRUE(memory_->Write(GuestAddress(kLow - kPage), out).ok());
  std::vector<uint8_t> in(out.size());
  ASSERT_TRUE(memory_->Read(GuestAddress(kLow - kPage), in).ok());
  EXPECT_EQ(in, out);
  EXPECT_EQ(memory_->regions()[0].host.back(), out[kPage - 1]);
  EXPECT_EQ(memory_->regions()[1].host.front(), out[kPage]);
}

struct BadRange {
  uint64_t address;
  uint64_t length;
};

TEST_P(GuestMemoryTest, WhatIsNotAllRamIsOutOfRangeAndNothingMoves) {
  const std::vector<BadRange> ranges = {
      {kLow + kMiB, 1},      {kLow + kMiB - 1, 2},  {kHigh - 1, 2},
      {kHigh + kMiB - 8, 9}, {UINT64_MAX, 1},       {UINT64_MAX - 1, 4},
      {0, kHigh + 1},        {kHigh + kMiB, kPage}, {kLow + kMiB, kHigh},
  };
  for (const BadRange& range : ranges) {
    SCOPED_TRACE(absl::StrFormat("%d bytes at %#x", range.length, range.address));
    std::vector<uint8_t> bytes(std::min<uint64_t>(range.length, kMiB), 0xaa);
    std::vector<iovec> vectors;
    EXPECT_FALSE(memory_->Contains(GuestAddress(range.address), range.length));
    EXPECT_FALSE(memory_->AppendReadable(GuestAddress(range.address), range.length, &vectors));
    EXPECT_TRUE(vectors.empty());
    EXPECT_EQ(memory_->Fill(GuestAddress(range.address), 1, range.length).code(),
              absl::StatusCode::kOutOfRange);
    if (bytes.size() < range.length) continue;
    EXPECT_EQ(memory_->Write(GuestAddress(range.address), bytes).code(),
              absl::StatusCode::kOutOfRange);
    EXPECT_EQ(memory_->Read(GuestAddress(range.address), bytes).code(),
              absl::StatusCode::kOutOfRange);
  }
  EXPECT_EQ(memory_->regions()[1].host.back(), 0);
}

TEST_P(GuestMemoryTest, NoBytesAreInRangeAnywhere) {
  EXPECT_TRUE(memory_->Contains(GuestAddress(UINT64_MAX), 0));
  EXPECT_TRUE(memory_->Read(GuestAddress(kHigh - 1), {}).ok());
  EXPECT_TRUE(memory_->Write(GuestAddress(kHigh - 1), {}).ok());
}

TEST_P(GuestMemoryTest, ObjectsMoveWhole) {
  struct Pair {
    uint32_t a;
    uint16_t b;
    uint16_t c;
  };
  ASSERT_TRUE(memory_->WriteObject(GuestAddress(101), Pair{7, 8, 9}).ok());
  const absl::StatusOr<Pair> pair = memory_->ReadObject<Pair>(GuestAddress(101));
  ASSERT_TRUE(pair.ok()) << pair.status();
  EXPECT_EQ(pair->a, 7u);
  EXPECT_EQ(pair->c, 9u);
  EXPECT_EQ(memory_->ReadObject<Pair>(GuestAddress(kHigh + kMiB - 4)).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST_P(GuestMemoryTest, IndicesAreAlignedAndInRam) {
  ASSERT_TRUE(memory_->StoreRelease16(GuestAddress(kLow - 2), 0xbeef).ok());
  EXPECT_EQ(*memory_->LoadAcquire16(GuestAddress(kLow - 2)), 0xbeef);
  EXPECT_EQ(memory_->LoadAcquire16(GuestAddress(1)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(memory_->StoreRelease16(GuestAddress(kHigh - 2), 1).code(),
            absl::StatusCode::kOutOfRange);
}

TEST_P(GuestMemoryTest, AppendsAPieceForEachRegion) {
  std::vector<iovec> vectors = {{nullptr, 0}};
  ASSERT_TRUE(memory_->AppendReadable(GuestAddress(kLow - 100), 300, &vectors));
  ASSERT_EQ(vectors.size(), 3u);
  EXPECT_EQ(vectors[1].iov_len, 100u);
  EXPECT_EQ(vectors[2].iov_base, memory_->regions()[1].host.data());
  EXPECT_EQ(vectors[2].iov_len, 200u);
}

TEST_P(GuestMemoryTest, WritesMarkTheirPages) {
  ASSERT_TRUE(memory_->dirty_log().Start().ok());
  ASSERT_TRUE(memory_->Write(GuestAddress(kLow - 1), Counting(2)).ok());
  ASSERT_TRUE(memory_->WriteObject(GuestAddress(kHigh + 5 * kPage), uint64_t{1}).ok());
  ASSERT_TRUE(memory_->StoreRelease16(GuestAddress(kHigh + 6 * kPage), 1).ok());
  ASSERT_TRUE(memory_->Fill(GuestAddress(kHigh + 8 * kPage), 0, kPage).ok());
  ASSERT_FALSE(memory_->Write(GuestAddress(kHigh - 1), Counting(2)).ok());
  ASSERT_TRUE(memory_->ReadObject<uint64_t>(GuestAddress(kHigh)).ok());
  EXPECT_EQ(DirtyPages(0), (std::vector<uint64_t>{kLow / kPage - 1}));
  EXPECT_EQ(DirtyPages(1), (std::vector<uint64_t>{0}));
  EXPECT_EQ(DirtyPages(2), (std::vector<uint64_t>{5, 6, 8}));
}

TEST_P(GuestMemoryTest, WritableMemoryIsMarkedWhenTheIoCompletes) {
  ASSERT_TRUE(memory_->dirty_log().Start().ok());
  GuestWritable writable(*memory_);
  ASSERT_TRUE(writable.Append(GuestAddress(kLow - kPage), 2 * kPage));
  ASSERT_TRUE(writable.Append(GuestAddress(kHigh + kPage), 3 * kPage));
  EXPECT_FALSE(writable.Append(GuestAddress(kHigh - 1), 2));
  EXPECT_EQ(writable.size(), 5 * kPage);
  EXPECT_EQ(TotalSize(writable.iovecs()), 5 * kPage);
  EXPECT_TRUE(DirtyPages(0).empty());

  // The third page and one byte of the fourth.
  writable.Complete(2 * kPage + kPage + 1);
  EXPECT_EQ(DirtyPages(0), (std::vector<uint64_t>{kLow / kPage - 1}));
  EXPECT_EQ(DirtyPages(1), (std::vector<uint64_t>{0}));
  EXPECT_EQ(DirtyPages(2), (std::vector<uint64_t>{1, 2}));

  writable.Clear();
  EXPECT_EQ(writable.size(), 0u);
  writable.Complete(kPage);
  EXPECT_TRUE(DirtyPages(2).empty());
}

TEST_P(GuestMemoryTest, StaysOutOfCoreDumps) {
  std::ifstream maps("/proc/self/smaps");
  const std::string start =
      absl::StrFormat("%x-", reinterpret_cast<uintptr_t>(memory_->regions()[0].host.data()));
  std::string line;
  bool here = false;
  std::string flags;
  while (flags.empty() && std::getline(maps, line)) {
    here = here || absl::StartsWith(line, start);
    if (here && absl::StartsWith(line, "VmFlags:")) flags = line;
  }
  EXPECT_TRUE(absl::StrContains(flags, " dd")) << flags;
}

TEST_P(GuestMemoryTest, TakesNoMemoryBeforeItIsTouched) {
  const absl::StatusOr<std::unique_ptr<GuestMemory>> large =
      GuestMemory::Create({{GuestAddress(0), 512 * kMiB}}, GetParam());
  ASSERT_TRUE(large.ok()) << large.status();
  const std::span<uint8_t> host = (*large)->regions()[0].host;
  std::vector<unsigned char> resident(host.size() / kPage);
  ASSERT_EQ(::mincore(host.data(), host.size(), resident.data()), 0);
  EXPECT_EQ(std::count_if(resident.begin(), resident.end(),
                          [](unsigned char page) { return (page & 1) != 0; }),
            0);
}

INSTANTIATE_TEST_SUITE_P(Backings, GuestMemoryTest,
                         testing::Values(Backing::kPrivate, Backing::kShared),
                         [](const testing::TestParamInfo<Backing>& info) {
                           return info.param == Backing::kPrivate ? "Private" : "Shared";
                         });

TEST(GuestMemoryCreateTest, SharedMemoryHasADescriptorWithTheSameBytes) {
  const absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create(Specs(), Backing::kShared);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE((*memory)->WriteObject(GuestAddress(kHigh + 8), uint32_t{0x12345678}).ok());
  const GuestMemory::Region& region = (*memory)->regions()[2];
  uint32_t value = 0;
  ASSERT_EQ(::pread(region.fd, &value, sizeof(value), static_cast<off_t>(region.fd_offset) + 8), 4);
  EXPECT_EQ(value, 0x12345678u);
  EXPECT_NE(::ftruncate(region.fd, 0), 0);  // Sealed.
}

TEST(GuestMemoryCreateTest, PrivateMemoryHasNoDescriptor) {
  const absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create(Specs(), Backing::kPrivate);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ((*memory)->regions()[0].fd, -1);
}

TEST(GuestMemoryCreateTest, ImpossibleRegionsAreInvalid) {
  const std::vector<std::vector<GuestMemory::RegionSpec>> cases = {
      {},
      {{GuestAddress(0), 0}},
      {{GuestAddress(0), 100}},
      {{GuestAddress(100), kPage}},
      {{GuestAddress(0), 2 * kPage}, {GuestAddress(kPage), kPage}},
      {{GuestAddress(UINT64_MAX - kPage + 1), 2 * kPage}},
  };
  for (const std::vector<GuestMemory::RegionSpec>& specs : cases) {
    EXPECT_EQ(GuestMemory::Create(specs, Backing::kPrivate).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(GuestMemoryCreateTest, MoreThanTheHostHasIsResourceExhausted) {
  constexpr uint64_t kTooMuch = uint64_t{1} << 50;
  for (const Backing backing : {Backing::kPrivate, Backing::kShared}) {
    const absl::Status status =
        GuestMemory::Create({{GuestAddress(0), kTooMuch}}, backing).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_TRUE(absl::StartsWith(std::string(status.message()), "guest memory: ")) << status;
  }
}

// The VmFlags of the mapping that holds `address` (proc(5)).
std::string FlagsOfMapping(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  const uintptr_t wanted = reinterpret_cast<uintptr_t>(address);
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
      here = begin <= wanted && wanted < end;
    } else if (here && absl::StartsWith(line, "VmFlags:")) {
      return line + " ";
    }
  }
  return "";
}

TEST(GuestMemoryCreateTest, AsksForTransparentHugePages) {
  if (::access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
    GTEST_SKIP() << "this kernel has no transparent huge pages";
  }
  for (const Backing backing : {Backing::kPrivate, Backing::kShared}) {
    const absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
        GuestMemory::Create({{GuestAddress(0), 4 * kMiB}}, backing);
    ASSERT_TRUE(memory.ok()) << memory.status();
    const std::string flags = FlagsOfMapping((*memory)->regions().front().host.data());
    EXPECT_TRUE(absl::StrContains(flags, " hg ")) << flags;
  }
}

TEST(GuestMemoryCreateTest, MissingHugePagesAreExplained) {
  // More than any host has reserved.
  const absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create({{GuestAddress(0), uint64_t{1} << 46}}, Backing::kHugepages);
  ASSERT_FALSE(memory.ok());
  if (absl::IsFailedPrecondition(memory.status())) GTEST_SKIP() << memory.status();
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted) << memory.status();
  EXPECT_TRUE(absl::StrContains(std::string(memory.status().message()), "vm.nr_hugepages"))
      << memory.status();
}

}  // namespace
}  // namespace vireo
