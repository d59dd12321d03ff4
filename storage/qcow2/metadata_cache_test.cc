#include "storage/qcow2/metadata_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/async/task_scope.h"
#include "tests/support/faulty_file.h"
#include "tests/support/memory_file.h"

namespace vireo::qcow2 {
namespace {

constexpr Layout kLayout = {.cluster_bits = 16};

std::shared_ptr<CacheBudget> Budget(uint64_t bytes) { return std::make_shared<CacheBudget>(bytes); }

class MetadataCacheTest : public testing::Test {
 protected:
  MetadataCacheTest() { medium_.bytes.resize(1 << 20); }

  Task<void> GetInto(MetadataCache* cache, uint64_t offset, absl::Status* status) {
    const absl::StatusOr<MetadataCache::Slice> slice =
        co_await cache->Get(MetadataKind::kL2Table, offset);
    *status = slice.status();
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }
  absl::StatusOr<MetadataCache::Slice> Get(MetadataCache& cache, uint64_t offset) {
    return loop_->RunTask(cache.Get(MetadataKind::kL2Table, offset));
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  MemoryFile file_{*loop_, medium_};
};

TEST_F(MetadataCacheTest, TwoMissesShareOneRead) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  std::vector<absl::Status> statuses(5, absl::UnknownError("not ended"));
  EventLoop::CurrentScope current(*loop_);
  TaskScope scope(*loop_);
  for (absl::Status& status : statuses) scope.Spawn(GetInto(&cache, 8192, &status));
  loop_->RunTask(Join(&scope));
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(medium_.reads, 1u);
}

TEST_F(MetadataCacheTest, AHitNeedsNoLoop) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  medium_.bytes[8192] = 42;
  ASSERT_TRUE(Get(cache, 8192).ok());
  const MetadataCache::Slice slice = cache.Find(8192);
  ASSERT_TRUE(slice.valid());
  EXPECT_EQ(slice.bytes()[0], 42);
  EXPECT_FALSE(cache.Find(12288).valid());
}

TEST_F(MetadataCacheTest, AFailedReadTellsAllWhoWaitAndIsTriedAgain) {
  FaultyMedium medium(std::vector<uint8_t>(1 << 16), 1);
  FaultyFile file(*loop_, medium);
  MetadataCache cache(*loop_, file, kLayout, Budget(1 << 20));
  medium.FailAfter(0, EIO);
  std::vector<absl::Status> statuses(3);
  EventLoop::CurrentScope current(*loop_);
  TaskScope scope(*loop_);
  for (absl::Status& status : statuses) scope.Spawn(GetInto(&cache, 0, &status));
  loop_->RunTask(Join(&scope));
  // A read that ended at once leaves no one to wait: the next one is a new read.
  EXPECT_FALSE(statuses[0].ok());
  EXPECT_TRUE(Get(cache, 0).ok());
}

TEST_F(MetadataCacheTest, StaysWithinItsLimitAndKeepsWhatIsDirty) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(8 * 4096));
  {
    absl::StatusOr<MetadataCache::Slice> slice = Get(cache, 0);
    ASSERT_TRUE(slice.ok());
    slice->MutableBytes()[0] = 7;
  }
  for (uint64_t offset = 4096; offset < (1 << 20); offset += 4096) {
    ASSERT_TRUE(Get(cache, offset).ok());
  }
  EXPECT_LE(cache.memory_bytes(), 8u * 4096);
  ASSERT_TRUE(cache.Find(0).valid());
  EXPECT_EQ(cache.Find(0).bytes()[0], 7);
}

// Fills a table with entries of which no two go together, so that its slices need their bytes.
void Scatter(std::vector<uint8_t>& bytes) {
  for (size_t i = 0; i < bytes.size(); i += 8)
    bytes[i + 5] = static_cast<uint8_t>(i * i / 64 + i / 8);
}

TEST_F(MetadataCacheTest, AMissThatGoesOnReadsTheRestOfTheTable) {
  Scatter(medium_.bytes);
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  ASSERT_TRUE(Get(cache, 65536).ok());
  ASSERT_TRUE(Get(cache, 65536 + 4096).ok());
  EXPECT_EQ(medium_.reads, 2u);
  EXPECT_EQ(cache.memory_bytes(), 16u * (4096 + CacheBudget::kOverhead));
  EXPECT_EQ(cache.memory_bytes(), cache.budget().memory_bytes());
  EXPECT_TRUE(cache.Find(65536 + 15 * 4096).valid());
  EXPECT_FALSE(cache.Find(65536 + 16 * 4096).valid());
  // On into the next table: all of it.
  ASSERT_TRUE(Get(cache, 2 * 65536).ok());
  EXPECT_TRUE(cache.Find(2 * 65536 + 15 * 4096).valid());
  EXPECT_EQ(medium_.reads, 3u);
}

TEST_F(MetadataCacheTest, OneBadSliceDoesNotFailItsNeighbours) {
  std::vector<uint8_t> bytes(1 << 17);
  Scatter(bytes);
  FaultyMedium medium(bytes, 1);
  FaultyFile file(*loop_, medium);
  MetadataCache cache(*loop_, file, kLayout, Budget(1 << 20));
  ASSERT_TRUE(Get(cache, 65536).ok());
  medium.FailAfter(0, EIO);  // The read of all the rest.
  EXPECT_TRUE(Get(cache, 65536 + 4096).ok());
  EXPECT_TRUE(cache.Find(65536 + 4096).valid());
  EXPECT_TRUE(cache.Find(65536 + 15 * 4096).valid());
}

TEST_F(MetadataCacheTest, WhatCanBeRestoredNeedsNoSecondRead) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(16 * 4096));
  for (uint64_t offset = 0; offset < (1 << 20); offset += 4096) {
    ASSERT_TRUE(Get(cache, offset).ok());
  }
  const uint64_t reads = medium_.reads;
  for (uint64_t offset = (1 << 20) - 32 * 4096; offset < (1 << 20); offset += 4096) {
    const MetadataCache::Slice slice = cache.Find(offset);
    ASSERT_TRUE(slice.valid()) << offset;
    EXPECT_EQ(slice.bytes()[4095], 0);
  }
  EXPECT_EQ(medium_.reads, reads);
  EXPECT_LE(cache.memory_bytes(), 16u * 4096);
}

TEST_F(MetadataCacheTest, WhatChangedIsNotRestoredAsItWas) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(16 * 4096));
  {
    absl::StatusOr<MetadataCache::Slice> slice = Get(cache, 65536);
    ASSERT_TRUE(slice.ok());
    slice->MutableBytes()[0] = 7;
  }
  ASSERT_TRUE(loop_->RunTask(cache.Write(cache.Freeze(MetadataKind::kL2Table))).ok());
  for (uint64_t offset = 131072; offset < (1 << 20); offset += 4096) {
    ASSERT_TRUE(Get(cache, offset).ok());
  }
  const absl::StatusOr<MetadataCache::Slice> again = Get(cache, 65536);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->bytes()[0], 7);
  cache.Forget(131072);
  medium_.bytes[131072] = 9;
  const absl::StatusOr<MetadataCache::Slice> other = Get(cache, 131072);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->bytes()[0], 9);
}

TEST_F(MetadataCacheTest, AFrozenSliceIsWrittenAsItWas) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  absl::StatusOr<MetadataCache::Slice> slice = Get(cache, 4096);
  ASSERT_TRUE(slice.ok());
  slice->MutableBytes()[0] = 1;
  MetadataCache::Frozen frozen = cache.Freeze(MetadataKind::kL2Table);
  EXPECT_EQ(cache.dirty_count(MetadataKind::kL2Table), 0u);
  slice->MutableBytes()[0] = 2;  // Belongs to the next set.
  EXPECT_EQ(cache.dirty_count(MetadataKind::kL2Table), 1u);
  ASSERT_TRUE(loop_->RunTask(cache.Write(std::move(frozen))).ok());
  EXPECT_EQ(medium_.bytes[4096], 1);
  ASSERT_TRUE(loop_->RunTask(cache.Write(cache.Freeze(MetadataKind::kL2Table))).ok());
  EXPECT_EQ(medium_.bytes[4096], 2);
  slice->MutableBytes();
}

TEST_F(MetadataCacheTest, AFrozenCopyCountsUntilItIsWritten) {
  Scatter(medium_.bytes);
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  constexpr uint64_t kOne = 4096 + CacheBudget::kOverhead;
  {
    absl::StatusOr<MetadataCache::Slice> slice = Get(cache, 4096);
    ASSERT_TRUE(slice.ok());
    slice->MutableBytes()[0] = 1;
    MetadataCache::Frozen frozen = cache.Freeze(MetadataKind::kL2Table);
    EXPECT_EQ(cache.budget().memory_bytes(), kOne);
    slice->MutableBytes()[0] = 2;
    EXPECT_EQ(cache.budget().memory_bytes(), kOne + 4096);
    ASSERT_TRUE(loop_->RunTask(cache.Write(std::move(frozen))).ok());
  }
  EXPECT_EQ(cache.budget().memory_bytes(), kOne);
}

TEST_F(MetadataCacheTest, NothingIsTakenBeforeItIsUsed) {
  const MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  EXPECT_EQ(cache.memory_bytes(), 0u);
  EXPECT_EQ(cache.budget().memory_bytes(), 0u);
}

TEST_F(MetadataCacheTest, NeighboursAreWrittenTogether) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  for (uint64_t offset = 0; offset < 16 * 4096; offset += 4096) {
    absl::StatusOr<MetadataCache::Slice> slice = Get(cache, offset);
    ASSERT_TRUE(slice.ok());
    slice->MutableBytes()[0] = 1;
  }
  ASSERT_TRUE(loop_->RunTask(cache.Write(cache.Freeze(MetadataKind::kL2Table))).ok());
  EXPECT_EQ(medium_.writes, 1u);
}

TEST_F(MetadataCacheTest, WhatCouldNotBeWrittenIsDirtyAgain) {
  FaultyMedium medium(std::vector<uint8_t>(1 << 16), 1);
  FaultyFile file(*loop_, medium);
  MetadataCache cache(*loop_, file, kLayout, Budget(1 << 20));
  {
    absl::StatusOr<MetadataCache::Slice> slice = Get(cache, 0);
    ASSERT_TRUE(slice.ok());
    slice->MutableBytes()[0] = 1;
  }
  medium.FailAfter(0, EIO);
  EXPECT_FALSE(loop_->RunTask(cache.Write(cache.Freeze(MetadataKind::kL2Table))).ok());
  EXPECT_EQ(cache.dirty_count(MetadataKind::kL2Table), 1u);
  EXPECT_TRUE(loop_->RunTask(cache.Write(cache.Freeze(MetadataKind::kL2Table))).ok());
  EXPECT_EQ(medium.bytes()[0], 1);
}

TEST_F(MetadataCacheTest, WritesNothingWhereTheGuardSaysNo) {
  MetadataCache cache(*loop_, file_, kLayout, Budget(1 << 20));
  cache.set_guard([](MetadataKind, uint64_t host_offset) { return host_offset != 65536; });
  {
    absl::StatusOr<MetadataCache::Slice> good = Get(cache, 8192);
    absl::StatusOr<MetadataCache::Slice> bad = Get(cache, 65536);
    ASSERT_TRUE(good.ok() && bad.ok());
    good->MutableBytes()[0] = 1;
    bad->MutableBytes()[0] = 2;
  }
  const absl::Status written = loop_->RunTask(cache.Write(cache.Freeze(MetadataKind::kL2Table)));
  EXPECT_TRUE(absl::IsDataLoss(written)) << written;
  EXPECT_EQ(medium_.bytes[65536], 0);
  EXPECT_EQ(cache.dirty_count(MetadataKind::kL2Table), 2u);
}

}  // namespace
}  // namespace vireo::qcow2
