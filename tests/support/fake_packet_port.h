// A PacketPort whose other end is the test, where frames have the long prefix whatever was chosen.

#ifndef VIREO_TESTS_SUPPORT_FAKE_PACKET_PORT_H_
#define VIREO_TESTS_SUPPORT_FAKE_PACKET_PORT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/async_event.h"
#include "base/async/stop_token.h"
#include "base/async/task.h"
#include "base/iovecs.h"
#include "net/packet_port.h"

namespace vireo {

class FakePort final : public PacketPort {
 public:
  // A frame, prefix included, on its way to the guest.
  void Arrive(std::vector<uint8_t> frame) {
    to_guest.push_back(std::move(frame));
    arrived_.Set();
  }
  void SetFull(bool full) {
    full_ = full;
    if (!full) room_.Set();
  }

  Task<absl::StatusOr<size_t>> Receive(IoVecs dst, StopToken stop) override {
    ++receivers;
    absl::StatusOr<size_t> moved = TryReceive(dst);
    while (absl::IsUnavailable(moved.status())) {
      arrived_.Reset();
      const absl::Status waited = co_await arrived_.Wait(stop);
      if (waited.ok()) {
        moved = TryReceive(dst);
      } else {
        moved = waited;
      }
    }
    --receivers;
    co_return moved;
  }
  absl::StatusOr<size_t> TryReceive(IoVecs dst) override {
    if (to_guest.empty()) return absl::UnavailableError("no frame");
    const std::vector<uint8_t> frame = std::move(to_guest.front());
    to_guest.pop_front();
    // As a tap: the last two bytes of a long prefix are not written, a short one has none.
    CopyToIoVecs(std::span(frame).first(10), dst);
    CopyToIoVecs(std::span(frame).subspan(kPrefixBytes), dst, prefix_bytes);
    return frame.size() - kPrefixBytes + prefix_bytes;
  }
  absl::Status TrySend(IoVecs src) override {
    if (full_) return absl::UnavailableError("full");
    std::vector<uint8_t> frame(TotalSize(src));
    CopyFromIoVecs(src, frame);
    frame.insert(frame.begin() + static_cast<ptrdiff_t>(std::min(frame.size(), prefix_bytes)),
                 kPrefixBytes - prefix_bytes, 0);
    if (refuse) return absl::InvalidArgumentError("no such frame");
    from_guest.push_back(std::move(frame));
    return absl::OkStatus();
  }
  Task<absl::Status> Send(IoVecs src, StopToken stop) override {
    ++senders;
    absl::Status sent = TrySend(src);
    while (absl::IsUnavailable(sent)) {
      room_.Reset();
      const absl::Status waited = co_await room_.Wait(stop);
      sent = waited.ok() ? TrySend(src) : waited;
    }
    --senders;
    co_return sent;
  }
  absl::Status SetOffloads(Offloads wanted) override {
    offloads = wanted;
    return absl::OkStatus();
  }
  absl::Status SetPrefixBytes(size_t bytes) override {
    if (refuse_prefix) return absl::InternalError("no such prefix");
    prefix_bytes = bytes;
    return absl::OkStatus();
  }
  uint16_t mtu() const override { return 1500; }
  bool link_up() const override { return true; }

  std::deque<std::vector<uint8_t>> to_guest;
  std::vector<std::vector<uint8_t>> from_guest;
  Offloads offloads;
  size_t prefix_bytes = kPrefixBytes;
  bool refuse = false;
  bool refuse_prefix = false;
  int receivers = 0;
  int senders = 0;

 private:
  AsyncEvent arrived_;
  AsyncEvent room_;
  bool full_ = false;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAKE_PACKET_PORT_H_
