// The guest-physical map of machine "vireo-1", drawn once.
//
//   0                    +--------------------------------------------+
//                        | RAM: boot areas (below), then the kernel   |
//   0x0009_fc00          +--------------------------------------------+
//                        | reserved: EBDA, VGA window, option ROMs    |
//   0x000e_0000          | ACPI tables of a direct boot; BIOS         |
//   0x0010_0000          +--------------------------------------------+
//                        | RAM, ends at low_ram_end <= 0xb000_0000    |
//   low_ram_end          +--------------------------------------------+
//                        | nothing                                    |
//   0xb000_0000          +--------------------------------------------+
//                        | ECAM, 256 MiB, of which bus 0 is in use    |
//   0xc000_0000          +--------------------------------------------+
//                        | 32-bit PCI window                          |
//   0xfec0_0000          +--------------------------------------------+
//                        | I/O APIC (0xfec0_0000), HPET place,        |
//                        | local APIC and MSI (0xfee0_0000)           |
//   0xfeff_c000          +--------------------------------------------+
//                        | KVM: identity map page, TSS (3 pages)      |
//   0xff00_0000          +--------------------------------------------+
//                        | firmware: pflash, reset vector             |
//   4 GiB                +--------------------------------------------+
//                        | RAM above the hole                         |
//   high_ram_end         +--------------------------------------------+
//                        | hot-plug range, 1 GiB aligned, sized by    |
//                        | max_memory                                 |
//   pci64_base           +--------------------------------------------+
//                        | 64-bit PCI window, 1 GiB aligned           |
//   pci64_end            +--------------------------------------------+
//
// Below 640 KiB a direct boot puts:
//
//   0x0500  GDT     0x0600  IDT (empty)      0x6000  hvm_start_info, memory map, modules (PVH)
//   0x7000  boot_params (bzImage)            0x8ff0  top of the stack (4 KiB)
//   0x9000  page tables: PML4, PDPT, 4 page directories    0x2_0000  command line

#ifndef VIREO_VMM_X86_LAYOUT_H_
#define VIREO_VMM_X86_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace vireo::x86 {

// Boot areas.
inline constexpr uint64_t kGdtAddress = 0x500;
inline constexpr uint64_t kIdtAddress = 0x600;
inline constexpr uint64_t kPvhStartInfoAddress = 0x6000;
inline constexpr uint64_t kBootParamsAddress = 0x7000;
inline constexpr uint64_t kBootStackTop = 0x8ff0;
inline constexpr uint64_t kPageTablesAddress = 0x9000;  // Up to 0xf000.
inline constexpr uint64_t kCommandLineAddress = 0x20000;
inline constexpr uint64_t kCommandLineAreaBytes = 0x10000;
inline constexpr uint64_t kLowRamEnd640K = 0x9fc00;
inline constexpr uint64_t kVgaWindowAddress = 0xa0000;
inline constexpr uint64_t kAcpiAreaAddress = 0xe0000;
inline constexpr uint64_t kAcpiAreaBytes = 0x20000;
inline constexpr uint64_t kKernelAreaAddress = 0x100000;  // RAM again from here on.

// The 32-bit hole.
inline constexpr uint64_t kLowRamLimit = 0xb0000000;
inline constexpr uint64_t kEcamAddress = 0xb0000000;
inline constexpr uint64_t kEcamBytes = 0x10000000;
inline constexpr uint64_t kPci32Address = 0xc0000000;
inline constexpr uint64_t kPci32End = 0xfec00000;
inline constexpr uint64_t kIoapicAddress = 0xfec00000;
inline constexpr uint64_t kLocalApicAddress = 0xfee00000;
inline constexpr uint64_t kKvmIdentityMapAddress = 0xfeffc000;
inline constexpr uint64_t kKvmTssAddress = 0xfeffd000;
inline constexpr uint64_t kFirmwareAddress = 0xff000000;
inline constexpr uint64_t k4GiB = uint64_t{1} << 32;

// PCI has one bus in a segment: every device is on the root. Guests are told so, since Linux reads
// 32 places of each bus that it could have, 16,000 exits for 255 of them.
inline constexpr uint8_t kLastPciBus = 0;

// Ports and interrupts that the ACPI tables and the devices agree on.
inline constexpr uint16_t kPciConfigAddressPort = 0xcf8;
inline constexpr uint16_t kPciConfigDataPort = 0xcfc;
inline constexpr uint16_t kResetPort = 0xcf9;
inline constexpr uint8_t kResetValue = 0x0e;  // Full reset, as an ICH9's RST_CNT takes it.
inline constexpr uint16_t kPmBasePort = 0x600;
inline constexpr uint16_t kPmControlPort = kPmBasePort + 4;
inline constexpr uint16_t kPmTimerPort = kPmBasePort + 8;
inline constexpr uint16_t kGpe0Port = kPmBasePort + 0x20;
inline constexpr uint8_t kGpe0Bytes = 16;
inline constexpr uint16_t kPmBlockBytes = 0x80;
// What switches ACPI on and off, for a guest that came by firmware; a direct boot finds it on.
inline constexpr uint16_t kApmPort = 0xb2;
inline constexpr uint8_t kAcpiEnableCommand = 2;
inline constexpr uint8_t kAcpiDisableCommand = 3;
inline constexpr uint8_t kSleepTypeS5 = 0;  // As OVMF, which knows a Q35, writes it to power off.
inline constexpr uint32_t kSciGsi = 9;
inline constexpr uint16_t kPvpanicPort = 0x505;
inline constexpr uint16_t kCom1Port = 0x3f8;
inline constexpr uint32_t kCom1Irq = 4;
inline constexpr uint16_t kRtcPort = 0x70;
inline constexpr uint32_t kRtcIrq = 8;
inline constexpr uint32_t kKeyboardIrq = 1;
inline constexpr uint32_t kMouseIrq = 12;
inline constexpr uint8_t kRtcCenturyRegister = 0x32;
inline constexpr uint32_t kIoapicPins = 24;
// INTx of the devices on bus 0: four pins of eight lines, none shared with ISA.
inline constexpr uint32_t kIntxFirstGsi = 16;
inline constexpr uint32_t kIntxLines = 8;
// `pin` is 0 for INTA# .. 3 for INTD#.
constexpr uint32_t IntxGsi(uint32_t slot, uint32_t pin) {
  return kIntxFirstGsi + ((slot + pin) & (kIntxLines - 1));
}

struct AddressRange {
  uint64_t base = 0;
  uint64_t size = 0;
  constexpr uint64_t end() const { return base + size; }
  friend bool operator==(const AddressRange&, const AddressRange&) = default;
};

// What depends on the VM's configuration. Never changes while the VM lives.
struct Layout {
  AddressRange low_ram;   // From 0, boot areas included.
  AddressRange high_ram;  // From 4 GiB; empty for small guests.
  AddressRange hotplug;   // Empty unless max_memory is larger than memory.
  AddressRange pci32;
  AddressRange pci64;

  // The RAM that exists at boot, as memory slots: one or two ranges.
  std::vector<AddressRange> Ram() const;
};

struct LayoutOptions {
  uint64_t memory_bytes = 0;
  uint64_t max_memory_bytes = 0;       // 0: the same as memory_bytes.
  uint32_t physical_address_bits = 0;  // What the guest's CPUID will say.
};

// INVALID_ARGUMENT when the memory is not a multiple of 4 KiB, is under 32 MiB, exceeds its
// maximum, or does not fit the processor's physical addresses.
absl::StatusOr<Layout> MakeLayout(const LayoutOptions& options);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_LAYOUT_H_
