// The port through which a guest's kernel says that it has crashed (the "QEMU0001" device of ACPI).
// One byte: reading tells which events can be reported, writing reports them.

#ifndef VIREO_DEVICES_PVPANIC_H_
#define VIREO_DEVICES_PVPANIC_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "devices/bus.h"
#include "devices/lifecycle.h"

namespace vireo {

class PvPanic final : public BusDevice, public Lifecycle {
 public:
  static constexpr uint16_t kPort = 0x505;
  static constexpr uint64_t kPorts = 1;

  enum class Event {
    kPanicked,     // The kernel gave up.
    kCrashLoaded,  // It panicked and runs a crash kernel, which will save a dump and go on.
  };

  // Called on the vCPU's thread, perhaps on several at once.
  explicit PvPanic(absl::AnyInvocable<void(Event) const> reported)
      : reported_(std::move(reported)) {}

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

  // Stateless.
  Task<void> Quiesce() override;
  void Resume() override {}
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  const absl::AnyInvocable<void(Event) const> reported_;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_PVPANIC_H_
