// A VirtioDevice that remembers what its transport asked of it, and ends resets when told.

#ifndef VIREO_TESTS_SUPPORT_TEST_VIRTIO_DEVICE_H_
#define VIREO_TESTS_SUPPORT_TEST_VIRTIO_DEVICE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/async/async_event.h"
#include "base/async/task.h"
#include "base/state.h"
#include "devices/virtio/device.h"
#include "devices/virtio/spec.h"

namespace vireo::virtio {

inline constexpr uint64_t kFeatureA = FeatureBit(0);
inline constexpr uint64_t kFeatureB = FeatureBit(1);  // Makes sense with A only.

class TestDevice final : public VirtioDevice {
 public:
  TestDevice() { gate.Set(); }

  DeviceType type() const override { return DeviceType::kBlock; }
  std::vector<uint16_t> queue_sizes() const override { return {64, 1024}; }
  uint64_t offered_features() const override { return kFeatureA | kFeatureB; }
  bool AcceptsFeatures(uint64_t features) const override {
    return (features & kFeatureB) == 0 || (features & kFeatureA) != 0;
  }
  std::vector<uint8_t> config() const override { return bytes; }
  bool ConfigWritable(uint16_t offset, uint64_t features) const override {
    return offset == 3 && (features & kFeatureA) != 0;
  }
  void WriteConfig(uint16_t offset, std::span<const uint8_t> data) override {
    bytes[offset] = data[0] & 1;
  }
  absl::Status Activate(const Activation& activation) override {
    activations.push_back(activation);
    return activate_status;
  }
  absl::Status StartQueue(const QueueActivation& queue) override {
    started.push_back(queue.index);
    return absl::OkStatus();
  }
  Task<void> ResetQueue(uint16_t index) override {
    co_await gate.Wait();
    queue_resets.push_back(index);
  }
  Task<void> Quiesce() override {
    ++quiesces;
    co_return;
  }
  void Resume() override { ++resumes; }
  Task<void> Reset() override {
    co_await gate.Wait();
    ++resets;
    bytes[3] = 0;
  }
  EncodedState Save() const override { return {.type = "test", .version = 1, .bytes = bytes}; }
  absl::Status Restore(const EncodedState& state) override {
    bytes = state.bytes;
    ++restores;
    return restore_status;
  }

  InterruptSink& sink() { return interrupts(); }

  std::vector<uint8_t> bytes = {1, 2, 3, 0, 5, 6, 7};
  AsyncEvent gate;
  absl::Status activate_status;
  absl::Status restore_status;
  std::vector<Activation> activations;
  std::vector<uint16_t> started;
  std::vector<uint16_t> queue_resets;
  int resets = 0;
  int quiesces = 0;
  int resumes = 0;
  int restores = 0;
};

}  // namespace vireo::virtio

#endif  // VIREO_TESTS_SUPPORT_TEST_VIRTIO_DEVICE_H_
