// Saved states of devices, damaged or made up. Whatever the bytes: Restore answers a status, and a
// device that took them can be used, saved and restored.
//
// The first byte of the input chooses the device, the rest is its state.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/state.h"
#include "devices/acpi_pm.h"
#include "devices/bus.h"
#include "devices/cmos_rtc.h"
#include "devices/i8042.h"
#include "devices/lifecycle.h"
#include "devices/serial_16550.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_interrupts.h"

namespace vireo {
namespace {

struct Devices {
  FakeClock clock{absl::FromUnixSeconds(1'700'000'000)};
  FakeInterruptLine lines[4];
  Serial16550 serial{lines[0], {.transmitted = nullptr, .room = nullptr}};
  CmosRtc rtc{clock, lines[1], {.ram_below_4g_bytes = 1 << 30}};
  I8042 i8042{lines[2], nullptr};
  AcpiPm pm{
      clock, lines[3], {.acpi_at_power_on = true, .s5_sleep_type = 5, .powered_off = nullptr}};

  Lifecycle& Choose(uint8_t number) {
    Lifecycle* const all[] = {&serial, &rtc, &i8042, &pm};
    return *all[number % std::size(all)];
  }

  void Poke() {
    std::vector<BusDevice*> ports = {
        &serial, &rtc,           &i8042.data_port(), &i8042.command_port(), &i8042.fast_a20_port(),
        &pm,     &pm.apm_ports()};
    for (BusDevice* const port : ports) {
      for (uint64_t offset = 0; offset < AcpiPm::kBlockBytes; ++offset) {
        uint8_t data[4];
        port->Read(offset, data);
        port->Write(offset, data);
      }
    }
    clock.Advance(absl::Seconds(90));
  }
};

}  // namespace
}  // namespace vireo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  if (size == 0) return 0;
  vireo::Devices devices;
  vireo::Lifecycle& device = devices.Choose(input[0]);
  vireo::EncodedState state = device.Save();
  state.bytes.assign(input + 1, input + size);
  if (!device.Restore(state).ok()) return 0;
  const vireo::EncodedState saved = device.Save();
  vireo::Devices others;
  VIREO_CHECK(others.Choose(input[0]).Restore(saved).ok());
  VIREO_CHECK(others.Choose(input[0]).Save().bytes == saved.bytes);
  devices.Poke();
  return 0;
}
