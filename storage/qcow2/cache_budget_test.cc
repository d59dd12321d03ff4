#include "storage/qcow2/cache_budget.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "storage/qcow2/metadata_cache.h"
#include "tests/support/memory_file.h"

namespace vireo::qcow2 {
namespace {

constexpr Layout kLayout = {.cluster_bits = 16};
constexpr Layout kTiny = {.cluster_bits = 9};
constexpr uint64_t kSlice = 4096 + CacheBudget::kOverhead;
constexpr uint64_t kFileBytes = 1 << 20;

// Two layers, whose tables hold nothing that could be kept as a run.
class CacheBudgetTest : public testing::Test {
 protected:
  CacheBudgetTest() {
    for (MemoryMedium* medium : {&upper_medium_, &lower_medium_}) {
      medium->bytes.resize(kFileBytes);
      for (size_t i = 0; i < kFileBytes; i += 8) {
        medium->bytes[i + 5] = static_cast<uint8_t>(i * i / 64 + i / 8);
      }
    }
  }

  // Room for `slices` of 4 KiB, and none for runs.
  static std::shared_ptr<CacheBudget> BudgetOf(uint64_t slices) {
    return std::make_shared<CacheBudget>((slices * kSlice * 8 + 6) / 7);
  }
  MetadataCache Upper(std::shared_ptr<CacheBudget> budget, const Layout& layout = kLayout) {
    return MetadataCache(*loop_, upper_, layout, std::move(budget));
  }
  MetadataCache Lower(std::shared_ptr<CacheBudget> budget, const Layout& layout = kLayout) {
    return MetadataCache(*loop_, lower_, layout, std::move(budget));
  }
  MetadataCache::Slice Get(MetadataCache& cache, uint64_t offset) {
    return *loop_->RunTask(cache.Get(MetadataKind::kL2Table, offset));
  }
  void Touch(MetadataCache& cache, uint64_t slice) { Get(cache, slice * 4096); }
  // How many slices, of those that are 2 * 4 KiB apart, are in memory.
  static int Count(MetadataCache& cache) {
    int count = 0;
    for (uint64_t slice = 0; slice < kFileBytes / 4096; slice += 2) {
      if (cache.Find(slice * 4096).valid()) ++count;
    }
    return count;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium upper_medium_;
  MemoryMedium lower_medium_;
  MemoryFile upper_{*loop_, upper_medium_};
  MemoryFile lower_{*loop_, lower_medium_};
};

TEST_F(CacheBudgetTest, LayersStayWithinOneLimit) {
  const std::shared_ptr<CacheBudget> budget = BudgetOf(10);
  MetadataCache upper = Upper(budget);
  MetadataCache lower = Lower(budget);
  for (uint64_t slice = 0; slice < kFileBytes / 4096; slice += 2) {
    Touch(upper, slice);
    Touch(lower, slice);
    EXPECT_LE(budget->memory_bytes(), 10 * kSlice);
    EXPECT_EQ(budget->memory_bytes(), upper.memory_bytes() + lower.memory_bytes());
  }
  EXPECT_EQ(Count(upper), 5);
  EXPECT_EQ(Count(lower), 5);
}

TEST_F(CacheBudgetTest, ALayerThatIsBusyGetsWhatAnotherDoesNotUse) {
  const std::shared_ptr<CacheBudget> budget = BudgetOf(10);
  MetadataCache upper = Upper(budget);
  MetadataCache lower = Lower(budget);
  for (uint64_t slice = 0; slice < 20; slice += 2) Touch(lower, slice);
  EXPECT_EQ(Count(lower), 10);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t slice = 0; slice < 20; slice += 2) Touch(upper, slice);
  }
  EXPECT_EQ(Count(upper), 10);
  EXPECT_EQ(lower.memory_bytes(), 0u);
}

TEST_F(CacheBudgetTest, WhatIsUsedAgainOutlivesWhatIsReadOnce) {
  const std::shared_ptr<CacheBudget> budget = BudgetOf(10);
  MetadataCache upper = Upper(budget);
  MetadataCache lower = Lower(budget);
  Touch(upper, 0);
  for (uint64_t slice = 0; slice < kFileBytes / 4096; slice += 2) {
    Touch(lower, slice);
    EXPECT_TRUE(upper.Find(0).valid()) << slice;
  }
}

TEST_F(CacheBudgetTest, WhatIsDirtyOrInUseStays) {
  const std::shared_ptr<CacheBudget> budget = BudgetOf(2);
  MetadataCache upper = Upper(budget);
  MetadataCache lower = Lower(budget);
  Get(upper, 0).MutableBytes()[0] = 7;
  {
    const MetadataCache::Slice pinned = Get(upper, 2 * 4096);
    for (uint64_t slice = 0; slice < 40; slice += 2) Touch(lower, slice);
    EXPECT_EQ(pinned.bytes()[5], upper_medium_.bytes[2 * 4096 + 5]);
    EXPECT_EQ(budget->memory_bytes(), 3 * kSlice);
  }
  ASSERT_TRUE(upper.Find(0).valid());
  EXPECT_EQ(upper.Find(0).bytes()[0], 7);
  ASSERT_TRUE(loop_->RunTask(upper.Write(upper.Freeze(MetadataKind::kL2Table))).ok());
  EXPECT_EQ(upper_medium_.bytes[0], 7);
  for (uint64_t slice = 0; slice < 40; slice += 2) Touch(lower, slice);
  EXPECT_EQ(upper.memory_bytes(), 0u);
  EXPECT_LE(budget->memory_bytes(), 2 * kSlice);
}

TEST_F(CacheBudgetTest, SlicesOfDifferentSizesShareIt) {
  const std::shared_ptr<CacheBudget> budget = BudgetOf(10);
  MetadataCache upper = Upper(budget, kTiny);
  MetadataCache lower = Lower(budget);
  for (uint64_t at = 0; at < kFileBytes; at += 512) {
    Get(upper, at);
    if (at % 8192 == 0) Get(lower, at);
    EXPECT_LE(budget->memory_bytes(), 10 * kSlice);
  }
  EXPECT_GT(upper.memory_bytes(), 0u);
}

TEST_F(CacheBudgetTest, ALayerThatClosesGivesItsPartBack) {
  const std::shared_ptr<CacheBudget> budget = BudgetOf(10);
  MetadataCache upper = Upper(budget);
  {
    MetadataCache lower = Lower(budget);
    for (uint64_t slice = 0; slice < 20; slice += 2) Touch(lower, slice);
  }
  EXPECT_EQ(budget->memory_bytes(), 0u);
  for (uint64_t slice = 0; slice < 40; slice += 2) Touch(upper, slice);
  EXPECT_EQ(budget->memory_bytes(), 10 * kSlice);
}

TEST_F(CacheBudgetTest, RunsOfAllLayersShareItToo) {
  upper_medium_.bytes.assign(kFileBytes, 0);
  lower_medium_.bytes.assign(kFileBytes, 0);
  const std::shared_ptr<CacheBudget> budget = std::make_shared<CacheBudget>(16 << 10);
  MetadataCache upper = Upper(budget);
  MetadataCache lower = Lower(budget);
  for (uint64_t slice = 0; slice < kFileBytes / 4096; ++slice) {
    Touch(upper, slice);
    Touch(lower, slice);
    EXPECT_LE(budget->memory_bytes(), 16u << 10);
    EXPECT_EQ(budget->memory_bytes(), upper.memory_bytes() + lower.memory_bytes());
  }
}

}  // namespace
}  // namespace vireo::qcow2
