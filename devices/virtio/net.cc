#include "devices/virtio/net.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/iovecs.h"
#include "base/status.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {
namespace {

// Frames moved before the driver is told and other work of the loop gets its turn.
constexpr int kFramesPerTurn = 64;
// The kernel takes at most 1024 vectors in one call; one is the spill.
constexpr size_t kMaxVectors = 1000;
// After an error of the port that is not about one frame (the tap has gone, say).
constexpr absl::Duration kPortErrorPause = absl::Milliseconds(100);

static_assert(sizeof(NetHeader) == PacketPort::kPrefixBytes);
// The largest frame with its prefix: a segment of 64 KiB behind an Ethernet header with a VLAN tag.
constexpr size_t kMaxFrameBytes = sizeof(NetHeader) + 18 + 65535;

constexpr uint64_t kOffloadFeatures =
    kNetFeatureCsum | kNetFeatureGuestCsum | kNetFeatureGuestTso4 | kNetFeatureGuestTso6 |
    kNetFeatureGuestEcn | kNetFeatureHostTso4 | kNetFeatureHostTso6 | kNetFeatureHostEcn;

void Count(std::atomic<uint64_t>& counter, uint64_t amount = 1) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}

}  // namespace

VirtioNet::VirtioNet(EventLoop& loop, GuestMemory& memory, std::unique_ptr<PacketPort> port,
                     Options options)
    : RingDevice(loop, memory, "net"),
      port_(std::move(port)),
      options_(options),
      link_up_(port_->link_up()),
      spill_(new uint8_t[kMaxFrameBytes]) {}

VirtioNet::~VirtioNet() = default;

std::vector<uint16_t> VirtioNet::queue_sizes() const {
  return {options_.queue_size, options_.queue_size};
}

uint64_t VirtioNet::offered_features() const {
  uint64_t features = kNetFeatureMac | kNetFeatureMtu | kNetFeatureStatus;
  if (options_.offloads) features |= kOffloadFeatures;
  if (options_.mergeable) features |= kNetFeatureMergeableRx;
  return features;
}

bool VirtioNet::AcceptsFeatures(uint64_t features) const {
  const auto has = [features](uint64_t any) { return (features & any) != 0; };
  constexpr uint64_t kGuestTso = kNetFeatureGuestTso4 | kNetFeatureGuestTso6;
  constexpr uint64_t kHostTso = kNetFeatureHostTso4 | kNetFeatureHostTso6;
  // §5.1.3.1
  return (!has(kGuestTso) || has(kNetFeatureGuestCsum)) &&
         (!has(kNetFeatureGuestEcn) || has(kGuestTso)) &&
         (!has(kHostTso) || has(kNetFeatureCsum)) && (!has(kNetFeatureHostEcn) || has(kHostTso));
}

std::vector<uint8_t> VirtioNet::config() const {
  NetConfig config = {};
  std::copy(options_.mac.begin(), options_.mac.end(), config.mac);
  config.status = link_up_ ? kNetStatusLinkUp : uint16_t{0};
  config.max_virtqueue_pairs = uint16_t{1};
  config.mtu = options_.mtu;
  std::vector<uint8_t> bytes(sizeof(config));
  std::memcpy(bytes.data(), &config, sizeof(config));
  return bytes;
}

void VirtioNet::SetLink(bool up) {
  if (link_up_ == up) return;
  link_up_ = up;
  if (connected()) interrupts().ConfigChanged();
}

void VirtioNet::SetOffloads(Offloads offloads) {
  const absl::Status status = port_->SetOffloads(offloads);
  if (!status.ok() && error_log_.Allow()) LogError("%s: %s", name(), status.ToString());
}

size_t VirtioNet::WantedHeaderBytes() const {
  return has_feature(kFeatureVersion1) || mergeable() ? sizeof(NetHeader) : kNetLegacyHeaderBytes;
}

absl::Status VirtioNet::OnActivate() {
  if (header_bytes_ != WantedHeaderBytes()) {
    // Frames that are cut in the wrong place are worse than none.
    RETURN_IF_ERROR(port_->SetPrefixBytes(WantedHeaderBytes()));
    header_bytes_ = WantedHeaderBytes();
  }
  SetOffloads({.checksum = has_feature(kNetFeatureGuestCsum),
               .tso4 = has_feature(kNetFeatureGuestTso4),
               .tso6 = has_feature(kNetFeatureGuestTso6),
               .tso_ecn = has_feature(kNetFeatureGuestEcn)});
  return absl::OkStatus();
}

void VirtioNet::OnReset() { SetOffloads({}); }

void VirtioNet::SaveDevice(StateWriter& writer) const { writer.Bool(link_up_); }

absl::Status VirtioNet::RestoreDevice(StateReader& reader) {
  link_up_ = reader.Bool();
  return reader.status();
}

Task<void> VirtioNet::ServeQueue(ActiveQueue& queue) {
  return queue.index == kReceiveQueue ? ServeReceive(queue) : ServeTransmit(queue);
}

// ---- Towards the guest ----

uint64_t VirtioNet::ordinary_frame_bytes() const {
  return header_bytes_ + 18 + std::max<uint64_t>(options_.mtu, 1500);
}

bool VirtioNet::PrefixAccepted(const ReceiveBuffers& buffers) const {
  NetHeader header = {};
  CopyFromIoVecs(buffers.vectors, {reinterpret_cast<uint8_t*>(&header), header_bytes_});
  if ((header.flags & kNetHeaderNeedsChecksum) != 0 && !has_feature(kNetFeatureGuestCsum)) {
    return false;
  }
  if ((header.gso_type & kNetGsoEcn) != 0 && !has_feature(kNetFeatureGuestEcn)) return false;
  switch (header.gso_type & ~kNetGsoEcn) {
    case kNetGsoNone:
      return true;
    case kNetGsoTcp4:
      return has_feature(kNetFeatureGuestTso4);
    case kNetGsoTcp6:
      return has_feature(kNetFeatureGuestTso6);
    default:
      return false;
  }
}

void VirtioNet::TakeBuffers(ActiveQueue& queue, ReceiveBuffers& buffers, uint64_t wanted) {
  while (buffers.chains.empty() || (mergeable() && buffers.bytes < wanted)) {
    std::optional<DescriptorChain> chain = queue.ring.PopAvailable();
    if (!chain.has_value()) return;
    if (chain->writable_bytes() < header_bytes_) {  // §5.1.6.3.1
      queue.ring.UndoPop();
      queue.ring.MarkBroken("a receive buffer is smaller than the header");
      return;
    }
    buffers.bytes += chain->writable_bytes();
    buffers.chains.push_back(*std::move(chain));
  }
}

void VirtioNet::ListVectors(ReceiveBuffers& buffers) {
  buffers.vectors.clear();
  buffers.direct_bytes = 0;
  for (const DescriptorChain& chain : buffers.chains) {
    for (const iovec& piece : chain.writable()) {
      if (buffers.vectors.size() == kMaxVectors) break;
      buffers.vectors.push_back(piece);
      buffers.direct_bytes += piece.iov_len;
    }
    if (!mergeable() || buffers.direct_bytes >= buffers.expected_bytes ||
        buffers.vectors.size() == kMaxVectors) {
      break;
    }
  }
  buffers.vectors.push_back({.iov_base = spill_.get(), .iov_len = kMaxFrameBytes});
}

void VirtioNet::DropReceived(ReceiveBuffers& buffers, uint64_t bytes) {
  Count(counters_.rx_dropped);
  // The buffers stay with us, but the guest's memory has changed.
  uint64_t left = std::min(bytes, buffers.direct_bytes);
  for (DescriptorChain& chain : buffers.chains) {
    const uint64_t here = std::min(left, chain.writable_bytes());
    chain.CompleteWrites(here);
    left -= here;
    if (left == 0) return;
  }
}

void VirtioNet::Deliver(ActiveQueue& queue, ReceiveBuffers& buffers, uint64_t bytes) {
  size_t used = 0;
  uint64_t begin = 0;  // Of this chain, within the frame.
  while (begin < bytes) {
    DescriptorChain& chain = buffers.chains[used++];
    const uint64_t here = std::min(chain.writable_bytes(), bytes - begin);
    const uint64_t direct =
        buffers.direct_bytes <= begin ? 0 : std::min(here, buffers.direct_bytes - begin);
    if (direct < here) {
      const std::span<const uint8_t> spilled(spill_.get() + (begin + direct - buffers.direct_bytes),
                                             here - direct);
      VIREO_CHECK(chain.CopyToWritable(direct, spilled));
    }
    begin += here;
    buffers.bytes -= chain.writable_bytes();
  }
  DescriptorChain& first = buffers.chains.front();
  if (!has_feature(kNetFeatureGuestCsum)) {  // §5.1.6.4.1: flags are 0.
    const uint8_t no_flags = 0;
    first.CopyToWritable(offsetof(NetHeader, flags), std::span(&no_flags, 1));
  }
  if (header_bytes_ == sizeof(NetHeader)) {
    const Le16 num_buffers = static_cast<uint16_t>(used);  // 1 when they cannot be merged.
    first.CopyToWritable(offsetof(NetHeader, num_buffers),
                         std::span(reinterpret_cast<const uint8_t*>(&num_buffers), 2));
  }
  uint64_t left = bytes;
  for (size_t i = 0; i < used; ++i) {
    DescriptorChain& chain = buffers.chains[i];
    const uint64_t here = std::min(chain.writable_bytes(), left);
    chain.CompleteWrites(here);
    queue.ring.AddUsed(chain.head(), static_cast<uint32_t>(here));
    left -= here;
  }
  buffers.chains.erase(buffers.chains.begin(),
                       buffers.chains.begin() + static_cast<ptrdiff_t>(used));
  Count(counters_.rx_packets);
  Count(counters_.rx_bytes, bytes - header_bytes_);
}

Task<void> VirtioNet::ServeReceive(ActiveQueue& queue) {
  const StopToken stop = queue.scope->stop_token();
  ReceiveBuffers buffers;
  buffers.expected_bytes = ordinary_frame_bytes();
  int frames = 0;
  queue.ring.DisableNotifications();
  while (!queue.scope->stop_requested()) {
    TakeBuffers(queue, buffers, buffers.expected_bytes);
    if (queue.ring.broken()) break;
    if (buffers.chains.empty()) {
      // Frames wait in the port until the guest has room for them.
      Publish(queue);
      frames = 0;
      const bool more = co_await WaitForChains(queue);
      if (!more) break;
      queue.ring.DisableNotifications();
      continue;
    }
    ListVectors(buffers);
    absl::StatusOr<size_t> received = port_->TryReceive(buffers.vectors);
    if (absl::IsUnavailable(received.status())) {
      Publish(queue);
      frames = 0;
      received = co_await port_->Receive(buffers.vectors, stop);
    }
    if (absl::IsCancelled(received.status())) break;
    if (!received.ok()) {
      if (error_log_.Allow()) LogError("%s: %s", name(), received.status().ToString());
      Publish(queue);
      const absl::Status paused = co_await loop().SleepFor(kPortErrorPause, stop);
      if (!paused.ok()) break;
      continue;
    }
    const uint64_t bytes = *received;
    // Up at once, down slowly.
    const uint64_t faded = buffers.expected_bytes - buffers.expected_bytes / 32;
    buffers.expected_bytes = std::max({bytes, faded, ordinary_frame_bytes()});
    const uint64_t room = mergeable() ? buffers.bytes : buffers.chains.front().writable_bytes();
    if (bytes <= header_bytes_ || !link_up_ || !PrefixAccepted(buffers) ||
        (!mergeable() && bytes > room)) {
      DropReceived(buffers, bytes);
    } else {
      // More than the guest had given when the frame came: its rest waits in the spill.
      bool enough = true;
      while (buffers.bytes < bytes) {
        TakeBuffers(queue, buffers, bytes);
        if (buffers.bytes >= bytes) break;
        enough = false;
        if (queue.ring.broken() || queue.ring.in_flight() == queue.ring.size()) break;
        Publish(queue);
        enough = co_await WaitForChains(queue);
        if (!enough) break;
        queue.ring.DisableNotifications();
      }
      if (enough) {
        Deliver(queue, buffers, bytes);
      } else {
        DropReceived(buffers, bytes);
      }
    }
    if (++frames == kFramesPerTurn) {
      Publish(queue);
      frames = 0;
      co_await loop().Yield();
    }
  }
  // Unfilled buffers go back as if never taken: a pause or a move to another host loses none.
  for (size_t i = 0; i < buffers.chains.size(); ++i) queue.ring.UndoPop();
  Publish(queue);
  if (queue.ring.broken()) ReportBroken(queue);
}

// ---- From the guest ----

Task<void> VirtioNet::ServeTransmit(ActiveQueue& queue) {
  const StopToken stop = queue.scope->stop_token();
  while (!queue.scope->stop_requested()) {
    queue.ring.DisableNotifications();
    int frames = 0;
    while (frames < kFramesPerTurn) {
      std::optional<DescriptorChain> chain = queue.ring.PopAvailable();
      if (!chain.has_value()) break;
      absl::Status status = absl::InvalidArgumentError("a frame is shorter than its header");
      if (!link_up_) {
        status = absl::InvalidArgumentError("the link is down");
      } else if (chain->readable_bytes() > header_bytes_) {
        status = port_->TrySend(chain->readable());
        if (absl::IsUnavailable(status)) {
          Publish(queue);
          status = co_await port_->Send(chain->readable(), stop);
        }
        if (absl::IsCancelled(status)) {
          queue.ring.UndoPop();
          Publish(queue);
          co_return;
        }
      }
      if (status.ok()) {
        Count(counters_.tx_packets);
        Count(counters_.tx_bytes, chain->readable_bytes() - header_bytes_);
      } else {
        Count(counters_.tx_dropped);
        if (link_up_ && error_log_.Allow()) {
          LogWarning("%s: dropped a frame: %s", name(), status.message());
        }
      }
      queue.ring.AddUsed(chain->head(), 0);
      ++frames;
    }
    Publish(queue);
    if (queue.ring.broken()) {
      ReportBroken(queue);
      co_return;
    }
    if (frames == kFramesPerTurn) {
      co_await loop().Yield();
      continue;
    }
    const bool more = co_await WaitForChains(queue);
    if (!more) co_return;
  }
}

NetStats VirtioNet::stats() const {
  const auto get = [](const std::atomic<uint64_t>& c) { return c.load(std::memory_order_relaxed); };
  return {.rx_packets = get(counters_.rx_packets),
          .rx_bytes = get(counters_.rx_bytes),
          .rx_dropped = get(counters_.rx_dropped),
          .tx_packets = get(counters_.tx_packets),
          .tx_bytes = get(counters_.tx_bytes),
          .tx_dropped = get(counters_.tx_dropped)};
}

}  // namespace vireo::virtio
