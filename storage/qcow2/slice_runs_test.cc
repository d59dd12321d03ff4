#include "storage/qcow2/slice_runs.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/endian.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

constexpr Layout kLayout = {.cluster_bits = 16};
constexpr Layout kExtended = {.cluster_bits = 16, .l2_entry_bytes = 16};
constexpr uint64_t kTable = 0x50000;

class SliceRunsTest : public testing::Test {
 protected:
  static void Store(std::vector<uint8_t>& slice, size_t index, uint64_t value) {
    const Be64 word(value);
    std::memcpy(slice.data() + index * 8, &word, 8);
  }
  // 512 clusters of data, one behind the other.
  static std::vector<uint8_t> Contiguous() {
    std::vector<uint8_t> slice(4096);
    for (uint64_t i = 0; i < 512; ++i) Store(slice, i, kEntryCopied | (0x1000000 + (i << 16)));
    return slice;
  }
  static void ExpectKept(SliceRuns& runs, const std::vector<uint8_t>& slice) {
    ASSERT_TRUE(runs.Learn(kTable + 8192, slice));
    std::vector<uint8_t> restored(slice.size(), 0xee);
    ASSERT_TRUE(runs.Restore(kTable + 8192, restored));
    EXPECT_EQ(restored, slice);
  }

  RunsLimit limit_{1 << 20};
  SliceRuns runs_{kLayout, limit_};
};

TEST_F(SliceRunsTest, KeepsWhatIsAllEqual) {
  ExpectKept(runs_, std::vector<uint8_t>(4096));
  std::vector<uint8_t> zeros(4096);
  for (size_t i = 0; i < 512; ++i) Store(zeros, i, kEntryZero);
  ExpectKept(runs_, zeros);
}

TEST_F(SliceRunsTest, KeepsDataInOrder) { ExpectKept(runs_, Contiguous()); }

TEST_F(SliceRunsTest, KeepsExtendedEntries) {
  SliceRuns runs(kExtended, limit_);
  std::vector<uint8_t> slice(4096);
  for (uint64_t i = 0; i < 256; ++i) {
    Store(slice, 2 * i, kEntryCopied | (0x1000000 + (i << 16)));
    Store(slice, 2 * i + 1, 0xffffffff);
  }
  ExpectKept(runs, slice);
  Store(slice, 101, 0xfffffffe);
  EXPECT_FALSE(runs.Learn(kTable, slice));
}

TEST_F(SliceRunsTest, RefusesEverythingElse) {
  for (const size_t odd : {0, 1, 255, 511}) {
    std::vector<uint8_t> slice = Contiguous();
    Store(slice, odd, 0x7770000);
    EXPECT_FALSE(runs_.Learn(kTable, slice)) << odd;
  }
  EXPECT_FALSE(runs_.Contains(kTable));
}

TEST_F(SliceRunsTest, Forgets) {
  ASSERT_TRUE(runs_.Learn(kTable, Contiguous()));
  ASSERT_TRUE(runs_.Learn(kTable + 4096, Contiguous()));
  runs_.Forget(kTable);
  EXPECT_FALSE(runs_.Contains(kTable));
  EXPECT_TRUE(runs_.Contains(kTable + 4096));
  runs_.ForgetCluster(kTable);
  EXPECT_FALSE(runs_.Contains(kTable + 4096));
}

TEST_F(SliceRunsTest, MemoryIsBounded) {
  RunsLimit limit(10000);
  SliceRuns runs(kLayout, limit);
  for (uint64_t table = 1; table < 1000; ++table) {
    ASSERT_TRUE(runs.Learn(table << 16, Contiguous()));
    EXPECT_LE(runs.memory_bytes(), 10000u);
    EXPECT_EQ(runs.memory_bytes(), limit.memory_bytes());
  }
}

TEST_F(SliceRunsTest, SeveralShareOneLimitAndTheLargestForgets) {
  RunsLimit limit(10000);
  SliceRuns small(kLayout, limit);
  ASSERT_TRUE(small.Learn(kTable, Contiguous()));
  {
    SliceRuns large(kLayout, limit);
    for (uint64_t table = 1; table < 1000; ++table) {
      ASSERT_TRUE(large.Learn(table << 16, Contiguous()));
      EXPECT_LE(limit.memory_bytes(), 10000u);
      EXPECT_EQ(small.memory_bytes() + large.memory_bytes(), limit.memory_bytes());
    }
    EXPECT_TRUE(small.Contains(kTable));
  }
  EXPECT_EQ(small.memory_bytes(), limit.memory_bytes());
}

TEST_F(SliceRunsTest, WhereThereIsNoRoomNothingIsLearnt) {
  RunsLimit limit(100);
  SliceRuns runs(kLayout, limit);
  EXPECT_FALSE(runs.Learn(kTable, Contiguous()));
  EXPECT_FALSE(runs.Contains(kTable));
  EXPECT_EQ(limit.memory_bytes(), 0u);
}

}  // namespace
}  // namespace vireo::qcow2
