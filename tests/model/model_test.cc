// Random requests of every kind, session after session, against a flat model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/model/effort.h"
#include "tests/model/shapes.h"
#include "tests/model/workout.h"

namespace vireo {
namespace {

class ModelTest : public testing::TestWithParam<DiskShape> {};

// Each session has a few hundred requests; between sessions the image is closed, or closed under
// load, or its power goes.
TEST_P(ModelTest, HoldsWhatTheModelHolds) {
  const uint64_t wanted = Scaled(3200, GetParam());
  const uint64_t first_seed = FirstSeed();
  uint64_t done = 0;
  for (uint64_t seed = first_seed; done < wanted; ++seed) {
    SCOPED_TRACE("VIREO_SEED=" + std::to_string(seed));
    Workout workout(GetParam(), seed);
    std::mt19937_64 random(seed);
    for (int session = 0; session < 8; ++session) {
      const bool cut = random() % 3 == 0;
      if (GetParam().edited_offline() && session % 2 == 1) {
        workout.RunOfflineSession({});
      } else {
        workout.RunSession({.workers = 1 + static_cast<uint32_t>(random() % 12),
                            .steps = 1 + static_cast<uint32_t>(random() % 50),
                            .close_under_load = random() % 3 == 0});
      }
      ASSERT_EQ(workout.problem(), "");
      if (cut) {
        workout.ContinueAfterCut(random() % (workout.now() + 1),
                                 static_cast<FaultyMedium::Loss>(random() % 4));
      } else {
        workout.ContinueAfterClose();
      }
      ASSERT_EQ(workout.problem(), "");
    }
    done += workout.steps();
  }
  RecordProperty("steps", std::to_string(done));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ModelTest, testing::ValuesIn(AllShapes()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
