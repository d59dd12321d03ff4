// Power cuts at random moments of random sessions: what is left is sound, holds everything that was
// flushed and nothing stale.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/model/effort.h"
#include "tests/model/shapes.h"
#include "tests/model/workout.h"

namespace vireo {
namespace {

class PowerCutTest : public testing::TestWithParam<DiskShape> {};

TEST_P(PowerCutTest, LeaveASoundImageWithEverythingFlushed) {
  const uint64_t wanted = Scaled(115, GetParam());
  const uint64_t first_seed = FirstSeed();
  uint64_t cuts = 0;
  for (uint64_t seed = first_seed; cuts < wanted; ++seed) {
    SCOPED_TRACE("VIREO_SEED=" + std::to_string(seed));
    Workout workout(GetParam(), seed);
    std::mt19937_64 random(seed);
    // Some start from what an earlier cut has left.
    for (int session = 0; session < 2; ++session) {
      if (GetParam().edited_offline() && (seed + session) % 2 == 0) {
        workout.RunOfflineSession({});
      } else {
        workout.RunSession({.workers = 2 + static_cast<uint32_t>(random() % 8),
                            .steps = 4 + static_cast<uint32_t>(random() % 20),
                            .close_under_load = random() % 2 == 0});
      }
      ASSERT_EQ(workout.problem(), "");
      for (int cut = 0; cut < 24; ++cut, ++cuts) {
        const uint64_t moment = cut == 0 ? workout.now() : random() % (workout.now() + 1);
        workout.VerifyCut(moment, static_cast<FaultyMedium::Loss>(random() % 4));
        ASSERT_EQ(workout.problem(), "") << "after a cut at " << moment;
      }
      workout.ContinueAfterCut(random() % (workout.now() + 1), FaultyMedium::Loss::kTorn);
      ASSERT_EQ(workout.problem(), "");
      ++cuts;
    }
  }
  RecordProperty("cuts", std::to_string(cuts));
}

INSTANTIATE_TEST_SUITE_P(Shapes, PowerCutTest, testing::ValuesIn(AllShapes()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
