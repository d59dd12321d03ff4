// The PC around the processors: serial port, clock, keyboard controller, power management, panic
// and reset ports, and the PCI root. Layout and interrupts are those that vmm/x86/layout.h draws
// and the ACPI tables tell the guest.
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/machine_builder.h"
#include "vmm/x86/layout.h"

namespace vireo {

absl::Status MachineBuilder::MakePlatform() {
  m_.clock_ = std::make_unique<HostClock>(m_.control_);
  const bool firmware = m_.has_firmware();  // Which switches on what a kernel is to find on.

  Machine& m = m_;
  m.serial_ = std::make_unique<Serial16550>(
      Line(x86::kCom1Irq),
      Serial16550::Callbacks{
          .transmitted = [&m](std::span<const uint8_t> bytes) { m.console_.Append(bytes); },
          .room = [&m] { m.console_input_->Pump(); }});
  m.console_input_ = std::make_unique<ConsoleInput>(
      [&m](std::span<const uint8_t> bytes) { return m.serial_->Receive(bytes); },
      [&m] { m.console_.TellOfInputRoom(); });
  RETURN_IF_ERROR(m.ports_.Insert(x86::kCom1Port, Serial16550::kPorts, *m.serial_));

  m.rtc_ =
      std::make_unique<CmosRtc>(*m.clock_, Line(x86::kRtcIrq),
                                CmosRtc::Options{.ram_below_4g_bytes = m.layout_.low_ram.size,
                                                 .ram_above_4g_bytes = m.layout_.high_ram.size});
  RETURN_IF_ERROR(m.ports_.Insert(x86::kRtcPort, CmosRtc::kPorts, *m.rtc_));

  m.i8042_ = std::make_unique<I8042>(Line(x86::kKeyboardIrq), [&m] {
    m.EndRun(VmCause::kGuestReset, "by the keyboard controller");
  });
  RETURN_IF_ERROR(m.ports_.Insert(I8042::kDataPort, 1, m.i8042_->data_port()));
  RETURN_IF_ERROR(m.ports_.Insert(I8042::kCommandPort, 1, m.i8042_->command_port()));
  RETURN_IF_ERROR(m.ports_.Insert(I8042::kFastA20Port, 1, m.i8042_->fast_a20_port()));

  m.pm_ = std::make_unique<AcpiPm>(
      *m.clock_, Line(x86::kSciGsi),
      AcpiPm::Options{.acpi_at_power_on = !firmware,
                      .s5_sleep_type = x86::kSleepTypeS5,
                      .powered_off = [&m] { m.EndRun(VmCause::kGuestPowerOff, "ACPI S5"); }});
  RETURN_IF_ERROR(m.ports_.Insert(AcpiPm::kApmPort, AcpiPm::kApmPorts, m.pm_->apm_ports()));

  m.pvpanic_ = std::make_unique<PvPanic>([&m](PvPanic::Event event) {
    if (event == PvPanic::Event::kCrashLoaded) {
      m.events_.OnGuestPanicHandled();
    } else {
      m.EndRun(VmCause::kGuestPanic, "the guest's kernel panicked");
    }
  });
  RETURN_IF_ERROR(m.ports_.Insert(x86::kPvpanicPort, PvPanic::kPorts, *m.pvpanic_));

  m.reset_control_ = std::make_unique<ResetControl>(
      [&m](ResetControl::Kind) { m.EndRun(VmCause::kGuestReset, "by port 0xcf9"); });

  pci::RootBus::Options pci = {.host_bridge = {},
                               .lpc_bridge = {.pm_block = m.pm_.get(),
                                              .pm_base_at_power_on = std::nullopt,
                                              .pirq_routed =
                                                  [&m](int pirq, std::optional<uint8_t> irq) {
                                                    m.interrupts_->RoutePirq(pirq, irq);
                                                  }},
                               .reset_control = m.reset_control_.get()};
  if (firmware) {
    RETURN_IF_ERROR(PlaceFirmware());
    pci.host_bridge.pam_written = [&m](const ShadowMemory::Registers& pam) {
      m.shadow_memory_->Set(pam);
    };
  } else {
    pci.host_bridge.ecam_base_at_power_on = x86::kEcamAddress;
    pci.lpc_bridge.pm_base_at_power_on = x86::kPmBasePort;
  }
  m.pci_ = std::make_unique<pci::RootBus>(*m.address_space_, std::move(pci));
  return m.ports_.Insert(pci::RootBus::kConfigPorts, pci::RootBus::kConfigPortBytes,
                         m.pci_->config_ports());
}

}  // namespace vireo
