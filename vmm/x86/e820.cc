#include "vmm/x86/e820.h"

#include "base/endian.h"

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

std::vector<E820Entry> BuildFirmwareE820(const Layout& layout) {
  std::vector<E820Entry> map = {
      {layout.low_ram.base, layout.low_ram.size, E820Type::kRam},
      {kKvmIdentityMapAddress, kFirmwareAddress - kKvmIdentityMapAddress, E820Type::kReserved},
  };
  if (layout.high_ram.size != 0) {
    map.push_back({layout.high_ram.base, layout.high_ram.size, E820Type::kRam});
  }
  return map;
}

std::vector<uint8_t> EncodeE820(const std::vector<E820Entry>& map) {
  struct Encoded {
    Le64 base, size;
    Le32 type;
  };
  static_assert(sizeof(Encoded) == 20);
  std::vector<uint8_t> bytes;
  for (const E820Entry& entry : map) {
    const Encoded encoded = {
        .base = entry.base, .size = entry.size, .type = static_cast<uint32_t>(entry.type)};
    const auto* const data = reinterpret_cast<const uint8_t*>(&encoded);
    bytes.insert(bytes.end(), data, data + sizeof(encoded));
  }
  return bytes;
}

}  // namespace vireo::x86
