#include "devices/virtio/block.h"

#include <errno.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

// Chains taken before other work of the loop gets its turn.
constexpr int kChainsPerTurn = 128;

bool Stops(ErrorPolicy policy, bool no_space) {
  return policy == ErrorPolicy::kStop || (policy == ErrorPolicy::kStopOnNoSpace && no_space);
}

void Count(std::atomic<uint64_t>& counter, uint64_t amount = 1) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}

}  // namespace

bool BlockError::no_space() const {
  const int error = StatusErrno(status);
  return error == ENOSPC || error == EDQUOT || (error == 0 && absl::IsResourceExhausted(status));
}

VirtioBlock::VirtioBlock(EventLoop& loop, GuestMemory& memory,
                         std::unique_ptr<BlockBackend> backend, Options options)
    : RingDevice(loop, memory, "block"),
      backend_(std::move(backend)),
      options_(std::move(options)),
      writeback_(options_.write_cache) {
  VIREO_CHECK(options_.queue_size >= 4 && options_.queue_size <= kMaxQueueSize);
  VIREO_CHECK(options_.queues >= 1);
}

VirtioBlock::~VirtioBlock() = default;

std::vector<uint16_t> VirtioBlock::queue_sizes() const {
  return std::vector<uint16_t>(options_.queues, options_.queue_size);
}

uint64_t VirtioBlock::offered_features() const {
  const Geometry& geometry = backend_->geometry();
  // Not SIZE_MAX, for want of a limit: SeaBIOS 1.16 multiplies it by seg_max, and of the lower 16
  // bits of that, 0 if it is large, it makes the size of its requests.
  uint64_t features = kBlkFeatureSegMax | kBlkFeatureGeometry | kBlkFeatureBlkSize |
                      kBlkFeatureFlush | kBlkFeatureTopology | kBlkFeatureConfigWce;
  if (options_.queues > 1) features |= kBlkFeatureMultiQueue;
  if (geometry.read_only) return features | kBlkFeatureReadOnly;
  features |= kBlkFeatureWriteZeroes;
  if (geometry.discard_granularity != 0) features |= kBlkFeatureDiscard;
  return features;
}

std::vector<uint8_t> VirtioBlock::config() const {
  const Geometry& geometry = backend_->geometry();
  BlkConfig config = {};
  const uint64_t sectors = geometry.size_bytes / kSectorBytes;
  config.capacity = sectors;
  // A chain has a header and a status besides its data.
  config.seg_max = static_cast<uint32_t>(options_.queue_size - 2);
  // A shape for firmware that still thinks in cylinders.
  constexpr uint64_t kHeads = 16;
  constexpr uint64_t kSectorsPerTrack = 63;
  config.heads = kHeads;
  config.sectors = kSectorsPerTrack;
  config.cylinders =
      static_cast<uint16_t>(std::min<uint64_t>(sectors / (kHeads * kSectorsPerTrack), 0xffff));
  config.blk_size = geometry.block_size;
  config.min_io_size = uint16_t{1};
  config.opt_io_size = geometry.optimal_io_bytes / geometry.block_size;
  config.writeback = writeback_ ? 1 : 0;
  config.num_queues = options_.queues;
  if (!geometry.read_only) {
    const uint32_t alignment =
        std::max(geometry.discard_granularity, geometry.block_size) / kSectorBytes;
    config.max_discard_sectors = kMaxSegmentSectors;
    config.max_discard_seg = kMaxBlockSegments;
    config.discard_sector_alignment = alignment;
    config.max_write_zeroes_sectors = kMaxSegmentSectors;
    config.max_write_zeroes_seg = kMaxBlockSegments;
    config.write_zeroes_may_unmap = geometry.discard_granularity != 0 ? 1 : 0;
  }
  std::vector<uint8_t> bytes(sizeof(config));
  std::memcpy(bytes.data(), &config, sizeof(config));
  return bytes;
}

bool VirtioBlock::ConfigWritable(uint16_t offset, uint64_t features) const {
  return offset == offsetof(BlkConfig, writeback) && (features & kBlkFeatureConfigWce) != 0;
}

void VirtioBlock::WriteConfig(uint16_t /*offset*/, std::span<const uint8_t> bytes) {
  writeback_ = bytes[0] != 0;
}

absl::Status VirtioBlock::OnActivate() {
  // §5.2.5.2: a driver that can switch the cache but does not flush gets none to begin with.
  if (has_feature(kBlkFeatureConfigWce) && !has_feature(kBlkFeatureFlush)) writeback_ = false;
  return absl::OkStatus();
}

void VirtioBlock::OnReset() {
  writeback_ = options_.write_cache;
  ForgetKept([](const KeptRequest&) { return true; });
}

void VirtioBlock::OnQueueReset(uint16_t index) {
  ForgetKept([index](const KeptRequest& kept) { return kept.queue == index; });
}

uint16_t VirtioBlock::held_chains(uint16_t index) const {
  return static_cast<uint16_t>(
      std::count_if(kept_.begin(), kept_.end(),
                    [index](const KeptRequest& kept) { return kept.queue == index; }));
}

void VirtioBlock::SaveDevice(StateWriter& writer) const {
  writer.Bool(writeback_);
  writer.U32(static_cast<uint32_t>(kept_.size()));
  for (const KeptRequest& kept : kept_) {
    writer.U16(kept.queue);
    writer.U16(kept.head);
  }
}

absl::Status VirtioBlock::RestoreDevice(StateReader& reader) {
  writeback_ = reader.Bool();
  const uint32_t count = reader.U32();
  if (count > uint32_t{options_.queues} * options_.queue_size) {
    return absl::DataLossError(absl::StrFormat("%s: the state keeps %d requests", name(), count));
  }
  kept_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    KeptRequest kept = {.queue = reader.U16(), .head = reader.U16(), .order = next_order_++};
    if (kept.head >= options_.queue_size) {
      return absl::DataLossError(
          absl::StrFormat("%s: the state keeps a request at descriptor %d", name(), kept.head));
    }
    kept_.push_back(kept);
  }
  kept_count_.store(kept_.size(), std::memory_order_release);
  return reader.status();
}

void VirtioBlock::ForgetKept(std::function<bool(const KeptRequest&)> which) {
  std::erase_if(kept_, which);
  kept_count_.store(kept_.size(), std::memory_order_release);
}

void VirtioBlock::Keep(const KeptRequest& kept, const BlockError& error) {
  const auto after = [&kept](const KeptRequest& other) { return other.order > kept.order; };
  kept_.insert(std::find_if(kept_.begin(), kept_.end(), after), kept);
  kept_count_.store(kept_.size(), std::memory_order_release);
  if (std::exchange(stop_asked_, true) || !options_.on_stop) return;
  options_.on_stop(error);
}

void VirtioBlock::RetryKept(ActiveQueue& queue) {
  stop_asked_ = false;
  std::vector<KeptRequest> mine;
  for (const KeptRequest& kept : kept_) {
    if (kept.queue == queue.index) mine.push_back(kept);
  }
  OnQueueReset(queue.index);
  for (const KeptRequest& kept : mine) {
    // The driver has had no time to touch it; if it did, the ring is broken.
    std::optional<DescriptorChain> chain = queue.ring.TakeAgain(kept.head);
    if (!chain.has_value()) return;
    queue.scope->Spawn(ServeRequest(queue, *std::move(chain), kept.order));
  }
}

bool VirtioBlock::write_through() const {
  if (has_feature(kBlkFeatureConfigWce)) return !writeback_;
  return !has_feature(kBlkFeatureFlush);
}

BlockLimits VirtioBlock::limits() const {
  const Geometry& geometry = backend_->geometry();
  return {.size_bytes = geometry.size_bytes,
          .block_size = geometry.block_size,
          .read_only = geometry.read_only,
          .discard = has_feature(kBlkFeatureDiscard),
          .write_zeroes = has_feature(kBlkFeatureWriteZeroes)};
}

Task<absl::Status> VirtioBlock::Resize(uint64_t size_bytes) {
  const absl::Status status = co_await backend_->Resize(size_bytes);
  if (status.ok() && connected()) interrupts().ConfigChanged();
  co_return status;
}

Task<absl::Status> VirtioBlock::Close() {
  VIREO_CHECK(!active(), "a device is reset before its backend is closed");
  const absl::Status status = co_await backend_->Close();
  co_return status;
}

Task<void> VirtioBlock::ServeQueue(ActiveQueue& queue) {
  RetryKept(queue);
  while (!queue.scope->stop_requested()) {
    queue.ring.DisableNotifications();
    int taken = 0;
    while (taken < kChainsPerTurn) {
      std::optional<DescriptorChain> chain = queue.ring.PopAvailable();
      if (!chain.has_value()) break;
      queue.scope->Spawn(ServeRequest(queue, *std::move(chain), next_order_++));
      ++taken;
    }
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

Task<void> VirtioBlock::ServeRequest(ActiveQueue& queue, DescriptorChain chain, uint64_t order) {
  const BlockRequest request = BlockRequest::Parse(chain, limits());
  absl::Status status = co_await Execute(request);
  // What the guest asks wrongly is its own affair.
  if (!status.ok() && request.kind() != BlockRequest::Kind::kRefused) {
    const BlockError error = {.write = request.kind() != BlockRequest::Kind::kRead,
                              .offset = request.offset(),
                              .status = status};
    const ErrorPolicy policy = error.write ? options_.on_write_error : options_.on_read_error;
    if (Stops(policy, error.no_space())) {
      ReportFailure(request, status);
      Keep({.queue = queue.index, .head = chain.head(), .order = order}, error);
      co_return;
    }
    if (policy == ErrorPolicy::kIgnore) {
      ReportFailure(request, status);
      status = absl::OkStatus();
    }
  }
  const uint32_t written = request.Finish(chain, status);
  if (!status.ok()) ReportFailure(request, status);
  Complete(queue, chain.head(), written);
}

Task<absl::Status> VirtioBlock::Execute(const BlockRequest& request) {
  absl::Status status;
  switch (request.kind()) {
    case BlockRequest::Kind::kRead:
      Count(counters_.read_ops);
      status = co_await backend_->Read(request.offset(), request.data());
      if (status.ok()) Count(counters_.read_bytes, request.length());
      break;
    case BlockRequest::Kind::kWrite: {
      Count(counters_.write_ops);
      const WriteFlags flags = {.fua = write_through()};
      status = co_await backend_->Write(request.offset(), request.data(), flags);
      if (status.ok()) Count(counters_.write_bytes, request.length());
      break;
    }
    case BlockRequest::Kind::kFlush:
      Count(counters_.flush_ops);
      status = co_await backend_->Flush();
      break;
    case BlockRequest::Kind::kGetId: {
      // Padded with zeros, and not terminated when it is 20 bytes long (§5.2.6).
      std::string id = options_.serial.substr(0, kBlkIdBytes);
      id.resize(kBlkIdBytes);
      CopyToIoVecs(std::span(reinterpret_cast<const uint8_t*>(id.data()), request.length()),
                   request.data());
      break;
    }
    case BlockRequest::Kind::kDiscard:
    case BlockRequest::Kind::kWriteZeroes:
      Count(counters_.discard_ops);
      status = co_await ExecuteRanges(request);
      break;
    case BlockRequest::Kind::kRefused:
      status = absl::InvalidArgumentError("malformed or unknown request");
      break;
  }
  co_return status;
}

Task<absl::Status> VirtioBlock::ExecuteRanges(const BlockRequest& request) {
  const bool zeroes = request.kind() == BlockRequest::Kind::kWriteZeroes;
  for (size_t i = 0; i < request.ranges().size(); ++i) {
    const BlockRange range = request.ranges()[i];
    absl::Status status;
    if (zeroes) {
      const ZeroFlags flags = {.may_unmap = range.may_unmap};
      status = co_await backend_->WriteZeroes(range.offset, range.length, flags);
    } else {
      status = co_await backend_->Discard(range.offset, range.length);
    }
    if (!status.ok()) co_return status;
  }
  absl::Status durable;
  if (zeroes && write_through()) durable = co_await backend_->Flush();
  co_return durable;
}

void VirtioBlock::ReportFailure(const BlockRequest& request, const absl::Status& status) {
  Count(counters_.errors);
  if (!error_log_.Allow()) return;
  if (request.kind() == BlockRequest::Kind::kRefused) {
    LogWarning("%s: %s", name(), status.message());
  } else {
    LogError("%s: request at byte %d failed: %s", name(), request.offset(), status.ToString());
  }
}

BlockStats VirtioBlock::stats() const {
  const auto get = [](const std::atomic<uint64_t>& c) { return c.load(std::memory_order_relaxed); };
  return {.read_ops = get(counters_.read_ops),
          .read_bytes = get(counters_.read_bytes),
          .write_ops = get(counters_.write_ops),
          .write_bytes = get(counters_.write_bytes),
          .flush_ops = get(counters_.flush_ops),
          .discard_ops = get(counters_.discard_ops),
          .errors = get(counters_.errors)};
}

}  // namespace vireo::virtio
