// What every BlockBackend promises, as one typed suite.
//
// A Disk type stands for one kind of backend: default-constructible, and
//
//   absl::StatusOr<std::unique_ptr<BlockBackend>> Open(EventLoop& loop, bool read_only);
//   static constexpr bool kPersistent;   // A second Open() finds what the first one flushed.
//
// The disk has kConformanceBytes, all zeros at first, and blocks of 512 bytes.

#ifndef VIREO_TESTS_CONFORMANCE_BLOCK_BACKEND_SUITE_H_
#define VIREO_TESTS_CONFORMANCE_BLOCK_BACKEND_SUITE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "base/check.h"
#include "storage/block_backend.h"

namespace vireo {

inline constexpr uint64_t kConformanceBytes = uint64_t{6} << 20;

inline std::vector<uint8_t> Pattern(size_t length, uint32_t seed) {
  std::vector<uint8_t> bytes(length);
  std::mt19937 random(seed);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

template <typename Disk>
class BlockBackendSuite : public testing::Test {
 protected:
  BlockBackendSuite() { Open(); }
  ~BlockBackendSuite() override {
    if (backend_ != nullptr) Close();
  }

  void Open(bool read_only = false) {
    absl::StatusOr<std::unique_ptr<BlockBackend>> opened = disk_.Open(*loop_, read_only);
    VIREO_CHECK(opened.ok(), opened.status().ToString());
    backend_ = *std::move(opened);
  }
  void Close() {
    const absl::Status closed = loop_->RunTask(backend_->Close());
    EXPECT_TRUE(closed.ok()) << closed;
    backend_.reset();
  }
  void Reopen(bool read_only = false) {
    Close();
    Open(read_only);
  }

  absl::Status Write(uint64_t offset, std::vector<uint8_t> bytes, WriteFlags flags = {}) {
    const iovec part = ToIoVec(std::span<const uint8_t>(bytes));
    return loop_->RunTask(backend_->Write(offset, IoVecs(&part, 1), flags));
  }
  absl::Status Zero(uint64_t offset, uint64_t length, bool may_unmap) {
    return loop_->RunTask(backend_->WriteZeroes(offset, length, {.may_unmap = may_unmap}));
  }
  absl::Status Discard(uint64_t offset, uint64_t length) {
    return loop_->RunTask(backend_->Discard(offset, length));
  }
  absl::Status Flush() { return loop_->RunTask(backend_->Flush()); }
  absl::StatusOr<std::vector<uint8_t>> TryRead(uint64_t offset, uint64_t length) {
    std::vector<uint8_t> bytes(length, 0xee);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(backend_->Read(offset, IoVecs(&part, 1)));
    if (!read.ok()) return read;
    return bytes;
  }
  std::vector<uint8_t> Read(uint64_t offset, uint64_t length) {
    absl::StatusOr<std::vector<uint8_t>> bytes = TryRead(offset, length);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *std::move(bytes) : std::vector<uint8_t>();
  }
  bool ReadsAs(uint64_t offset, const std::vector<uint8_t>& wanted) {
    return Read(offset, wanted.size()) == wanted;
  }
  bool ReadsAsZeros(uint64_t offset, uint64_t length) {
    return ReadsAs(offset, std::vector<uint8_t>(length));
  }

  // One of many writers.
  Task<void> WriteOne(uint64_t offset, std::vector<uint8_t>* bytes, int* failed) {
    const iovec part = ToIoVec(std::span<uint8_t>(*bytes));
    const absl::Status written = co_await backend_->Write(offset, IoVecs(&part, 1), WriteFlags{});
    if (!written.ok()) ++*failed;
  }
  Task<void> ReadOne(uint64_t offset, std::vector<uint8_t>* bytes, int* failed) {
    const iovec part = ToIoVec(std::span<uint8_t>(*bytes));
    const absl::Status read = co_await backend_->Read(offset, IoVecs(&part, 1));
    if (!read.ok()) ++*failed;
  }
  Task<void> FlushOne(int* failed) {
    const absl::Status flushed = co_await backend_->Flush();
    if (!flushed.ok()) ++*failed;
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  Disk disk_;
  std::unique_ptr<BlockBackend> backend_;
};

TYPED_TEST_SUITE_P(BlockBackendSuite);

TYPED_TEST_P(BlockBackendSuite, HasTheSizeItWasMadeWith) {
  EXPECT_EQ(this->backend_->geometry().size_bytes, kConformanceBytes);
  EXPECT_EQ(this->backend_->geometry().block_size, 512u);
}

TYPED_TEST_P(BlockBackendSuite, StartsAsZeros) {
  EXPECT_TRUE(this->ReadsAsZeros(0, kConformanceBytes));
}

TYPED_TEST_P(BlockBackendSuite, ReadsBackWhatWasWritten) {
  const std::vector<uint8_t> small = Pattern(512, 1);
  const std::vector<uint8_t> large = Pattern(300 * 512, 2);
  const std::vector<uint8_t> last = Pattern(1024, 3);
  ASSERT_TRUE(this->Write(512, small).ok());
  ASSERT_TRUE(this->Write(1 << 20, large).ok());
  ASSERT_TRUE(this->Write(kConformanceBytes - last.size(), last).ok());
  EXPECT_TRUE(this->ReadsAs(512, small));
  EXPECT_TRUE(this->ReadsAs(1 << 20, large));
  EXPECT_TRUE(this->ReadsAs(kConformanceBytes - last.size(), last));
}

TYPED_TEST_P(BlockBackendSuite, WriteKeepsItsNeighbours) {
  ASSERT_TRUE(this->Write(100 * 512, Pattern(3 * 512, 4)).ok());
  EXPECT_TRUE(this->ReadsAsZeros(0, 100 * 512));
  EXPECT_TRUE(this->ReadsAsZeros(103 * 512, 1 << 20));
}

TYPED_TEST_P(BlockBackendSuite, OverwriteReplacesJustItsRange) {
  std::vector<uint8_t> wanted = Pattern(256 * 1024, 5);
  ASSERT_TRUE(this->Write(0, wanted).ok());
  const std::vector<uint8_t> middle = Pattern(512 * 7, 6);
  ASSERT_TRUE(this->Write(65536 - 512, middle).ok());
  std::copy(middle.begin(), middle.end(), wanted.begin() + 65536 - 512);
  EXPECT_TRUE(this->ReadsAs(0, wanted));
}

TYPED_TEST_P(BlockBackendSuite, WholeDiskInOneRequest) {
  const std::vector<uint8_t> all = Pattern(kConformanceBytes, 7);
  ASSERT_TRUE(this->Write(0, all).ok());
  EXPECT_TRUE(this->ReadsAs(0, all));
}

TYPED_TEST_P(BlockBackendSuite, ScattersAndGathersOddPieces) {
  // Pieces of any length at any address, together whole blocks.
  std::vector<uint8_t> bytes = Pattern(4096 + 512, 8);
  const std::vector<iovec> parts = {{bytes.data(), 1},
                                    {bytes.data() + 1, 510},
                                    {bytes.data() + 511, 4000},
                                    {bytes.data() + 4511, 97}};
  ASSERT_TRUE(this->loop_->RunTask(this->backend_->Write(3 * 512, parts, WriteFlags{})).ok());
  std::vector<uint8_t> read(bytes.size() + 3);
  const std::vector<iovec> into = {
      {read.data() + 3, 700}, {read.data() + 703, 3}, {read.data() + 706, bytes.size() - 703}};
  ASSERT_TRUE(this->loop_->RunTask(this->backend_->Read(3 * 512, into)).ok());
  EXPECT_EQ(std::vector<uint8_t>(read.begin() + 3, read.end()), bytes);
}

TYPED_TEST_P(BlockBackendSuite, EmptyRequestsSucceed) {
  EXPECT_TRUE(this->Write(512, {}).ok());
  EXPECT_TRUE(this->TryRead(kConformanceBytes, 0).ok());
  EXPECT_TRUE(this->Discard(0, 0).ok());
  EXPECT_TRUE(this->Zero(512, 0, true).ok());
}

TYPED_TEST_P(BlockBackendSuite, PastTheEndIsRefused) {
  const std::vector<uint8_t> bytes(1024);
  EXPECT_TRUE(absl::IsOutOfRange(this->Write(kConformanceBytes - 512, bytes)));
  EXPECT_TRUE(absl::IsOutOfRange(this->TryRead(kConformanceBytes, 512).status()));
  EXPECT_TRUE(absl::IsOutOfRange(this->TryRead(~uint64_t{0} - 511, 512).status()));
  EXPECT_TRUE(absl::IsOutOfRange(this->Discard(512, kConformanceBytes)));
  EXPECT_TRUE(absl::IsOutOfRange(this->Zero(0, kConformanceBytes + 512, false)));
  EXPECT_TRUE(this->ReadsAsZeros(kConformanceBytes - 512, 512));
}

TYPED_TEST_P(BlockBackendSuite, PartsOfBlocksAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(this->Write(1, std::vector<uint8_t>(512))));
  EXPECT_TRUE(absl::IsInvalidArgument(this->TryRead(0, 100).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(this->Zero(0, 1000, false)));
}

TYPED_TEST_P(BlockBackendSuite, ZeroedRangesReadAsZeros) {
  std::vector<uint8_t> wanted = Pattern(1 << 20, 9);
  ASSERT_TRUE(this->Write(0, wanted).ok());
  ASSERT_TRUE(this->Zero(512, 512, false).ok());
  ASSERT_TRUE(this->Zero(100 * 512, 300 * 1024, false).ok());
  ASSERT_TRUE(this->Zero(500 * 1024, 300 * 1024 + 512, true).ok());
  std::fill_n(wanted.begin() + 512, 512, 0);
  std::fill_n(wanted.begin() + 100 * 512, 300 * 1024, 0);
  std::fill_n(wanted.begin() + 500 * 1024, 300 * 1024 + 512, 0);
  EXPECT_TRUE(this->ReadsAs(0, wanted));
  // And can be written again.
  const std::vector<uint8_t> again = Pattern(4096, 10);
  ASSERT_TRUE(this->Write(200 * 1024, again).ok());
  std::copy(again.begin(), again.end(), wanted.begin() + 200 * 1024);
  EXPECT_TRUE(this->ReadsAs(0, wanted));
}

TYPED_TEST_P(BlockBackendSuite, DiscardLeavesOldBytesOrZeros) {
  const std::vector<uint8_t> old = Pattern(1 << 20, 11);
  ASSERT_TRUE(this->Write(0, old).ok());
  ASSERT_TRUE(this->Discard(1024, 700 * 1024).ok());
  const std::vector<uint8_t> now = this->Read(0, old.size());
  for (size_t block = 0; block < old.size(); block += 512) {
    const bool same =
        std::equal(now.begin() + block, now.begin() + block + 512, old.begin() + block);
    const bool zeros = std::all_of(now.begin() + block, now.begin() + block + 512,
                                   [](uint8_t byte) { return byte == 0; });
    const bool inside = block >= 1024 && block < 1024 + 700 * 1024;
    EXPECT_TRUE(same || (inside && zeros)) << "at " << block;
  }
}

TYPED_TEST_P(BlockBackendSuite, DiscardedRangesCanBeWrittenAgain) {
  ASSERT_TRUE(this->Write(0, Pattern(1 << 20, 12)).ok());
  ASSERT_TRUE(this->Flush().ok());
  ASSERT_TRUE(this->Discard(0, kConformanceBytes).ok());
  ASSERT_TRUE(this->Flush().ok());
  const std::vector<uint8_t> all = Pattern(kConformanceBytes, 13);
  ASSERT_TRUE(this->Write(0, all).ok());
  EXPECT_TRUE(this->ReadsAs(0, all));
}

TYPED_TEST_P(BlockBackendSuite, ManyWritersOfOneAreaAllLand) {
  std::vector<std::vector<uint8_t>> pieces;
  for (uint32_t i = 0; i < 256; ++i) pieces.push_back(Pattern(512, 100 + i));
  int failed = 0;
  {
    EventLoop::CurrentScope current(*this->loop_);
    TaskScope scope(*this->loop_);
    for (uint32_t i = 0; i < 256; ++i) {
      const uint32_t at = i * 37 % 256;  // Not in order.
      scope.Spawn(this->WriteOne(at * 512, &pieces[at], &failed));
      if (i % 64 == 0) scope.Spawn(this->FlushOne(&failed));
    }
    this->loop_->RunTask(this->Join(&scope));
  }
  EXPECT_EQ(failed, 0);
  std::vector<uint8_t> wanted;
  for (const auto& piece : pieces) wanted.insert(wanted.end(), piece.begin(), piece.end());
  EXPECT_TRUE(this->ReadsAs(0, wanted));
}

TYPED_TEST_P(BlockBackendSuite, ReadersBesideAWriterSeeOldOrNewBlocks) {
  const std::vector<uint8_t> old = Pattern(128 * 1024, 16);
  std::vector<uint8_t> fresh = Pattern(128 * 1024, 17);
  ASSERT_TRUE(this->Write(0, old).ok());
  std::vector<std::vector<uint8_t>> seen(8, std::vector<uint8_t>(old.size()));
  int failed = 0;
  {
    EventLoop::CurrentScope current(*this->loop_);
    TaskScope scope(*this->loop_);
    for (size_t i = 0; i < 4; ++i) scope.Spawn(this->ReadOne(0, &seen[i], &failed));
    scope.Spawn(this->WriteOne(0, &fresh, &failed));
    for (size_t i = 4; i < 8; ++i) scope.Spawn(this->ReadOne(0, &seen[i], &failed));
    this->loop_->RunTask(this->Join(&scope));
  }
  EXPECT_EQ(failed, 0);
  for (const std::vector<uint8_t>& bytes : seen) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      ASSERT_TRUE(bytes[i] == old[i] || bytes[i] == fresh[i]) << "at " << i;
    }
  }
  EXPECT_TRUE(this->ReadsAs(0, fresh));
}

TYPED_TEST_P(BlockBackendSuite, StatusAnswersForTheWholeDisk) {
  ASSERT_TRUE(this->Write(1 << 20, Pattern(4096, 18)).ok());
  uint64_t at = 0;
  while (at < kConformanceBytes) {
    const absl::StatusOr<RangeStatus> answer =
        this->loop_->RunTask(this->backend_->Status(at, kConformanceBytes - at));
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_GT(answer->length, 0u);
    ASSERT_LE(answer->length, kConformanceBytes - at);
    if (answer->kind != RangeKind::kData) {
      EXPECT_TRUE(this->ReadsAsZeros(at, answer->length));
    }
    at += answer->length;
  }
  const absl::StatusOr<RangeStatus> data =
      this->loop_->RunTask(this->backend_->Status(1 << 20, 512));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->kind, RangeKind::kData);
  EXPECT_EQ(data->length, 512u);
}

TYPED_TEST_P(BlockBackendSuite, GrowsWithZerosAndNeverShrinks) {
  const std::vector<uint8_t> bytes = Pattern(512, 19);
  ASSERT_TRUE(this->Write(kConformanceBytes - 512, bytes).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(
      this->loop_->RunTask(this->backend_->Resize(kConformanceBytes - 512))));
  EXPECT_TRUE(
      absl::IsInvalidArgument(this->loop_->RunTask(this->backend_->Resize(kConformanceBytes + 1))));
  const uint64_t larger = 3 * kConformanceBytes;
  const absl::Status grown = this->loop_->RunTask(this->backend_->Resize(larger));
  ASSERT_TRUE(grown.ok()) << grown;
  EXPECT_EQ(this->backend_->geometry().size_bytes, larger);
  EXPECT_TRUE(this->ReadsAs(kConformanceBytes - 512, bytes));
  EXPECT_TRUE(this->ReadsAsZeros(kConformanceBytes, larger - kConformanceBytes));
  ASSERT_TRUE(this->Write(larger - 512, bytes).ok());
  if (!TypeParam::kPersistent) return;
  this->Reopen();
  EXPECT_EQ(this->backend_->geometry().size_bytes, larger);
  EXPECT_TRUE(this->ReadsAs(larger - 512, bytes));
  EXPECT_TRUE(this->ReadsAsZeros(kConformanceBytes, larger - kConformanceBytes - 512));
}

REGISTER_TYPED_TEST_SUITE_P(BlockBackendSuite, HasTheSizeItWasMadeWith, StartsAsZeros,
                            ReadsBackWhatWasWritten, WriteKeepsItsNeighbours,
                            OverwriteReplacesJustItsRange, WholeDiskInOneRequest,
                            ScattersAndGathersOddPieces, EmptyRequestsSucceed, PastTheEndIsRefused,
                            PartsOfBlocksAreRefused, ZeroedRangesReadAsZeros,
                            DiscardLeavesOldBytesOrZeros, DiscardedRangesCanBeWrittenAgain,
                            ManyWritersOfOneAreaAllLand, ReadersBesideAWriterSeeOldOrNewBlocks,
                            StatusAnswersForTheWholeDisk, GrowsWithZerosAndNeverShrinks);

// For disks that a second Open() finds as the first one left them.
template <typename Disk>
class PersistentBackendSuite : public BlockBackendSuite<Disk> {};

TYPED_TEST_SUITE_P(PersistentBackendSuite);

TYPED_TEST_P(PersistentBackendSuite, ReadOnlyDiskRefusesChanges) {
  const std::vector<uint8_t> bytes = Pattern(512, 14);
  ASSERT_TRUE(this->Write(0, bytes).ok());
  this->Reopen(/*read_only=*/true);
  EXPECT_TRUE(this->backend_->geometry().read_only);
  EXPECT_TRUE(absl::IsFailedPrecondition(this->Write(0, std::vector<uint8_t>(512))));
  EXPECT_TRUE(absl::IsFailedPrecondition(this->Discard(0, 512)));
  EXPECT_TRUE(absl::IsFailedPrecondition(this->Zero(0, 512, true)));
  EXPECT_TRUE(this->Flush().ok());
  EXPECT_TRUE(this->ReadsAs(0, bytes));
}

TYPED_TEST_P(PersistentBackendSuite, KeepsWhatWasWrittenOverAReopen) {
  const std::vector<uint8_t> bytes = Pattern(100 * 512, 15);
  ASSERT_TRUE(this->Write(77 * 512, bytes).ok());
  ASSERT_TRUE(this->Write(4 << 20, bytes, {.fua = true}).ok());
  ASSERT_TRUE(this->Zero(4 << 20, 512, true).ok());
  this->Reopen();
  EXPECT_TRUE(this->ReadsAs(77 * 512, bytes));
  EXPECT_TRUE(this->ReadsAsZeros(4 << 20, 512));
  EXPECT_TRUE(this->ReadsAsZeros(0, 77 * 512));
}

REGISTER_TYPED_TEST_SUITE_P(PersistentBackendSuite, ReadOnlyDiskRefusesChanges,
                            KeepsWhatWasWrittenOverAReopen);

}  // namespace vireo

#endif  // VIREO_TESTS_CONFORMANCE_BLOCK_BACKEND_SUITE_H_
