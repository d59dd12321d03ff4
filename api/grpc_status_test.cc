#include "api/grpc_status.h"

#include <gtest/gtest.h>

namespace vireo::api {
namespace {

class EveryCode : public testing::TestWithParam<int> {};

TEST_P(EveryCode, SurvivesBothWays) {
  const absl::Status status(static_cast<absl::StatusCode>(GetParam()), "disks[0].path: gone");
  EXPECT_EQ(ToGrpcStatus(status).error_code(), GetParam());
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
}

INSTANTIATE_TEST_SUITE_P(Canonical, EveryCode, testing::Range(1, 17));

TEST(GrpcStatus, OkIsOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(GrpcStatus, CodeThatIsNotCanonicalBecomesUnknown) {
  // The first number past UNAUTHENTICATED; the enum's underlying range still holds it.
  const grpc::Status odd(static_cast<grpc::StatusCode>(17), "odd");
  EXPECT_EQ(FromGrpcStatus(odd), absl::UnknownError("odd"));
}

}  // namespace
}  // namespace vireo::api
