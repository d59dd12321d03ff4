// What booting a kernel without firmware takes, whichever kind of kernel it is, and the steps that
// both kinds share.

#ifndef VIREO_VMM_X86_DIRECT_BOOT_H_
#define VIREO_VMM_X86_DIRECT_BOOT_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory/guest_memory.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {

struct DirectBoot {
  GuestMemory& memory;
  const Layout& layout;
  InputFile kernel;
  std::optional<InputFile> initrd;
  std::string_view command_line;
  uint64_t rsdp = 0;  // Guest address of the ACPI RSDP.
};

struct PlacedInitrd {
  uint64_t address = 0;
  uint64_t bytes = 0;
};

enum class InitrdReach { kBelowCeiling, kAllMemory };

// Where an initrd lies as high as it can: in [kernel_end, ceiling) of the RAM below the hole, or
// when it does not fit there and the kernel reaches it, in the RAM above 4 GiB. INVALID_ARGUMENT
// when it is empty or does not fit: says how many bytes it needs and how many there are.
absl::StatusOr<PlacedInitrd> PlaceInitrd(const InputFile& initrd, const Layout& layout,
                                         uint64_t kernel_end, uint64_t ceiling, InitrdReach reach);

// Places boot.initrd so, and loads it.
absl::StatusOr<PlacedInitrd> LoadInitrd(const DirectBoot& boot, uint64_t kernel_end,
                                        uint64_t ceiling, InitrdReach reach);

// With its closing NUL, at kCommandLineAddress.
absl::Status WriteCommandLine(std::string_view command_line, GuestMemory& memory);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_DIRECT_BOOT_H_
