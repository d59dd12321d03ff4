#include "cmd/exit_status.h"

#include <gtest/gtest.h>

namespace vireo {
namespace {

TEST(ExitStatus, TellsTheCallersFaultFromTheHosts) {
  EXPECT_EQ(ExitStatusOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitStatusOf(absl::InvalidArgumentError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::NotFoundError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::AlreadyExistsError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::DataLossError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::UnimplementedError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::PermissionDeniedError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::OutOfRangeError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::AbortedError("")), 1);
  EXPECT_EQ(ExitStatusOf(absl::FailedPreconditionError("")), 2);
  EXPECT_EQ(ExitStatusOf(absl::UnavailableError("")), 2);
  EXPECT_EQ(ExitStatusOf(absl::ResourceExhaustedError("")), 2);
  EXPECT_EQ(ExitStatusOf(absl::InternalError("")), 2);
  EXPECT_EQ(ExitStatusOf(absl::DeadlineExceededError("")), 2);
}

TEST(ExitStatus, TellsCrashesFromOrderlyEnds) {
  EXPECT_EQ(ExitStatusOf(VmCause::kGuestPowerOff), 0);
  EXPECT_EQ(ExitStatusOf(VmCause::kStopRequested), 0);
  EXPECT_EQ(ExitStatusOf(VmCause::kNone), 0);
  EXPECT_EQ(ExitStatusOf(VmCause::kTripleFault), 3);
  EXPECT_EQ(ExitStatusOf(VmCause::kGuestPanic), 3);
  EXPECT_EQ(ExitStatusOf(VmCause::kInternalError), 2);
}

}  // namespace
}  // namespace vireo
