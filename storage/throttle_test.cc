#include "storage/throttle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kSpan = absl::Seconds(10);

// Requests of `bytes`, one after the other as soon as each may go, for `span`: how many go.
uint64_t RequestsIn(ThrottleBuckets& buckets, ThrottleKind kind, uint64_t bytes,
                    absl::Duration from, absl::Duration span) {
  uint64_t count = 0;
  absl::Duration now = from;
  while (true) {
    now += buckets.WaitFor(kind, now);
    if (now >= from + span) return count;
    buckets.Take(kind, bytes, now);
    ++count;
  }
}

struct RateCase {
  const char* name;
  ThrottleLimits limits;
  uint64_t bytes;
  double want_requests;  // In kSpan.
};

class ThrottleRateTest : public testing::TestWithParam<RateCase> {};

TEST_P(ThrottleRateTest, IsWithinTwoPercentOverTenSeconds) {
  ThrottleBuckets buckets;
  buckets.SetLimits(GetParam().limits, absl::ZeroDuration());
  const double got =
      RequestsIn(buckets, ThrottleKind::kWrite, GetParam().bytes, absl::ZeroDuration(), kSpan);
  EXPECT_NEAR(got, GetParam().want_requests, 0.02 * GetParam().want_requests);
}

INSTANTIATE_TEST_SUITE_P(
    All, ThrottleRateTest,
    testing::Values(
        RateCase{"TenOps", {.ops_total = {.per_second = 10}}, 512, 100},
        RateCase{"ManyOps", {.ops_write = {.per_second = 12345}}, 512, 123450},
        RateCase{"Bytes", {.bytes_total = {.per_second = 1 << 20}}, 64 << 10, 160},
        RateCase{"TenRequestsOfBytes", {.bytes_write = {.per_second = 10 << 20}}, 1 << 20, 100},
        RateCase{"TheTighterOfTwo",
                 {.bytes_total = {.per_second = 1 << 20}, .ops_total = {.per_second = 100}},
                 4096,
                 1000},
        RateCase{"LargeRequestsCountMoreThanOnce",
                 {.ops_total = {.per_second = 100}, .op_bytes = 4096},
                 16384,
                 250},
        RateCase{"SmallRequestsCountOnce",
                 {.ops_total = {.per_second = 100}, .op_bytes = 65536},
                 512,
                 1000}),
    [](const testing::TestParamInfo<RateCase>& info) { return info.param.name; });

TEST(ThrottleBucketsTest, WhatIsNotLimitedNeverWaits) {
  ThrottleBuckets buckets;
  buckets.SetLimits({.bytes_read = {.per_second = 1}}, absl::ZeroDuration());
  buckets.Take(ThrottleKind::kRead, 1000, absl::ZeroDuration());
  EXPECT_EQ(buckets.WaitFor(ThrottleKind::kWrite, absl::ZeroDuration()), absl::ZeroDuration());
  EXPECT_GT(buckets.WaitFor(ThrottleKind::kRead, absl::ZeroDuration()), absl::Seconds(900));
}

TEST(ThrottleBucketsTest, ABurstLastsAsLongAsItMayAndComesBackAfterARest) {
  ThrottleBuckets buckets;
  buckets.SetLimits({.ops_total = {.per_second = 100, .burst = 1000, .burst_seconds = 3}},
                    absl::ZeroDuration());
  const auto ops = [&buckets](int from, int seconds) {
    return static_cast<double>(
        RequestsIn(buckets, ThrottleKind::kRead, 512, absl::Seconds(from), absl::Seconds(seconds)));
  };
  EXPECT_NEAR(ops(0, 1), 1000, 25);
  EXPECT_NEAR(ops(1, 2), 2000, 25);
  EXPECT_NEAR(ops(3, 10), 1000, 20);
  // 27 seconds empty the bucket: 900 a second for three seconds leak at 100 a second.
  EXPECT_NEAR(ops(13 + 28, 3), 3000, 50);
  EXPECT_NEAR(ops(44, 5), 500, 10);
}

TEST(ThrottleBucketsTest, LateTimersLoseNothing) {
  ThrottleBuckets buckets;
  buckets.SetLimits({.ops_total = {.per_second = 1000}}, absl::ZeroDuration());
  uint64_t count = 0;
  absl::Duration now = absl::ZeroDuration();
  while (now < kSpan) {
    const absl::Duration wait = buckets.WaitFor(ThrottleKind::kRead, now);
    if (wait > absl::ZeroDuration()) {
      now += wait + absl::Milliseconds(4);
      continue;
    }
    buckets.Take(ThrottleKind::kRead, 512, now);
    ++count;
  }
  EXPECT_NEAR(static_cast<double>(count), 10000, 200);
}

TEST(ThrottleBucketsTest, NewLimitsCountFromNow) {
  ThrottleBuckets buckets;
  buckets.SetLimits({.ops_total = {.per_second = 10}}, absl::ZeroDuration());
  EXPECT_EQ(RequestsIn(buckets, ThrottleKind::kRead, 512, absl::ZeroDuration(), absl::Seconds(1)),
            11u);
  buckets.SetLimits({.ops_total = {.per_second = 1000}}, absl::Seconds(1));
  EXPECT_NEAR(
      static_cast<double>(RequestsIn(buckets, ThrottleKind::kRead, 512, absl::Seconds(1), kSpan)),
      10000, 200);
  buckets.SetLimits({}, absl::Seconds(11));
  EXPECT_EQ(buckets.WaitFor(ThrottleKind::kRead, absl::Seconds(11)), absl::ZeroDuration());
}

struct BadLimits {
  const char* name;
  ThrottleLimits limits;
  const char* want;
};

class BadThrottleTest : public testing::TestWithParam<BadLimits> {};

TEST_P(BadThrottleTest, IsRefusedByName) {
  const absl::Status status = ValidateThrottle(GetParam().limits);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().want));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadThrottleTest,
    testing::Values(
        BadLimits{"TotalAndRead",
                  {.bytes_total = {.per_second = 1}, .bytes_read = {.per_second = 1}},
                  "bps-total"},
        BadLimits{"TotalAndWriteOps",
                  {.ops_total = {.per_second = 1}, .ops_write = {.per_second = 1}},
                  "iops-total"},
        BadLimits{"BurstAlone", {.bytes_read = {.burst = 5}}, "bps-read"},
        BadLimits{"LowBurst", {.ops_read = {.per_second = 5, .burst = 4}}, "iops-read"},
        BadLimits{"LengthAlone", {.ops_read = {.per_second = 5, .burst_seconds = 4}}, "length"},
        BadLimits{"NoLength",
                  {.ops_read = {.per_second = 5, .burst = 6, .burst_seconds = 0}},
                  "0 seconds"},
        BadLimits{"Huge", {.ops_write = {.per_second = ~uint64_t{0}}}, "iops-write"},
        BadLimits{"SizeAlone", {.op_bytes = 4096}, "iops-size"}),
    [](const testing::TestParamInfo<BadLimits>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
