// The option ROM with which a BIOS starts a kernel that fw_cfg offers (linux_rom.S). UEFI firmware
// knows those items itself.

#ifndef VIREO_DEVICES_FIRMWARE_LINUX_ROM_H_
#define VIREO_DEVICES_FIRMWARE_LINUX_ROM_H_

#include <cstdint>
#include <vector>

namespace vireo {

// The file of fw_cfg in which SeaBIOS looks for it; "/rom@" before that is its place in the boot
// order.
inline constexpr char kLinuxRomFile[] = "genroms/vireo-linux.bin";

// Ready to run: a multiple of 512 bytes, the sum of all of which is 0.
std::vector<uint8_t> LinuxRom();

}  // namespace vireo

#endif  // VIREO_DEVICES_FIRMWARE_LINUX_ROM_H_
