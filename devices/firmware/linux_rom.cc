#include "devices/firmware/linux_rom.h"

#include <cstddef>
#include <numeric>
#include <span>

// Of linux_rom.S.
extern "C" {
extern const uint8_t linux_rom_begin[];
extern const uint8_t linux_rom_checksum[];
extern const uint8_t linux_rom_header[];
extern const uint8_t linux_rom_header_checksum[];
extern const uint8_t linux_rom_header_end[];
extern const uint8_t linux_rom_end[];
}

namespace vireo {
namespace {

// What makes the sum of `bytes` 0, as the byte of them that is 0 now.
uint8_t Complement(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0));
}

}  // namespace

std::vector<uint8_t> LinuxRom() {
  std::vector<uint8_t> rom(linux_rom_begin, linux_rom_end);
  const std::span<uint8_t> header =
      std::span(rom).subspan(static_cast<size_t>(linux_rom_header - linux_rom_begin),
                             static_cast<size_t>(linux_rom_header_end - linux_rom_header));
  header[static_cast<size_t>(linux_rom_header_checksum - linux_rom_header)] = Complement(header);
  rom[static_cast<size_t>(linux_rom_checksum - linux_rom_begin)] = Complement(rom);
  return rom;
}

}  // namespace vireo
