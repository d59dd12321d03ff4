#ifndef VIREO_STORAGE_IMG_PACE_H_
#define VIREO_STORAGE_IMG_PACE_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"

namespace vireo::img {

// Keeps what several workers of one loop copy at or below a rate (-r of convert and of commit):
// each is held back for as long as what was admitted before it takes at that rate. There is no
// burst.
class Pace {
 public:
  // `bytes_per_second` of 0 is no limit. The loop outlives this object.
  Pace(EventLoop& loop, uint64_t bytes_per_second)
      : loop_(loop), bytes_per_second_(bytes_per_second) {}

  // Returns when `bytes` more may be copied.
  Task<void> Admit(uint64_t bytes) {
    if (bytes_per_second_ == 0) co_return;
    const absl::Duration now =
        absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
    const absl::Duration mine = std::max(now, free_at_);
    free_at_ =
        mine + absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
    if (mine > now) co_await loop_.SleepFor(mine - now);
  }

 private:
  EventLoop& loop_;
  const uint64_t bytes_per_second_;
  // When what was admitted is done, by the monotonic clock.
  absl::Duration free_at_ = absl::ZeroDuration();
};

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_PACE_H_
