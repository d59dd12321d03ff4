// Loading a Linux bzImage by its 64-bit entry point.
//
// Linux Documentation/arch/x86/boot.rst ("The Linux/x86 Boot Protocol") and zero-page.rst. The
// kernel is put at its preferred address when that is free, its init_size is kept free behind it,
// and the initrd goes as high as the kernel can reach.

#ifndef VIREO_VMM_X86_LINUX_BOOT_H_
#define VIREO_VMM_X86_LINUX_BOOT_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/x86/boot_registers.h"
#include "vmm/x86/direct_boot.h"

namespace vireo::x86 {

// What a bzImage says about itself, checked.
struct BzImage {
  std::vector<uint8_t> setup_header;  // From 0x1f1 to its end, as boot_params wants it.
  uint16_t version = 0;               // At least 0x20c.
  uint64_t payload_offset = 0;        // Of the protected-mode part in the file.
  uint64_t payload_bytes = 0;
  uint64_t preferred_address = 0;
  uint64_t alignment = 0;     // Power of two; 0 when the kernel cannot be moved.
  uint64_t init_size = 0;     // Memory it needs from where it is loaded.
  uint64_t initrd_limit = 0;  // Last address an initrd may occupy, plus one.
  bool initrd_above_4g = false;
  uint32_t command_line_limit = 0;  // Bytes, without the closing NUL.
};

inline constexpr uint64_t kBzImageHeadBytes = 0x1000;

// `head` holds the first kBzImageHeadBytes of the file, or all of a shorter one; `file_bytes` is
// its whole size. Never trusts a field. INVALID_ARGUMENT saying what is wrong; UNIMPLEMENTED for a
// kernel without a 64-bit entry or of a protocol before 2.12.
absl::StatusOr<BzImage> ParseBzImage(std::span<const uint8_t> head, uint64_t file_bytes,
                                     std::string_view name);

// Loads kernel, initrd, command line and boot_params. INVALID_ARGUMENT for a bad kernel, an initrd
// that does not fit (says how many bytes it needs and how many there are), or a command line too
// long.
absl::StatusOr<BootEntry> LoadBzImage(const DirectBoot& boot);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_LINUX_BOOT_H_
