#include "vmm/x86/load_kernel.h"

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "vmm/x86/kernel_file.h"
#include "vmm/x86/linux_boot.h"
#include "vmm/x86/pvh_boot.h"

namespace vireo::x86 {

absl::StatusOr<BootEntry> LoadKernel(const DirectBoot& boot) {
  RETURN_IF_ERROR(InputFileSize(boot.kernel).status());
  ASSIGN_OR_RETURN(const std::vector<uint8_t> head,
                   ReadInputFile(boot.kernel, 0, kBzImageHeadBytes));
  ASSIGN_OR_RETURN(const KernelKind kind, DetectKernelKind(head, boot.kernel.name));
  return kind == KernelKind::kBzImage ? LoadBzImage(boot) : LoadPvhElf(boot);
}

}  // namespace vireo::x86
