// The memory map a PC hands to its operating system: "E820", after the BIOS call.

#ifndef VIREO_VMM_X86_E820_H_
#define VIREO_VMM_X86_E820_H_

#include <cstdint>
#include <vector>

#include "vmm/x86/layout.h"

namespace vireo::x86 {

enum class E820Type : uint32_t { kRam = 1, kReserved = 2, kAcpi = 3, kAcpiNvs = 4 };

struct E820Entry {
  uint64_t base = 0;
  uint64_t size = 0;
  E820Type type = E820Type::kReserved;

  friend bool operator==(const E820Entry&, const E820Entry&) = default;
};

// Sorted, without overlap. The hot-plug range is not in it: SRAT tells of that.
std::vector<E820Entry> BuildE820(const Layout& layout);

// What firmware is told, to make the map of its own: RAM as it is there, and what KVM has taken.
std::vector<E820Entry> BuildFirmwareE820(const Layout& layout);

// As fw_cfg's "etc/e820" has it: base and size in 64 bits, type in 32, little-endian.
std::vector<uint8_t> EncodeE820(const std::vector<E820Entry>& map);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_E820_H_
