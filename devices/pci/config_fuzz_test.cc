// Configuration accesses of a hostile guest, through ports and ECAM, with BARs that move over each
// other, resets, and saves into a fresh bus. Whatever the input: no crash, the identity of every
// function stays, and a restored bus is the one that was saved.
//
// The input is a sequence of records of 8 bytes: operation, size and function, 16-bit offset,
// 32-bit value.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "devices/pci/root_bus.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_interrupts.h"

namespace vireo::pci {
namespace {

constexpr uint64_t kEcam = 0xb0000000;

class FuzzFunction final : public Function, private BusDevice {
 public:
  FuzzFunction(AddressSpace& space, InterruptLine& intx, MsiSink& sink, uint16_t device_id)
      : Function({.name = "fuzzed",
                  .vendor_id = 0x1af4,
                  .device_id = device_id,
                  .class_code = 0x020000,
                  .interrupt_pin = 1,
                  .config_bytes = ConfigSpace::kExtendedBytes},
                 space, &intx),
        msix_(sink) {
    const auto window = [this](uint64_t size) {
      return Window{.size = size, .trapped = this, .doorbells = {}, .ram = {}, .name = {}};
    };
    VIREO_CHECK(
        AddBar({.index = 0, .kind = BarKind::kMemory32, .window = window(0x4000)}).ok() &&
        AddBar({.index = 2, .kind = BarKind::kMemory64Prefetchable, .window = window(1 << 20)})
            .ok() &&
        AddBar({.index = 4, .kind = BarKind::kIo, .window = window(64)}).ok() &&
        AddMsix(msix_, {.table_bar = 0, .table_offset = 0, .pba_bar = 0, .pba_offset = 0x800})
            .ok());
    FinishConstruction();
  }
  ~FuzzFunction() override { Detach(); }

  using Function::SetIntx;
  Msix& msix() { return msix_; }

 private:
  void Read(uint64_t offset, std::span<uint8_t> data) override {
    if (offset < 0x800) {
      msix_.ReadTable(offset, data);
    } else {
      msix_.ReadPba(offset - 0x800, data);
    }
  }
  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override {
    msix_.WriteTable(offset, data);
    return nullptr;
  }

  Msix msix_;
};

struct Machine {
  Machine() {
    VIREO_CHECK(space.pio()
                    .Insert(RootBus::kConfigPorts, RootBus::kConfigPortBytes, bus.config_ports())
                    .ok() &&
                bus.Insert({.slot = 1}, first).ok() &&
                bus.Insert({.slot = 1, .function = 3}, second).ok());
  }

  FakeAddressSpace space;
  FakeInterruptLine intx;
  FakeMsiSink first_sink{3};
  FakeMsiSink second_sink{65};
  FuzzFunction first{space, intx, first_sink, 0x1041};
  FuzzFunction second{space, intx, second_sink, 0x1042};
  RootBus bus{
      space,
      {.host_bridge = {.ecam_base_at_power_on = kEcam},
       .lpc_bridge = {.pm_block = nullptr, .pm_base_at_power_on = 0x600, .pirq_routed = nullptr},
       .reset_control = nullptr}};
};

void CheckIdentities(RootBus& bus) {
  const auto identity = [&bus](Address address) {
    uint8_t data[4];
    bus.ReadConfig(address, 0, data);
    return data[0] | data[1] << 8 | data[2] << 16 | static_cast<uint32_t>(data[3]) << 24;
  };
  VIREO_CHECK(identity(RootBus::kHostBridge) == 0x29c08086);
  VIREO_CHECK(identity(RootBus::kLpcBridge) == 0x29188086);
  VIREO_CHECK(identity({.slot = 1}) == 0x10411af4);
  VIREO_CHECK(identity({.slot = 1, .function = 3}) == 0x10421af4);
  VIREO_CHECK(identity({.slot = 2}) == 0xffffffff);
}

void CheckSaveAndRestore(Machine& machine) {
  Machine fresh;
  const auto move = [](Lifecycle& from, Lifecycle& to) {
    const EncodedState state = from.Save();
    VIREO_CHECK(to.Restore(state).ok());
    VIREO_CHECK(to.Save().bytes == state.bytes);
  };
  move(machine.bus, fresh.bus);
  move(machine.first, fresh.first);
  move(machine.second, fresh.second);
}

void Execute(Machine& machine, EventLoop& loop, std::span<const uint8_t, 8> record) {
  constexpr Address kPlaces[] = {{.slot = 1},
                                 {.slot = 1, .function = 3},
                                 RootBus::kHostBridge,
                                 RootBus::kLpcBridge,
                                 {.slot = 2}};
  const size_t size = 1 + (record[1] & 7);
  const Address place = kPlaces[(record[1] >> 3) % std::size(kPlaces)];
  const uint16_t offset = static_cast<uint16_t>(record[2] | record[3] << 8);
  const uint32_t value =
      record[4] | record[5] << 8 | record[6] << 16 | static_cast<uint32_t>(record[7]) << 24;
  uint8_t bytes[8];
  for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = record[4 + i % 4];
  const std::span<uint8_t> data = std::span(bytes).first(size);
  const uint64_t ecam =
      machine.bus.host_bridge().ecam().has_value() ? machine.bus.host_bridge().ecam()->base : kEcam;
  const uint64_t ecam_address =
      ecam + (uint64_t{place.slot} << 15) + (uint64_t{place.function} << 12) + (offset & 0xfff);
  FuzzFunction& function = place.function == 0 ? machine.first : machine.second;
  switch (record[0] % 12) {
    case 0:
      machine.bus.WriteConfig(place, offset, data);
      break;
    case 1:
      machine.bus.ReadConfig(place, offset, data);
      break;
    case 2:
      machine.space.mmio().Write(ecam_address, data);
      break;
    case 3:
      machine.space.mmio().Read(ecam_address, data);
      break;
    case 4:
      machine.space.pio().Write(RootBus::kConfigPorts + offset % 8, data);
      break;
    case 5:
      machine.space.pio().Read(RootBus::kConfigPorts + offset % 8, data);
      break;
    case 6:  // Where BARs have been put, or not.
      machine.space.mmio().Write((uint64_t{offset} << 32 | value), data);
      machine.space.pio().Write(value & 0xffff, data);
      break;
    case 7:
      for (const int bar : {0, 2}) {
        if (const std::optional<uint64_t> base = function.bar_address(bar)) {
          machine.space.mmio().Write(*base + offset, data);
          machine.space.mmio().Read(*base + offset, data);
        }
      }
      break;
    case 8:
      function.msix().Signal(offset);
      break;
    case 9:
      function.SetIntx((value & 1) != 0);
      break;
    case 10:
      if (value % 16 == 0) {
        loop.RunTask(machine.bus.Reset());
        loop.RunTask(function.Reset());
      }
      break;
    default:
      if (value % 16 == 0) CheckSaveAndRestore(machine);
      break;
  }
}

}  // namespace
}  // namespace vireo::pci

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  static vireo::EventLoop& loop = *vireo::EventLoop::Create()->release();
  vireo::pci::Machine machine;
  for (size_t at = 0; at + 8 <= size; at += 8) {
    vireo::pci::Execute(machine, loop, std::span<const uint8_t, 8>(input + at, 8));
  }
  vireo::pci::CheckIdentities(machine.bus);
  vireo::pci::CheckSaveAndRestore(machine);
  return 0;
}
