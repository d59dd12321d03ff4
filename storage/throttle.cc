#include "storage/throttle.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr double kSlackSeconds = 0.02;
constexpr uint64_t kMaxPerSecond = 1'000'000'000'000'000;
constexpr uint32_t kMaxBurstSeconds = 24 * 3600;

absl::Status CheckLimit(const char* name, const ThrottleLimit& limit) {
  if (limit.per_second > kMaxPerSecond || limit.burst > kMaxPerSecond) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: more than %d a second is no limit", name, kMaxPerSecond));
  }
  if (limit.burst_seconds == 0 || limit.burst_seconds > kMaxBurstSeconds) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a burst of %d seconds; it is from 1 to %d", name, limit.burst_seconds,
                        kMaxBurstSeconds));
  }
  if (limit.burst == 0) {
    if (limit.burst_seconds == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the length of a burst needs the burst's own rate", name));
  }
  if (limit.per_second == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: a burst of %d a second needs a limit to go beyond", name, limit.burst));
  }
  if (limit.burst < limit.per_second) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a burst of %d a second is below the limit of %d", name, limit.burst,
                        limit.per_second));
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const char* what, const ThrottleLimit& total, const ThrottleLimit& read,
                           const ThrottleLimit& write) {
  if (total.per_second == 0 || (read.per_second == 0 && write.per_second == 0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s-total: a limit for all stands beside one for reads or writes; give one or the other",
      what));
}

}  // namespace

bool ThrottleLimits::any() const {
  return bytes_total.per_second != 0 || bytes_read.per_second != 0 || bytes_write.per_second != 0 ||
         ops_total.per_second != 0 || ops_read.per_second != 0 || ops_write.per_second != 0;
}

absl::Status ValidateThrottle(const ThrottleLimits& limits) {
  RETURN_IF_ERROR(CheckLimit("bps-total", limits.bytes_total));
  RETURN_IF_ERROR(CheckLimit("bps-read", limits.bytes_read));
  RETURN_IF_ERROR(CheckLimit("bps-write", limits.bytes_write));
  RETURN_IF_ERROR(CheckLimit("iops-total", limits.ops_total));
  RETURN_IF_ERROR(CheckLimit("iops-read", limits.ops_read));
  RETURN_IF_ERROR(CheckLimit("iops-write", limits.ops_write));
  RETURN_IF_ERROR(CheckTogether("bps", limits.bytes_total, limits.bytes_read, limits.bytes_write));
  RETURN_IF_ERROR(CheckTogether("iops", limits.ops_total, limits.ops_read, limits.ops_write));
  const bool counts_ops = limits.ops_total.per_second != 0 || limits.ops_read.per_second != 0 ||
                          limits.ops_write.per_second != 0;
  if (limits.op_bytes != 0 && !counts_ops) {
    return absl::InvalidArgumentError("iops-size: needs a limit of operations to count for");
  }
  return absl::OkStatus();
}

const ThrottleLimit& ThrottleBuckets::LimitAt(const ThrottleLimits& limits, size_t index) {
  const std::array<const ThrottleLimit*, kPairs> all = {&limits.bytes_total, &limits.bytes_read,
                                                        &limits.bytes_write, &limits.ops_total,
                                                        &limits.ops_read,    &limits.ops_write};
  return *all[index];
}

bool ThrottleBuckets::Counts(size_t index, ThrottleKind kind) {
  const size_t which = index % 3;
  return which == 0 || (which == 1) == (kind == ThrottleKind::kRead);
}

void ThrottleBuckets::SetLimits(const ThrottleLimits& limits, absl::Duration now) {
  Leak(now);
  limits_ = limits;
  for (size_t i = 0; i < kPairs; ++i) {
    const ThrottleLimit& limit = LimitAt(limits, i);
    const double rate = static_cast<double>(limit.per_second);
    const double burst = static_cast<double>(limit.burst);
    Bucket& mean = pairs_[i].mean;
    mean.rate = rate;
    mean.brim = rate * kSlackSeconds;
    if (burst > rate) mean.brim += (burst - rate) * limit.burst_seconds;
    mean.level = std::min(mean.level, mean.brim);
    Bucket& fast = pairs_[i].burst;
    fast.rate = burst;
    fast.brim = burst * kSlackSeconds;
    fast.level = std::min(fast.level, fast.brim);
  }
}

void ThrottleBuckets::Leak(absl::Duration now) {
  const double seconds = absl::ToDoubleSeconds(now - last_);
  if (seconds <= 0) return;
  last_ = now;
  for (Pair& pair : pairs_) {
    pair.mean.level = std::max(0.0, pair.mean.level - pair.mean.rate * seconds);
    pair.burst.level = std::max(0.0, pair.burst.level - pair.burst.rate * seconds);
  }
}

absl::Duration ThrottleBuckets::WaitFor(ThrottleKind kind, absl::Duration now) {
  Leak(now);
  double seconds = 0;
  for (size_t i = 0; i < kPairs; ++i) {
    if (!Counts(i, kind)) continue;
    for (const Bucket* bucket : {&pairs_[i].mean, &pairs_[i].burst}) {
      if (bucket->rate > 0) {
        seconds = std::max(seconds, (bucket->level - bucket->brim) / bucket->rate);
      }
    }
  }
  if (seconds <= 0) return absl::ZeroDuration();
  // Rounded up: whoever waits that long finds that the request may go.
  return absl::Seconds(seconds) + absl::Nanoseconds(1);
}

double ThrottleBuckets::Take(ThrottleKind kind, uint64_t bytes, absl::Duration now) {
  Leak(now);
  double ops = 1;
  if (limits_.op_bytes != 0) {
    ops = std::max(1.0, static_cast<double>(bytes) / static_cast<double>(limits_.op_bytes));
  }
  double share = 0;
  for (size_t i = 0; i < kPairs; ++i) {
    if (!Counts(i, kind) || pairs_[i].mean.rate == 0) continue;
    const double cost = i < 3 ? static_cast<double>(bytes) : ops;
    pairs_[i].mean.level += cost;
    if (pairs_[i].burst.rate > 0) pairs_[i].burst.level += cost;
    share = std::max(share, cost / pairs_[i].mean.rate);
  }
  return share;
}

}  // namespace vireo
