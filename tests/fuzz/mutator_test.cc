#include "tests/fuzz/mutator.h"

#include <gtest/gtest.h>

#include <set>

namespace vireo {
namespace {

const std::vector<Bytes> kCorpus = {Bytes(100, 1), Bytes(10, 2)};

std::vector<Bytes> Take(Mutator mutator, int count) {
  std::vector<Bytes> inputs;
  for (int i = 0; i < count; ++i) inputs.push_back(mutator.Next());
  return inputs;
}

TEST(MutatorTest, TheSameSeedGivesTheSameInputs) {
  EXPECT_EQ(Take(Mutator(1, kCorpus), 1000), Take(Mutator(1, kCorpus), 1000));
}

TEST(MutatorTest, AnotherSeedGivesOtherInputs) {
  EXPECT_NE(Take(Mutator(1, kCorpus), 1000), Take(Mutator(2, kCorpus), 1000));
}

TEST(MutatorTest, NearlyAllInputsDiffer) {
  const std::vector<Bytes> inputs = Take(Mutator(1, kCorpus), 1000);
  EXPECT_GT(std::set<Bytes>(inputs.begin(), inputs.end()).size(), 850u);
}

TEST(MutatorTest, StartsFromNothingWhenTheCorpusIsEmpty) {
  const std::vector<Bytes> inputs = Take(Mutator(1, {}), 100);
  EXPECT_GT(std::set<Bytes>(inputs.begin(), inputs.end()).size(), 50u);
}

TEST(MutatorTest, InputsGrowAndShrinkWithinTheLimit) {
  size_t smallest = kCorpus[1].size();
  size_t largest = kCorpus[0].size();
  for (const Bytes& input : Take(Mutator(1, kCorpus), 1000)) {
    smallest = std::min(smallest, input.size());
    largest = std::max(largest, input.size());
  }
  EXPECT_LT(smallest, kCorpus[1].size());
  EXPECT_GT(largest, kCorpus[0].size());
  EXPECT_LE(largest, Mutator::kMaxSize);
}

}  // namespace
}  // namespace vireo
