// The port to which firmware writes what it is about, for people who look for a fault: reading it
// answers 0xe9, by which firmware knows that somebody listens. SeaBIOS and OVMF use 0x402.

#ifndef VIREO_DEVICES_FIRMWARE_DEBUG_PORT_H_
#define VIREO_DEVICES_FIRMWARE_DEBUG_PORT_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "devices/bus.h"

namespace vireo {

// Stateless: nothing to reset or to save.
class DebugPort final : public BusDevice {
 public:
  static constexpr uint16_t kPort = 0x402;
  static constexpr uint64_t kPorts = 1;

  // Called on the vCPU's thread, perhaps on several at once.
  explicit DebugPort(absl::AnyInvocable<void(uint8_t) const> written)
      : written_(std::move(written)) {}

  void Read(uint64_t, std::span<uint8_t> data) override {
    for (uint8_t& byte : data) byte = 0xff;
    if (!data.empty()) data[0] = 0xe9;
  }
  std::shared_ptr<Parking> Write(uint64_t, std::span<const uint8_t> data) override {
    if (!data.empty()) written_(data[0]);
    return nullptr;
  }

 private:
  const absl::AnyInvocable<void(uint8_t) const> written_;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_FIRMWARE_DEBUG_PORT_H_
