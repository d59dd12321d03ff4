#include "devices/virtio/ring_device.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo::virtio {
namespace {

constexpr uint32_t kStateVersion = 2;

}  // namespace

RingDevice::RingDevice(EventLoop& loop, GuestMemory& memory, std::string name)
    : loop_(loop),
      memory_(memory),
      name_(std::move(name)),
      state_type_(absl::StrCat("virtio.", name_)) {}

RingDevice::~RingDevice() = default;

absl::Status RingDevice::AddQueue(const QueueActivation& activation) {
  if (activation.index >= queue_sizes().size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s has no queue %d", name_, activation.index));
  }
  VirtqueuePosition position;
  if (activation.index < restored_.size()) {
    position = restored_[activation.index].value_or(VirtqueuePosition{});
  }
  absl::StatusOr<Virtqueue> ring = Virtqueue::Create(memory_, activation.ring, position);
  if (!ring.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s queue %d: %s", name_, activation.index, ring.status().message()));
  }
  if (queues_.size() <= activation.index) queues_.resize(activation.index + 1);
  VIREO_CHECK(queues_[activation.index] == nullptr, "a queue is enabled once between resets");
  queues_[activation.index].reset(
      new ActiveQueue{activation.index, *std::move(ring), *activation.kick, std::nullopt, false});
  return absl::OkStatus();
}

absl::Status RingDevice::Activate(const Activation& activation) {
  VIREO_CHECK(!active_, "a device is activated once between resets");
  features_ = activation.features;
  absl::Status status;
  for (const QueueActivation& queue : activation.queues) {
    status = AddQueue(queue);
    if (!status.ok()) break;
  }
  restored_.clear();
  active_ = true;  // Also when broken: only a reset leads out of here.
  if (status.ok()) status = OnActivate();
  if (!status.ok()) {
    queues_.clear();
    return status;
  }
  if (!quiet_) Resume();
  return absl::OkStatus();
}

absl::Status RingDevice::StartQueue(const QueueActivation& queue) {
  VIREO_CHECK(active_, "queues start on their own after activation only");
  RETURN_IF_ERROR(AddQueue(queue));
  if (!quiet_) StartServing(*queues_[queue.index]);
  return absl::OkStatus();
}

void RingDevice::StartServing(ActiveQueue& queue) {
  if (queue.scope.has_value()) return;
  queue.scope.emplace(loop_);
  queue.scope->Spawn(ServeQueue(queue));
}

Task<void> RingDevice::StopServing() {
  OnDrain(true);
  for (const std::unique_ptr<ActiveQueue>& queue : queues_) {
    if (queue != nullptr && queue->scope.has_value()) queue->scope->RequestStop();
  }
  // By index: nothing is added meanwhile, but an iterator would be a promise too many.
  for (size_t i = 0; i < queues_.size(); ++i) {
    ActiveQueue* const queue = queues_[i].get();
    if (queue == nullptr || !queue->scope.has_value()) continue;
    co_await queue->scope->Join();
    queue->scope.reset();
  }
  OnDrain(false);
}

Task<void> RingDevice::ResetQueue(uint16_t index) {
  const AsyncMutex::Guard guard = co_await transition_.Lock();
  if (index >= queues_.size() || queues_[index] == nullptr) co_return;
  ActiveQueue& queue = *queues_[index];
  if (queue.scope.has_value()) {
    OnDrain(true);
    queue.scope->RequestStop();
    co_await queue.scope->Join();
    OnDrain(false);
  }
  queues_[index].reset();
  OnQueueReset(index);
}

Task<void> RingDevice::Quiesce() {
  quiet_ = true;
  const AsyncMutex::Guard guard = co_await transition_.Lock();
  if (!quiet_) co_return;
  co_await StopServing();
  // Whoever could not wait for it has gone on meanwhile; queues that were still draining then have
  // stopped only now.
  if (!quiet_) Resume();
}

void RingDevice::Resume() {
  quiet_ = false;
  for (const std::unique_ptr<ActiveQueue>& queue : queues_) {
    if (queue != nullptr) StartServing(*queue);
  }
}

Task<void> RingDevice::Reset() {
  const AsyncMutex::Guard guard = co_await transition_.Lock();
  co_await StopServing();
  queues_.clear();
  restored_.clear();
  active_ = false;
  features_ = 0;
  OnReset();
}

EncodedState RingDevice::Save() const {
  StateWriter writer;
  writer.U64(features_);
  writer.U16(static_cast<uint16_t>(queues_.size()));
  for (const std::unique_ptr<ActiveQueue>& queue : queues_) {
    writer.Bool(queue != nullptr);
    if (queue == nullptr) continue;
    const VirtqueuePosition position = queue->ring.position();
    writer.U16(position.next_avail);
    writer.U16(position.next_used);
    writer.U16(position.held);
    writer.Bool(position.broken);
  }
  SaveDevice(writer);
  return EncodedState{.type = state_type_, .version = kStateVersion, .bytes = writer.Finish()};
}

absl::Status RingDevice::Restore(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, state_type_, kStateVersion));
  quiet_ = true;
  StateReader reader(state.bytes);
  features_ = reader.U64();
  const uint16_t queues = reader.U16();
  if (queues > queue_sizes().size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the state has %d queues", name_, queues));
  }
  restored_.assign(queues, std::nullopt);
  for (uint16_t i = 0; i < queues; ++i) {
    if (!reader.Bool()) continue;
    VirtqueuePosition position;
    position.next_avail = reader.U16();
    position.next_used = reader.U16();
    position.held = reader.U16();
    position.broken = reader.Bool();
    restored_[i] = position;
  }
  RETURN_IF_ERROR(RestoreDevice(reader));
  RETURN_IF_ERROR(reader.Finish());
  for (uint16_t i = 0; i < queues; ++i) {
    const uint16_t held = restored_[i].has_value() ? restored_[i]->held : 0;
    if (held == held_chains(i)) continue;
    return absl::DataLossError(absl::StrFormat("%s queue %d: the state holds %d chains, not %d",
                                               name_, i, held_chains(i), held));
  }
  return absl::OkStatus();
}

void RingDevice::Publish(ActiveQueue& queue) {
  if (queue.ring.Publish()) interrupts().SignalQueue(queue.index);
}

void RingDevice::Complete(ActiveQueue& queue, uint16_t head, uint64_t written) {
  // A used length has 32 bits; no driver has use for more.
  queue.ring.AddUsed(head, static_cast<uint32_t>(
                               std::min<uint64_t>(written, std::numeric_limits<uint32_t>::max())));
  if (std::exchange(queue.publish_pending, true)) return;
  queue.scope->Spawn(PublishThisTurn(queue));
}

Task<void> RingDevice::PublishThisTurn(ActiveQueue& queue) {
  co_await loop_.Yield();
  queue.publish_pending = false;
  Publish(queue);
}

void RingDevice::ReportBroken(const ActiveQueue& queue) {
  if (broken_log_.Allow()) {
    LogWarning("%s queue %d needs reset: %s", name_, queue.index, queue.ring.fault().message());
  }
  interrupts().SignalNeedsReset();
}

Task<bool> RingDevice::WaitForChains(ActiveQueue& queue) {
  if (queue.scope->stop_requested()) co_return false;
  // Arm, then look once more: a chain made available in between raises no kick (§2.7.10).
  if (!queue.ring.EnableNotifications()) co_return true;
  const absl::StatusOr<uint64_t> kicked =
      co_await loop_.Wait(queue.kick, queue.scope->stop_token());
  co_return kicked.ok();
}

}  // namespace vireo::virtio
