// virtio-blk (virtio 1.2 §5.2) over any BlockBackend. Requests run side by side, one coroutine
// each, and end in any order. Belongs to its loop; stats() may be read on any thread.

#ifndef VIREO_DEVICES_VIRTIO_BLOCK_H_
#define VIREO_DEVICES_VIRTIO_BLOCK_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/log.h"
#include "base/memory/guest_memory.h"
#include "base/state.h"
#include "devices/virtio/block_request.h"
#include "devices/virtio/ring_device.h"
#include "storage/block_backend.h"

namespace vireo::virtio {

// Since the device was made. Bytes count what succeeded, operations what was asked.
struct BlockStats {
  uint64_t read_ops = 0;
  uint64_t read_bytes = 0;
  uint64_t write_ops = 0;
  uint64_t write_bytes = 0;
  uint64_t flush_ops = 0;
  uint64_t discard_ops = 0;  // Write-zeroes requests too.
  uint64_t errors = 0;       // Requests that ended with another status than OK.
};

class VirtioBlock final : public RingDevice {
 public:
  struct Options {
    std::string serial;         // The guest sees its first 20 bytes.
    uint16_t queue_size = 256;  // A power of two from 4 to kMaxQueueSize.
    uint16_t queues = 1;
    bool write_cache = true;  // What the guest finds; it may switch it.
  };

  // `loop` and `memory` outlive the device; the backend was opened on `loop`.
  VirtioBlock(EventLoop& loop, GuestMemory& memory, std::unique_ptr<BlockBackend> backend,
              Options options);
  // After Close(), or when the backend has been closed otherwise.
  ~VirtioBlock() override;

  DeviceType type() const override { return DeviceType::kBlock; }
  std::vector<uint16_t> queue_sizes() const override;
  uint64_t offered_features() const override;
  std::vector<uint8_t> config() const override;
  bool ConfigWritable(uint16_t offset, uint64_t features) const override;
  void WriteConfig(uint16_t offset, std::span<const uint8_t> bytes) override;

  // The host's side: grows the disk and tells the guest. Answers as BlockBackend::Resize() does.
  Task<absl::Status> Resize(uint64_t size_bytes);
  // Closes the backend. Reset() came before, and nothing but destruction comes after.
  Task<absl::Status> Close();

  BlockBackend& backend() { return *backend_; }
  BlockStats stats() const;

 protected:
  Task<void> ServeQueue(ActiveQueue& queue) override;
  void OnActivate() override;
  void OnReset() override;
  void SaveDevice(StateWriter& writer) const override;
  absl::Status RestoreDevice(StateReader& reader) override;

 private:
  struct Counters {
    std::atomic<uint64_t> read_ops{0};
    std::atomic<uint64_t> read_bytes{0};
    std::atomic<uint64_t> write_ops{0};
    std::atomic<uint64_t> write_bytes{0};
    std::atomic<uint64_t> flush_ops{0};
    std::atomic<uint64_t> discard_ops{0};
    std::atomic<uint64_t> errors{0};
  };

  Task<void> ServeRequest(ActiveQueue& queue, DescriptorChain chain);
  Task<absl::Status> Execute(const BlockRequest& request);
  Task<absl::Status> ExecuteRanges(const BlockRequest& request);
  // Writes survive power loss before they are reported (§5.2.6.2): the driver does not know or does
  // not want a write cache.
  bool write_through() const;
  BlockLimits limits() const;
  void ReportFailure(const BlockRequest& request, const absl::Status& status);

  const std::unique_ptr<BlockBackend> backend_;
  const Options options_;
  bool writeback_;  // The driver's switch, if it negotiated CONFIG_WCE.
  Counters counters_;
  RateLimited error_log_;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_BLOCK_H_
