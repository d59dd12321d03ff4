// Memory of coroutine frames: free lists of the thread, by size, so that a request which awaits a
// dozen tasks does not go to the heap. Bounded: what a burst left behind returns to the heap.
// Private to base/async.

#ifndef VIREO_BASE_ASYNC_FRAME_POOL_H_
#define VIREO_BASE_ASYNC_FRAME_POOL_H_

#include <cstddef>

namespace vireo {

// Aligned to 16. Freed on any thread, with the size it was asked for.
void* AllocateFrame(size_t bytes);
void FreeFrame(void* frame, size_t bytes) noexcept;

// Frames that wait on this thread's free lists; tests.
size_t CachedFrames();

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_FRAME_POOL_H_
