// Chains of images: what the layers have together.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/async/task_scope.h"
#include "storage/qcow2/cache_budget.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/image.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kClusters = 1024;  // Two L2 tables, of one slice each.
constexpr uint64_t kDisk = kClusters * kCluster;
constexpr size_t kLayers = 16;
constexpr uint64_t kSlice = 4096 + CacheBudget::kOverhead;

// Which layer holds a cluster; kLayers = none. Scattered, so that no slice is a run.
size_t LayerOf(uint64_t cluster) { return (cluster * 2654435761 >> 7) % (kLayers + 1); }
uint8_t ByteOf(size_t layer) { return layer == kLayers ? 0 : static_cast<uint8_t>(layer + 1); }

class ChainTest : public testing::Test {
 protected:
  ChainTest() : expected_(kClusters) {
    for (size_t layer = 0; layer < kLayers; ++layer) {
      layers_.push_back(
          std::make_unique<Qcow2Disk>(CreateOptions{.size_bytes = kDisk, .cluster_bits = 12}));
      Qcow2Disk& disk = *layers_.back();
      EXPECT_TRUE(disk.Open().ok());
      for (uint64_t cluster = 0; cluster < kClusters; ++cluster) {
        if (LayerOf(cluster) != layer) continue;
        EXPECT_TRUE(disk.Write(cluster * kCluster, kCluster, ByteOf(layer)).ok());
      }
      EXPECT_TRUE(disk.Close().ok());
    }
    for (uint64_t cluster = 0; cluster < kClusters; ++cluster) {
      expected_[cluster] = ByteOf(LayerOf(cluster));
    }
  }

  Qcow2Disk& top() { return *layers_.back(); }

  // All layers share `slices`; the last one is writable.
  void OpenChain(uint64_t slices) {
    budget_ = std::make_shared<CacheBudget>((slices * kSlice * 8 + 6) / 7);
    std::unique_ptr<BlockBackend> below;
    for (const std::unique_ptr<Qcow2Disk>& layer : layers_) {
      const bool writable = layer == layers_.back();
      const absl::Status opened = layer->Open(
          {.read_only = !writable, .cache_budget = budget_, .commit_age = absl::InfiniteDuration()},
          std::move(below));
      ASSERT_TRUE(opened.ok()) << opened;
      if (!writable) below = layer->Release();
    }
  }
  void ExpectContent() {
    for (uint64_t cluster = 0; cluster < kClusters; ++cluster) {
      ASSERT_TRUE(top().Holds(cluster * kCluster, kCluster, expected_[cluster])) << cluster;
    }
  }
  Task<void> WriteCluster(uint64_t cluster, absl::Status* status) {
    std::vector<uint8_t> bytes(kCluster, expected_[cluster]);
    const iovec part = {bytes.data(), bytes.size()};
    const absl::Status written =
        co_await top().disk().Write(cluster * kCluster, IoVecs(&part, 1), WriteFlags{});
    if (!written.ok()) *status = written;
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

  std::vector<std::unique_ptr<Qcow2Disk>> layers_;
  std::vector<uint8_t> expected_;  // By cluster.
  std::shared_ptr<CacheBudget> budget_;
};

TEST_F(ChainTest, LayersReadWithinOneBudget) {
  OpenChain(20);
  for (uint64_t cluster = 0; cluster < kClusters; cluster += 3) {
    ASSERT_TRUE(top().Holds(cluster * kCluster, kCluster, expected_[cluster])) << cluster;
    ASSERT_LE(budget_->memory_bytes(), 20 * kSlice * 8 / 7 + 1);
  }
  EXPECT_GT(budget_->memory_bytes(), static_cast<Image&>(top().disk()).cache_memory_bytes());
  ASSERT_TRUE(top().Close().ok());
  EXPECT_EQ(budget_->memory_bytes(), 0u);
}

// What was found once about a cluster stays true while the top is written.
TEST_F(ChainTest, WritesToTheTopAreSeenOverWhatIsKnownOfTheLayers) {
  OpenChain(200);
  ExpectContent();
  for (uint64_t cluster = 0; cluster < kClusters; cluster += 7) {
    expected_[cluster] = 200;
    ASSERT_TRUE(top().Write(cluster * kCluster, kCluster, 200).ok());
  }
  for (uint64_t cluster = 3; cluster < kClusters; cluster += 7) {
    expected_[cluster] = 0;
    ASSERT_TRUE(top().Discard(cluster * kCluster, kCluster).ok());
  }
  ExpectContent();
}

// Clusters of the top that consist of clusters of several layers, with parts that nobody holds, and
// a layer that ends inside one.
TEST(MixedChainTest, PartsOfAClusterComeFromDifferentLayers) {
  constexpr uint64_t kSmall = 512;
  constexpr uint64_t kLarge = 65536;
  constexpr uint64_t kSize = 4 * kLarge;
  Qcow2Disk bottom(CreateOptions{.size_bytes = kSize, .cluster_bits = 9});
  Qcow2Disk middle(CreateOptions{.size_bytes = kSize - 3 * kCluster, .cluster_bits = 12});
  Qcow2Disk upper(CreateOptions{.size_bytes = kSize, .cluster_bits = 16, .extended_l2 = true});
  Qcow2Disk top(CreateOptions{.size_bytes = kSize, .cluster_bits = 16});
  std::vector<uint8_t> expected(kSize);
  const auto write = [&expected](Qcow2Disk& disk, uint64_t offset, uint64_t length, uint8_t byte) {
    ASSERT_TRUE(disk.Write(offset, length, byte).ok());
    std::fill_n(expected.begin() + offset, length, byte);
  };
  ASSERT_TRUE(bottom.Open().ok());
  for (uint64_t at = 0; at < kSize; at += 5 * kSmall) write(bottom, at, kSmall, 1);
  ASSERT_TRUE(bottom.Close().ok());
  // What the bottom holds behind the middle's end is invisible.
  std::fill(expected.end() - 3 * kCluster, expected.end(), 0);
  ASSERT_TRUE(bottom.Open({.read_only = true}).ok());
  ASSERT_TRUE(middle.Open({}, bottom.Release()).ok());
  for (uint64_t at = 0; at < kSize - 4 * kCluster; at += 3 * kCluster) {
    write(middle, at, kCluster, 2);
  }
  ASSERT_TRUE(middle.Close().ok());
  ASSERT_TRUE(bottom.Open({.read_only = true}).ok());
  ASSERT_TRUE(middle.Open({.read_only = true}, bottom.Release()).ok());
  ASSERT_TRUE(upper.Open({}, middle.Release()).ok());
  write(upper, kLarge + 2048, 2048, 3);
  ASSERT_TRUE(upper.Close().ok());
  ASSERT_TRUE(bottom.Open({.read_only = true}).ok());
  ASSERT_TRUE(middle.Open({.read_only = true}, bottom.Release()).ok());
  ASSERT_TRUE(upper.Open({.read_only = true}, middle.Release()).ok());
  ASSERT_TRUE(top.Open({}, upper.Release()).ok());
  for (const uint64_t length : {kSmall, kCluster, kLarge, kSize, kSmall}) {
    for (uint64_t at = 0; at < kSize; at += length) {
      const auto read = top.Read(at, length);
      ASSERT_TRUE(read.ok());
      ASSERT_TRUE(std::equal(read->begin(), read->end(), expected.begin() + at)) << at;
    }
  }
}

TEST_F(ChainTest, TwoSlicesAreEnoughToRead) {
  OpenChain(2);
  ExpectContent();
  EXPECT_LE(budget_->memory_bytes(), 2 * kSlice);
}

TEST_F(ChainTest, TwoSlicesAreEnoughToWrite) {
  OpenChain(2);
  for (uint64_t i = 0; i < 300; ++i) {
    const uint64_t cluster = i * 613 % kClusters;
    expected_[cluster] = static_cast<uint8_t>(100 + i % 100);
    ASSERT_TRUE(top().Write(cluster * kCluster, kCluster, expected_[cluster]).ok());
    // Its L2 slice, the slice of a refcount block, and one that is read beside them.
    ASSERT_LE(budget_->memory_bytes(), 3 * kSlice);
  }
  ExpectContent();
  ASSERT_TRUE(top().Discard(0, kDisk / 4).ok());
  std::fill_n(expected_.begin(), kClusters / 4, uint8_t{0});
  ExpectContent();
  ASSERT_TRUE(top().Close().ok());
  const absl::StatusOr<CheckResult> checked = top().Check();
  ASSERT_TRUE(checked.ok());
  EXPECT_TRUE(checked->clean()) << checked->leaks << " " << checked->corruptions;
  OpenChain(2);
  ExpectContent();
}

TEST_F(ChainTest, ManyWritersShareTwoSlices) {
  OpenChain(2);
  absl::Status status;
  {
    EventLoop::CurrentScope current(top().loop());
    TaskScope writers(top().loop());
    for (uint64_t i = 0; i < 400; ++i) {
      const uint64_t cluster = i * 613 % kClusters;
      expected_[cluster] = static_cast<uint8_t>(100 + i % 100);
      writers.Spawn(WriteCluster(cluster, &status));
    }
    top().loop().RunTask(Join(&writers));
  }
  ASSERT_TRUE(status.ok()) << status;
  ExpectContent();
  EXPECT_LE(budget_->memory_bytes(), 2 * kSlice);
  ASSERT_TRUE(top().Close().ok());
  const absl::StatusOr<CheckResult> checked = top().Check();
  ASSERT_TRUE(checked.ok());
  EXPECT_TRUE(checked->clean()) << checked->leaks << " " << checked->corruptions;
  OpenChain(2);
  ExpectContent();
}

}  // namespace
}  // namespace vireo::qcow2
