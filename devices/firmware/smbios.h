// SMBIOS: what a machine says of itself, for inventories and for guests that look for whose cloud
// they are in (DMTF DSP0134 2.8, "System Management BIOS Reference Specification").
//
// The structures and their entry point are what firmware finds in fw_cfg's "etc/smbios/..." files;
// it places them, and completes address and checksums of the entry point.

#ifndef VIREO_DEVICES_FIRMWARE_SMBIOS_H_
#define VIREO_DEVICES_FIRMWARE_SMBIOS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace vireo {

struct SmbiosMemory {
  uint64_t base = 0;
  uint64_t size = 0;  // Bytes; a multiple of 1 KiB.
};

struct SmbiosOptions {
  std::array<uint8_t, 16> uuid = {};  // In the order in which it is written.
  std::string vendor;                 // An empty text is left out.
  std::string product;
  std::string version;
  std::string serial;
  std::string asset_tag;
  uint32_t cpus = 1;
  uint32_t cpuid_signature = 0;      // EAX of CPUID leaf 1,
  uint32_t cpuid_features = 0;       // and EDX.
  uint64_t rom_bytes = 0;            // Of the firmware.
  std::vector<SmbiosMemory> memory;  // What there is, by address.
};

struct SmbiosTables {
  std::vector<uint8_t> entry_point;  // 31 bytes; its checksums hold for a table address of 0.
  std::vector<uint8_t> structures;   // Types 0 to 4, 16, 17, 19, 32 and 127.
};

SmbiosTables BuildSmbios(const SmbiosOptions& options);

}  // namespace vireo

#endif  // VIREO_DEVICES_FIRMWARE_SMBIOS_H_
