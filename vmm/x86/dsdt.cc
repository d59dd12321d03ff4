#include "vmm/x86/dsdt.h"

#include <string>

#include "absl/strings/str_format.h"
#include "vmm/x86/aml.h"

namespace vireo::x86 {
namespace {

using aml::Term;

constexpr uint32_t kPciSlots = 32;
constexpr uint32_t kIntxPins = 4;

// The device is present, enabled, shown and working (ACPI 6.3 §6.3.7).
constexpr uint64_t kStatusPresent = 0xf;

// _PRT: {slot << 16 | all functions, pin, no link device, GSI} (ACPI 6.3 §6.2.13). Slot 0 is the
// host bridge.
Term RoutingTable() {
  std::vector<Term> entries;
  for (uint32_t slot = 1; slot < kPciSlots; ++slot) {
    for (uint32_t pin = 0; pin < kIntxPins; ++pin) {
      entries.push_back(aml::Package({aml::Integer((slot << 16) | 0xffff), aml::Integer(pin),
                                      aml::Integer(0), aml::Integer(IntxGsi(slot, pin))}));
    }
  }
  return aml::Name("_PRT", aml::Package(entries));
}

// PCI Firmware Specification 3.2 §4.5: the guest asks for control of PCIe features and is told
// which it gets. Native hotplug (bit 0) and SHPC (bit 1) are withheld: hotplug is ACPI's.
Term OperatingSystemCapabilities() {
  constexpr uint64_t kGranted = 0x1c;  // PME, AER, the capability structure.
  constexpr uint64_t kUnknownUuid = 1 << 2;
  constexpr uint64_t kUnknownRevision = 1 << 3;
  constexpr uint64_t kMasked = 1 << 4;
  const Term status = aml::Path("CDW1");
  const Term control = aml::Path("CDW3");
  const auto report = [&](uint64_t bit) { return aml::Or(status, aml::Integer(bit), status); };
  return aml::Method(
      "_OSC", 4,
      {aml::CreateDwordField(aml::Arg(3), 0, "CDW1"),
       aml::If(aml::LEqual(aml::Arg(0), aml::Uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")),
               {aml::CreateDwordField(aml::Arg(3), 8, "CDW3"),
                aml::And(control, aml::Integer(kGranted), aml::Local(0)),
                aml::If(aml::LNotEqual(aml::Arg(1), aml::Integer(1)), {report(kUnknownRevision)}),
                aml::If(aml::LNotEqual(control, aml::Local(0)), {report(kMasked)}),
                aml::Store(aml::Local(0), control)}),
       aml::Else({report(kUnknownUuid)}), aml::Return(aml::Arg(3))});
}

Term LegacyDevice(std::string_view name, std::string_view id, std::vector<Term> resources,
                  uint64_t unique_id = 0) {
  return aml::Device(
      name, {aml::Name("_HID", aml::EisaId(id)), aml::Name("_UID", aml::Integer(unique_id)),
             aml::Name("_STA", aml::Integer(kStatusPresent)),
             aml::Name("_CRS", aml::ResourceTemplate(std::span<const Term>(resources)))});
}

// Linux's driver takes the port from _CRS; Windows and others call RDPT and WRPT.
Term Pvpanic() {
  return aml::Device(
      "PEVT",
      {aml::Name("_HID", aml::String("QEMU0001")), aml::Name("_STA", aml::Integer(kStatusPresent)),
       aml::Name("_CRS", aml::ResourceTemplate({aml::Io(kPvpanicPort, 1)})),
       aml::OperationRegion("PEOR", aml::Space::kIo, kPvpanicPort, 1),
       aml::Field("PEOR", aml::FieldAccess::kByte, {{"PEPT", 8}}),
       aml::Method("RDPT", 0, {aml::Return(aml::Path("PEPT"))}),
       aml::Method("WRPT", 1, {aml::Store(aml::Arg(0), aml::Path("PEPT"))})});
}

// What hangs off the LPC bridge, 00:1f.0.
Term IsaBridge(const AcpiOptions& options) {
  std::vector<Term> body = {aml::Name("_ADR", aml::Integer(0x001f0000))};
  body.push_back(LegacyDevice("RTC", "PNP0B00", {aml::Io(kRtcPort, 2), aml::Irq(kRtcIrq)}));
  if (options.com1) {
    body.push_back(LegacyDevice("COM1", "PNP0501", {aml::Io(kCom1Port, 8), aml::Irq(kCom1Irq)}, 1));
  }
  if (options.i8042) {
    body.push_back(LegacyDevice("KBD", "PNP0303",
                                {aml::Io(0x60, 1), aml::Io(0x64, 1), aml::Irq(kKeyboardIrq)}));
  }
  if (options.pvpanic) body.push_back(Pvpanic());
  return aml::Device("ISA", std::span<const Term>(body));
}

Term PciRoot(const AcpiOptions& options) {
  const Layout& layout = options.layout;
  // Firmware may have put ECAM at the start or in the middle of the 32-bit window (OVMF: at
  // 0xe0000000), and places devices above it then.
  AddressRange window = layout.pci32;
  const uint64_t ecam_end = options.ecam_base + kEcamBytes;
  if (options.ecam_base >= window.base && ecam_end < window.end()) {
    window = {ecam_end, window.end() - ecam_end};
  }
  const Term resources =
      aml::ResourceTemplate({aml::BusNumbers(0, kLastPciBus), aml::Io(kPciConfigAddressPort, 8),
                             aml::IoWindow(0, kPciConfigAddressPort - 1),
                             aml::IoWindow(kPciConfigAddressPort + 8, 0xffff),
                             aml::MemoryWindow32(static_cast<uint32_t>(window.base),
                                                 static_cast<uint32_t>(window.end() - 1)),
                             aml::MemoryWindow64(layout.pci64.base, layout.pci64.end() - 1)});
  return aml::Device(
      "PCI0", {aml::Name("_HID", aml::EisaId("PNP0A08")), aml::Name("_CID", aml::EisaId("PNP0A03")),
               aml::Name("_SEG", aml::Integer(0)), aml::Name("_BBN", aml::Integer(0)),
               aml::Name("_UID", aml::Integer(0)), aml::Name("_CRS", resources), RoutingTable(),
               OperatingSystemCapabilities(), IsaBridge(options)});
}

// Resources that belong to no device: nobody else may be placed there.
Term Motherboard(const AcpiOptions& options) {
  return LegacyDevice("MBRD", "PNP0C02",
                      {aml::Memory32Fixed(static_cast<uint32_t>(options.ecam_base), kEcamBytes),
                       aml::Io(kPmBasePort, kPmBlockBytes)});
}

Term Processors(const AcpiOptions& options) {
  std::vector<Term> processors;
  for (size_t i = 0; i < options.apic_ids.size(); ++i) {
    const bool present = i < options.enabled_cpus;
    processors.push_back(
        aml::Device(absl::StrFormat("C%03X", i),
                    {aml::Name("_HID", aml::String("ACPI0007")), aml::Name("_UID", aml::Integer(i)),
                     aml::Name("_STA", aml::Integer(present ? kStatusPresent : 0))}));
  }
  return aml::Concat(processors);
}

}  // namespace

std::vector<uint8_t> BuildDsdtBody(const AcpiOptions& options) {
  // Sleep types for PM1a_CNT and PM1b_CNT, and two reserved ones (ACPI 6.3 §7.4.2).
  const Term power_off = aml::Package(
      {aml::Integer(kSleepTypeS5), aml::Integer(kSleepTypeS5), aml::Integer(0), aml::Integer(0)});
  return aml::Concat(
      {aml::Scope("\\_SB", {PciRoot(options), Motherboard(options), Processors(options)}),
       aml::Name("\\_S5", power_off)});
}

}  // namespace vireo::x86
