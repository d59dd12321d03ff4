// File requests as plain system calls, for kernels whose rings lack them. Private to base/async.

#ifndef VIREO_BASE_ASYNC_BLOCKING_REQUEST_H_
#define VIREO_BASE_ASYNC_BLOCKING_REQUEST_H_

#include "base/async/ring.h"

namespace vireo::async_internal {

// What the ring would answer: not negative, or a negative errno. Blocks.
int PerformBlocking(const RingRequest& request);

}  // namespace vireo::async_internal

#endif  // VIREO_BASE_ASYNC_BLOCKING_REQUEST_H_
