// The ACPI tables as firmware gets them: each blob a file of fw_cfg, and besides them a script that
// says where the firmware shall put the blobs and how to complete them (QEMU, "linker/loader"; the
// file "etc/table-loader"). It is the list of fix-ups that a direct boot applies itself.
#ifndef VIREO_VMM_X86_TABLE_LOADER_H_
#define VIREO_VMM_X86_TABLE_LOADER_H_

#include <cstdint>
#include <vector>

#include "vmm/x86/acpi.h"

namespace vireo::x86 {

inline constexpr char kTableLoaderFile[] = "etc/table-loader";

// Blobs first, then pointers, then checksums, in the order of `tables`.
std::vector<uint8_t> BuildTableLoader(const AcpiTables& tables);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_TABLE_LOADER_H_
