// virtio-blk (virtio 1.2 §5.2) over any BlockBackend. Requests run side by side, one coroutine
// each, and end in any order. Belongs to its loop; stats() may be read on any thread.

#ifndef VIREO_DEVICES_VIRTIO_BLOCK_H_
#define VIREO_DEVICES_VIRTIO_BLOCK_H_

#include <atomic>
#include <cstdint>
#include <functional>
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

// What becomes of a request that the host fails.
enum class ErrorPolicy {
  kReport,         // The guest is told.
  kStop,           // It is kept, the machine stopped; when it goes on, the request is tried again.
  kStopOnNoSpace,  // As kStop when the host is full, else as kReport.
  kIgnore,         // The guest is told that all went well.
};

// A request that stops the machine.
struct BlockError {
  bool write = false;   // Whatever is not a read.
  uint64_t offset = 0;  // Bytes.
  absl::Status status;  // With its errno, if it has one.

  bool no_space() const;
};

class VirtioBlock final : public RingDevice {
 public:
  struct Options {
    std::string serial;         // The guest sees its first 20 bytes.
    uint16_t queue_size = 256;  // A power of two from 4 to kMaxQueueSize.
    uint16_t queues = 1;
    bool write_cache = true;  // What the guest finds; it may switch it.
    ErrorPolicy on_read_error = ErrorPolicy::kReport;
    ErrorPolicy on_write_error = ErrorPolicy::kReport;
    // Called on the loop for the first request kept, and again after each Resume(); asks for the
    // machine to be stopped, and does not block.
    std::function<void(const BlockError&)> on_stop;
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
  // Requests kept until the machine goes on. Any thread.
  size_t kept_requests() const { return kept_count_.load(std::memory_order_acquire); }

 protected:
  Task<void> ServeQueue(ActiveQueue& queue) override;
  absl::Status OnActivate() override;
  void OnReset() override;
  void OnDrain(bool draining) override { backend_->SetHurry(draining); }
  void OnQueueReset(uint16_t index) override;
  uint16_t held_chains(uint16_t index) const override;
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

  // A request that failed and waits for the machine to go on.
  struct KeptRequest {
    uint16_t queue;
    uint16_t head;
    uint64_t order;  // Among all requests, as the driver made them available.
  };

  Task<void> ServeRequest(ActiveQueue& queue, DescriptorChain chain, uint64_t order);
  void RetryKept(ActiveQueue& queue);
  void Keep(const KeptRequest& kept, const BlockError& error);
  void ForgetKept(std::function<bool(const KeptRequest&)> which);
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
  uint64_t next_order_ = 0;
  std::vector<KeptRequest> kept_;
  std::atomic<size_t> kept_count_{0};
  bool stop_asked_ = false;  // Since the last start.
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_BLOCK_H_
