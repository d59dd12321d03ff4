#include "storage/qcow2/chain_map.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

namespace vireo::qcow2 {
namespace {

class ChainMapTest : public testing::Test {
 protected:
  const std::shared_ptr<CacheBudget> budget_ = std::make_shared<CacheBudget>(16 << 10);
  ChainMap map_{16, budget_};
};

TEST_F(ChainMapTest, KnowsWhatItHasLearnt) {
  EXPECT_FALSE(map_.Find(0).has_value());
  EXPECT_EQ(budget_->memory_bytes(), 0u);
  map_.Learn(0x30000, {.layers = 0, .whole = true});
  map_.Learn(0x41234, {.layers = 15, .whole = false});
  const std::optional<ChainMap::Answer> first = map_.Find(0x3ffff);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->layers, 0u);
  EXPECT_TRUE(first->whole);
  const std::optional<ChainMap::Answer> second = map_.Find(0x40000);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->layers, 15u);
  EXPECT_FALSE(second->whole);
  EXPECT_FALSE(map_.Find(0x2ffff).has_value());
  EXPECT_FALSE(map_.Find(0x50000).has_value());
}

TEST_F(ChainMapTest, VeryDeepChainsArePassedInParts) {
  map_.Learn(0, {.layers = 126, .whole = true});
  EXPECT_EQ(map_.Find(0)->layers, 126u);
  EXPECT_TRUE(map_.Find(0)->whole);
  map_.Learn(0, {.layers = 180, .whole = true});
  EXPECT_EQ(map_.Find(0)->layers, 126u);
  EXPECT_FALSE(map_.Find(0)->whole);
}

TEST_F(ChainMapTest, StaysWithinTheBudget) {
  for (uint64_t unit = 0; unit < 1000; ++unit) {
    map_.Learn(unit << 25, {.layers = 1, .whole = true});
    ASSERT_TRUE(map_.Find(unit << 25).has_value());
    ASSERT_LE(budget_->memory_bytes(), 16u << 10);
  }
  EXPECT_FALSE(map_.Find(0).has_value());
  EXPECT_GT(budget_->memory_bytes(), 12u << 10);
}

}  // namespace
}  // namespace vireo::qcow2
