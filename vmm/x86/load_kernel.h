// One call for a kernel of either kind.

#ifndef VIREO_VMM_X86_LOAD_KERNEL_H_
#define VIREO_VMM_X86_LOAD_KERNEL_H_

#include "absl/status/statusor.h"
#include "vmm/x86/boot_registers.h"
#include "vmm/x86/direct_boot.h"

namespace vireo::x86 {

// LoadBzImage or LoadPvhElf, as the file's first bytes say. Everything that both can answer, and
// INVALID_ARGUMENT "NAME: not a bzImage or PVH ELF kernel: ..." for any other file.
absl::StatusOr<BootEntry> LoadKernel(const DirectBoot& boot);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_LOAD_KERNEL_H_
