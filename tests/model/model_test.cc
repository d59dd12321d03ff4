// Random requests of every kind, session after session, against a flat model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "tests/model/effort.h"
#include "tests/model/shapes.h"
#include "tests/model/workout.h"

namespace vireo {
namespace {

class ModelTest : public testing::TestWithParam<DiskShape> {};

// Sessions each of which ends in its own way. False once there is a problem.
bool RunSessions(Workout& workout, const DiskShape& shape, uint64_t seed, int sessions = 8) {
  std::mt19937_64 random(seed);
  for (int session = 0; session < sessions; ++session) {
    const bool cut = random() % 3 == 0;
    if (shape.edited_offline() && session % 2 == 1) {
      workout.RunOfflineSession({});
    } else {
      workout.RunSession({.workers = 1 + static_cast<uint32_t>(random() % 12),
                          .steps = 1 + static_cast<uint32_t>(random() % 50),
                          .close_under_load = random() % 3 == 0});
    }
    if (!workout.problem().empty()) return false;
    if (cut) {
      workout.ContinueAfterCut(random() % (workout.now() + 1),
                               static_cast<FaultyMedium::Loss>(random() % 4));
    } else {
      workout.ContinueAfterClose();
    }
    if (!workout.problem().empty()) return false;
  }
  return true;
}

// Each session has a few hundred requests; between sessions the image is closed, or closed under
// load, or its power goes.
TEST_P(ModelTest, HoldsWhatTheModelHolds) {
  const uint64_t wanted = Scaled(3200, GetParam());
  const uint64_t first_seed = FirstSeed();
  uint64_t done = 0;
  for (uint64_t seed = first_seed; done < wanted; ++seed) {
    SCOPED_TRACE("VIREO_SEED=" + std::to_string(seed));
    Workout workout(GetParam(), seed);
    ASSERT_TRUE(RunSessions(workout, GetParam(), seed)) << workout.problem();
    done += workout.steps();
  }
  RecordProperty("steps", std::to_string(done));
}

// A failure can be looked at again: one seed does the same each time, to the last operation.
TEST_P(ModelTest, ASeedDoesTheSameEachTime) {
  const uint64_t seed = FirstSeed();
  const int sessions = static_cast<int>(std::min<uint64_t>(Scaled(15, GetParam()), 3));
  Workout first(GetParam(), seed);
  ASSERT_TRUE(RunSessions(first, GetParam(), seed, sessions)) << first.problem();
  Workout second(GetParam(), seed);
  ASSERT_TRUE(RunSessions(second, GetParam(), seed, sessions)) << second.problem();
  EXPECT_EQ(first.trace(), second.trace());
  RecordProperty("trace", std::to_string(first.trace()));
  EXPECT_EQ(first.steps(), second.steps());
  Workout other(GetParam(), seed + 1);
  ASSERT_TRUE(RunSessions(other, GetParam(), seed + 1, sessions)) << other.problem();
  EXPECT_NE(first.trace(), other.trace());
}

INSTANTIATE_TEST_SUITE_P(Shapes, ModelTest, testing::ValuesIn(AllShapes()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
