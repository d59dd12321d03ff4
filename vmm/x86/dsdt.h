// The byte code of the DSDT: what the guest's ACPI interpreter sees of the machine.

#ifndef VIREO_VMM_X86_DSDT_H_
#define VIREO_VMM_X86_DSDT_H_

#include <cstdint>
#include <vector>

#include "vmm/x86/acpi.h"

namespace vireo::x86 {

// Without the table header.
std::vector<uint8_t> BuildDsdtBody(const AcpiOptions& options);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_DSDT_H_
