// The PCI Express root of a Q35 machine: bus 0 with 32 slots of 8 functions, and the two ways to
// reach its configuration registers, which a guest mixes freely:
//
//   ports 0xcf8, 0xcfc   PCI 3.0 §3.2.2.3.2: address and data, 256 bytes a function
//   ECAM                 PCIe 4.0 §7.2.2: memory, 4 KiB a function; PCIEXBAR of 00:00.0 places it
//
// 00:00.0 (host bridge) and 00:1f.0 (LPC bridge) are part of it, everything else is inserted.
// Functions that are not there read as ones. All configuration accesses come on vCPU threads.

#ifndef VIREO_DEVICES_PCI_ROOT_BUS_H_
#define VIREO_DEVICES_PCI_ROOT_BUS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "base/state.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "devices/fair_shared_mutex.h"
#include "devices/lifecycle.h"
#include "devices/pci/function.h"
#include "devices/pci/host_bridge.h"
#include "devices/pci/lpc_bridge.h"

namespace vireo::pci {

// A function's place on bus 0.
struct Address {
  uint8_t slot = 0;      // 0 to 31.
  uint8_t function = 0;  // 0 to 7.

  friend bool operator==(const Address&, const Address&) = default;
};

std::string ToString(const Address& address);  // "00:1f.0"

// The GSI of an INTx pin (0 INTA to 3 INTD, as in ACPI's _PRT): slots and pins are spread over the
// eight I/O APIC inputs 16 to 23, which the LPC bridge calls PIRQA to PIRQH.
constexpr uint32_t IntxGsi(uint8_t slot, uint8_t pin) { return 16 + ((slot + pin) & 7); }

class RootBus final : public Lifecycle {
 public:
  static constexpr Address kHostBridge = {.slot = 0, .function = 0};
  static constexpr Address kLpcBridge = {.slot = 0x1f, .function = 0};
  static constexpr uint16_t kConfigPorts = 0xcf8;
  static constexpr uint64_t kConfigPortBytes = 8;

  struct Options {
    HostBridge::Options host_bridge;
    LpcBridge::Options lpc_bridge;
    // Takes one-byte accesses at 0xcf9, which lies within the address port; may be null. Outlives
    // the bus.
    BusDevice* reset_control = nullptr;
  };

  // `address_space` outlives the bus.
  RootBus(AddressSpace& address_space, Options options);
  ~RootBus() override;

  // What answers at kConfigPorts; the machine puts it on the port bus.
  BusDevice& config_ports() { return ports_; }

  HostBridge& host_bridge() { return host_bridge_; }
  LpcBridge& lpc_bridge() { return lpc_bridge_; }

  // The guest sees `function` at `address`, which the caller chose, from now on. ALREADY_EXISTS
  // when the place is taken, INVALID_ARGUMENT when there is no such place. Any thread; the bus may
  // be running.
  absl::Status Insert(Address address, Function& function);

  // The guest sees nothing there any more and no access to the function is running; its windows are
  // gone. NOT_FOUND when nothing is there; INVALID_ARGUMENT for the bus's own two. Not from within
  // a configuration access.
  absl::Status Remove(Address address);

  // Null when nothing is there.
  Function* Find(Address address) const;

  // Configuration accesses as the guest makes them, for firmware's work that the machine does
  // itself. Any thread; bytes that no function has read as ones.
  void ReadConfig(Address address, uint16_t offset, std::span<uint8_t> data);
  std::shared_ptr<Parking> WriteConfig(Address address, uint16_t offset,
                                       std::span<const uint8_t> data);

  // Of the bus's own registers and its two bridges. Inserted functions may each live on a loop of
  // their own, where whoever inserted them calls the same.
  Task<void> Quiesce() override;
  void Resume() override;
  Task<void> Reset() override;
  EncodedState Save() const override;
  absl::Status Restore(const EncodedState& state) override;

 private:
  class ConfigPorts final : public BusDevice {
   public:
    explicit ConfigPorts(RootBus& bus) : bus_(bus) {}
    void Read(uint64_t offset, std::span<uint8_t> data) override;
    std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

   private:
    RootBus& bus_;
  };

  class Ecam final : public BusDevice {
   public:
    explicit Ecam(RootBus& bus) : bus_(bus) {}
    void Read(uint64_t offset, std::span<uint8_t> data) override;
    std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override;

   private:
    RootBus& bus_;
  };

  static constexpr int kSlots = 32;
  static constexpr int kFunctions = 8;

  static size_t Index(Address address) { return address.slot * kFunctions + address.function; }
  void RetryPlacement();

  BusDevice* const reset_control_;
  ConfigPorts ports_{*this};
  Ecam ecam_{*this};
  std::atomic<uint32_t> config_address_{0};  // Port 0xcf8.

  // Held shared during a configuration access, so that Remove() waits for it. So a function's hooks
  // make no configuration access of their own.
  mutable FairSharedMutex mutex_;
  std::array<Function*, kSlots* kFunctions> functions_ = {};

  HostBridge host_bridge_;
  LpcBridge lpc_bridge_;
};

}  // namespace vireo::pci

#endif  // VIREO_DEVICES_PCI_ROOT_BUS_H_
