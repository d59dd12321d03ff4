// Operations of the file fail, one or many, with every error: what was flushed stays, and the image
// stays sound.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <optional>
#include <string>
#include <vector>

#include "tests/model/effort.h"
#include "tests/model/shapes.h"
#include "tests/model/workout.h"

namespace vireo {
namespace {

class FaultTest : public testing::TestWithParam<DiskShape> {};
class OfflineFaultTest : public testing::TestWithParam<DiskShape> {};

constexpr uint64_t kForGood = 1'000'000'000;

enum class Kind { kRequests, kOffline };

// `k` counts operations; from there on one, two or all fail.
void RunSession(Workout& workout, Kind kind, std::optional<uint64_t> k) {
  Workout::Session session = {.workers = 4, .steps = 10, .fail_after = k};
  if (k.has_value()) {
    session.error = *k % 2 == 1 ? ENOSPC : EIO;
    session.failures = *k % 3 == 0 ? kForGood : *k % 3;
  }
  if (kind == Kind::kRequests) {
    workout.RunSession(session);
  } else {
    workout.RunOfflineSession(session);
  }
}

void RunWithFault(const DiskShape& shape, uint64_t seed, Kind kind, uint64_t k) {
  SCOPED_TRACE("VIREO_SEED=" + std::to_string(seed) + ", operation " + std::to_string(k));
  Workout workout(shape, seed);
  RunSession(workout, kind, k);
  ASSERT_EQ(workout.problem(), "");
  workout.VerifyLeft();
  ASSERT_EQ(workout.problem(), "");
  workout.VerifyCut(workout.now(), FaultyMedium::Loss::kTorn);
  ASSERT_EQ(workout.problem(), "");
}

void FailEach(const DiskShape& shape, uint64_t seed, Kind kind, uint64_t runs) {
  uint64_t operations = 0;
  {
    Workout workout(shape, seed);
    RunSession(workout, kind, std::nullopt);
    ASSERT_EQ(workout.problem(), "");
    operations = workout.operations();
  }
  // Every operation when there is time for that, else the first ones and then ever fewer.
  const uint64_t stride = operations / runs;
  for (uint64_t k = 0; k < operations; k += 1 + 2 * k * stride / operations) {
    RunWithFault(shape, seed, kind, k);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(FaultTest, LeaveASoundImageWithEverythingFlushed) {
  FailEach(GetParam(), FirstSeed(), Kind::kRequests, Scaled(32, GetParam()));
}

TEST_P(OfflineFaultTest, LeaveItDoneOrUndone) {
  // Seeds differ in what is done.
  for (uint64_t seed = FirstSeed(); seed < FirstSeed() + 6 && !HasFatalFailure(); ++seed) {
    FailEach(GetParam(), seed, Kind::kOffline, Scaled(16, GetParam()));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, FaultTest, testing::ValuesIn(AllShapes()),
                         [](const auto& info) { return info.param.name; });

std::vector<DiskShape> ShapesEditedOffline() {
  std::vector<DiskShape> shapes = AllShapes();
  std::erase_if(shapes, [](const DiskShape& shape) { return !shape.edited_offline(); });
  return shapes;
}

INSTANTIATE_TEST_SUITE_P(Shapes, OfflineFaultTest, testing::ValuesIn(ShapesEditedOffline()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
