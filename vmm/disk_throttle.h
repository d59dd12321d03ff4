// The limits of a disk as the storage engine takes them.
#ifndef VIREO_VMM_DISK_THROTTLE_H_
#define VIREO_VMM_DISK_THROTTLE_H_

#include "storage/throttle.h"
#include "vmm/vm_config.h"

namespace vireo {

inline ThrottleLimit ThrottleLimitOf(const RateLimit& limit) {
  return {
      .per_second = limit.per_second, .burst = limit.burst, .burst_seconds = limit.burst_seconds};
}

inline ThrottleLimits ThrottleLimitsOf(const DiskThrottle& throttle) {
  return {.bytes_total = ThrottleLimitOf(throttle.bytes_total),
          .bytes_read = ThrottleLimitOf(throttle.bytes_read),
          .bytes_write = ThrottleLimitOf(throttle.bytes_write),
          .ops_total = ThrottleLimitOf(throttle.ops_total),
          .ops_read = ThrottleLimitOf(throttle.ops_read),
          .ops_write = ThrottleLimitOf(throttle.ops_write),
          .op_bytes = throttle.op_bytes};
}

}  // namespace vireo

#endif  // VIREO_VMM_DISK_THROTTLE_H_
