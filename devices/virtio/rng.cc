#include "devices/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "base/iovecs.h"

namespace vireo::virtio {
namespace {

// Chains served before other work of the loop gets its turn: half a millisecond of random numbers.
constexpr int kChainsPerTurn = 16;

// Straight into guest memory; returns how much. The kernel's pool is ready long before any guest
// runs.
uint64_t FillWithRandom(IoVecs dst, uint64_t limit) {
  uint64_t filled = 0;
  for (const iovec& piece : dst) {
    auto* const base = static_cast<uint8_t*>(piece.iov_base);
    size_t done = 0;
    while (done < piece.iov_len && filled < limit) {
      const size_t want = std::min<uint64_t>(piece.iov_len - done, limit - filled);
      const ssize_t got = ::getrandom(base + done, want, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return filled;
      done += static_cast<size_t>(got);
      filled += static_cast<uint64_t>(got);
    }
    if (filled == limit) break;
  }
  return filled;
}

}  // namespace

Task<void> VirtioRng::ServeQueue(ActiveQueue& queue) {
  while (!queue.scope->stop_requested()) {
    queue.ring.DisableNotifications();
    int taken = 0;
    while (taken < kChainsPerTurn) {
      std::optional<DescriptorChain> chain = queue.ring.PopAvailable();
      if (!chain.has_value()) break;
      const uint64_t filled = FillWithRandom(chain->writable(), kMaxBytesPerRequest);
      chain->CompleteWrites(filled);
      queue.ring.AddUsed(chain->head(), static_cast<uint32_t>(filled));
      ++taken;
    }
    Publish(queue);
    if (queue.ring.broken()) {
      ReportBroken(queue);
      co_return;
    }
    if (taken == kChainsPerTurn) {
      co_await loop().Yield();
      continue;
    }
    const bool more = co_await WaitForChains(queue);
    if (!more) co_return;
  }
}

}  // namespace vireo::virtio
