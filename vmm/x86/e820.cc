#include "vmm/x86/e820.h"

namespace vireo::x86 {

std::vector<E820Entry> BuildE820(const Layout& layout) {
  std::vector<E820Entry> map = {
      {0, kLowRamEnd640K, E820Type::kRam},
      // The EBDA, and above it the tables that firmware or a direct boot leaves below 1 MiB. They
      // are not marked as ACPI-reclaimable: nobody shall reuse 128 KiB of what a PC has as ROM.
      {kLowRamEnd640K, 0xa0000 - kLowRamEnd640K, E820Type::kReserved},
      {kAcpiAreaAddress, kAcpiAreaBytes, E820Type::kReserved},
      {kKernelAreaAddress, layout.low_ram.end() - kKernelAreaAddress, E820Type::kRam},
      // Linux uses ECAM only where the memory map (or ACPI) reserves it.
      {kEcamAddress, kEcamBytes, E820Type::kReserved},
      {kKvmIdentityMapAddress, k4GiB - kKvmIdentityMapAddress, E820Type::kReserved},
  };
  if (layout.high_ram.size != 0) {
    map.push_back({layout.high_ram.base, layout.high_ram.size, E820Type::kRam});
  }
  return map;
}

}  // namespace vireo::x86
