// How much a disk may do: limits on bytes and operations per second, and the leaky buckets that
// hold it to them. Pure arithmetic over a time that the caller gives; no thread, no clock.
//
// Each limit is a bucket that leaks at its rate. A request may go when the bucket is not over its
// brim, and pours its cost in as it goes: so a request larger than a second's worth goes, too, and
// makes the next ones wait. The brim leaves room for 20 ms of the rate, which makes up for timers
// that are late, and for bursts.

#ifndef VIREO_STORAGE_THROTTLE_H_
#define VIREO_STORAGE_THROTTLE_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace vireo {

// Bytes or operations.
struct ThrottleLimit {
  uint64_t per_second = 0;     // 0: no limit.
  uint64_t burst = 0;          // Per second, while a burst lasts; 0: no bursts.
  uint32_t burst_seconds = 1;  // How long a burst can last after a rest.

  bool operator==(const ThrottleLimit&) const = default;
};

struct ThrottleLimits {
  ThrottleLimit bytes_total;
  ThrottleLimit bytes_read;
  ThrottleLimit bytes_write;
  ThrottleLimit ops_total;
  ThrottleLimit ops_read;
  ThrottleLimit ops_write;
  uint64_t op_bytes = 0;  // A request counts as one operation for each that many bytes; 0: as one.

  bool any() const;
  bool operator==(const ThrottleLimits&) const = default;
};

// INVALID_ARGUMENT, naming the limit: a total beside one for reads or writes, a burst below its
// rate or without one, ...
absl::Status ValidateThrottle(const ThrottleLimits& limits);

enum class ThrottleKind { kRead, kWrite };

class ThrottleBuckets {
 public:
  // What is in the buckets stays, as far as it fits the new brims.
  void SetLimits(const ThrottleLimits& limits, absl::Duration now);
  const ThrottleLimits& limits() const { return limits_; }
  // Reads and writes wait for each other.
  bool shared() const {
    return limits_.bytes_total.per_second != 0 || limits_.ops_total.per_second != 0;
  }

  // Time from `now`, which never goes back, until a request may go; 0: it may go now.
  absl::Duration WaitFor(ThrottleKind kind, absl::Duration now);
  // The request goes now. Answers the share of a second that it uses up.
  double Take(ThrottleKind kind, uint64_t bytes, absl::Duration now);

 private:
  struct Bucket {
    double rate = 0;
    double brim = 0;
    double level = 0;
  };
  // For a limit, and for its bursts.
  struct Pair {
    Bucket mean;
    Bucket burst;
  };
  static constexpr size_t kPairs = 6;  // Bytes and operations; each total, read, write.

  static const ThrottleLimit& LimitAt(const ThrottleLimits& limits, size_t index);
  static bool Counts(size_t index, ThrottleKind kind);
  void Leak(absl::Duration now);

  ThrottleLimits limits_;
  std::array<Pair, kPairs> pairs_;
  absl::Duration last_ = absl::ZeroDuration();
};

}  // namespace vireo

#endif  // VIREO_STORAGE_THROTTLE_H_
