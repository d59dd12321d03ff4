// Operations of the file fail, one or many, with every error: what was flushed stays, and the image
// stays sound.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "tests/model/shapes.h"
#include "tests/model/workout.h"

namespace vireo {
namespace {

class FaultTest : public testing::TestWithParam<DiskShape> {};

constexpr uint64_t kForGood = 1'000'000'000;

// Whatever fails, and how often, from the `k`-th operation on.
void RunWithFault(const DiskShape& shape, uint64_t seed, uint64_t k) {
  const bool full = k % 2 == 1;
  SCOPED_TRACE("VIREO_SEED=" + std::to_string(seed) + ", operation " + std::to_string(k) +
               (full ? ": ENOSPC" : ": EIO"));
  Workout workout(shape, seed);
  workout.RunSession({.workers = 4,
                      .steps = 10,
                      .fail_after = k,
                      .error = full ? ENOSPC : EIO,
                      .failures = k % 3 == 0 ? kForGood : k % 3});
  ASSERT_EQ(workout.problem(), "");
  workout.VerifyLeft();
  ASSERT_EQ(workout.problem(), "");
  workout.VerifyCut(workout.now(), FaultyMedium::Loss::kTorn);
  ASSERT_EQ(workout.problem(), "");
}

TEST_P(FaultTest, LeaveASoundImageWithEverythingFlushed) {
  const uint64_t runs = Scaled(40, GetParam());
  const uint64_t seed = FirstSeed();
  uint64_t operations = 0;
  {
    Workout workout(GetParam(), seed);
    workout.RunSession({.workers = 4, .steps = 10});
    ASSERT_EQ(workout.problem(), "");
    operations = workout.operations();
  }
  // Every operation when there is time for that, else the first ones and then ever fewer.
  const uint64_t stride = operations / runs;
  for (uint64_t k = 0; k < operations; k += 1 + 2 * k * stride / operations) {
    RunWithFault(GetParam(), seed, k);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, FaultTest, testing::ValuesIn(AllShapes()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
