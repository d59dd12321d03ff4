// A Linux kernel that firmware starts: its parts, and where a BIOS puts them for the kernel's
// 16-bit entry point (Linux Documentation/arch/x86/boot.rst, "Memory Layout" and "Loading The Rest
// of The Kernel"). UEFI firmware puts the parts where it likes.

#ifndef VIREO_VMM_X86_FIRMWARE_KERNEL_H_
#define VIREO_VMM_X86_FIRMWARE_KERNEL_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {

struct FirmwareKernel {
  // The real-mode part, told of the addresses below.
  std::vector<uint8_t> setup;
  uint64_t payload_offset = 0;  // Of the protected-mode part in the file, to the file's end.
  uint64_t payload_bytes = 0;
  std::vector<uint8_t> command_line;  // With its closing NUL.
  uint64_t initrd_bytes = 0;          // 0: there is none.

  // Guest-physical, all below 4 GiB.
  uint32_t setup_address = 0;
  uint32_t payload_address = 0;
  uint32_t command_line_address = 0;
  uint32_t initrd_address = 0;
};

// INVALID_ARGUMENT for a bad kernel or one that is no bzImage, a command line too long, an initrd
// that is empty or does not fit below what a BIOS keeps at the end of low memory; UNIMPLEMENTED as
// ParseBzImage().
absl::StatusOr<FirmwareKernel> PrepareFirmwareKernel(const Layout& layout, InputFile kernel,
                                                     std::optional<InputFile> initrd,
                                                     std::string_view command_line);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_FIRMWARE_KERNEL_H_
