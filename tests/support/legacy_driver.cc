#include "tests/support/legacy_driver.h"

namespace vireo::virtio {

using namespace legacy_config;  // NOLINT(google-build-using-namespace): register names only.

void LegacyDriver::Start(const Options& options) {
  Reset();
  Acknowledge(options);
  SetUpQueues();
  SetDriverOk();
}

void LegacyDriver::Acknowledge(const Options& options) {
  options_ = options;
  WriteStatus(kStatusAcknowledge);
  WriteStatus(kStatusAcknowledge | kStatusDriver);
  host_->Wait(WriteFeatures(options.features));
}

void LegacyDriver::SetUpQueues() {
  uint16_t queues = 0;
  while (QueueSize(queues) != 0) ++queues;
  if (options_.msix) {
    host_->EnableMsix(queues + 1);
    host_->WritePort(kConfigMsixVector, 0, 2);
  }
  for (uint16_t i = 0; i < queues; ++i) SetUpQueue(i);
}

uint16_t LegacyDriver::QueueSize(uint16_t index) {
  host_->WritePort(kQueueSelect, index, 2);
  return static_cast<uint16_t>(host_->ReadPort(kQueueSize, 2));
}

void LegacyDriver::SetUpQueue(uint16_t index) {
  const uint16_t size = QueueSize(index);
  rings_[index] = std::make_unique<DriverRing>(
      memory_, DriverRing::Options{.size = size,
                                   .event_idx = (options_.features & kFeatureEventIdx) != 0,
                                   .indirect = (options_.features & kFeatureIndirectDesc) != 0,
                                   .legacy = true});
  host_->WritePort(kQueuePfn, rings_[index]->page(), 4);
  if (options_.msix) host_->WritePort(kQueueMsixVector, 1u + index, 2);
}

void LegacyDriver::SetDriverOk() {
  WriteStatus(kStatusAcknowledge | kStatusDriver | kStatusDriverOk);
  host_->Settle();
}

std::shared_ptr<Parking> LegacyDriver::WriteQueuePage(uint16_t index, uint32_t page) {
  host_->WritePort(kQueueSelect, index, 2);
  return host_->WritePort(kQueuePfn, page, 4);
}

uint32_t LegacyDriver::ReadQueuePage(uint16_t index) {
  host_->WritePort(kQueueSelect, index, 2);
  return static_cast<uint32_t>(host_->ReadPort(kQueuePfn, 4));
}

void LegacyDriver::Run(uint16_t index) {
  if (ring(index).TakeKickWanted()) Kick(index);
  host_->Settle();
}

std::optional<UsedChain> LegacyDriver::Send(const std::vector<Segment>& segments, uint16_t index) {
  ring(index).Add(segments);
  Run(index);
  return ring(index).PopUsed();
}

}  // namespace vireo::virtio
