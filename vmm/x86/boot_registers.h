// The state in which a boot processor enters a kernel directly, without firmware: registers, GDT,
// page tables and the MSRs that firmware would have set.
//
// Linux x86 boot protocol, "64-bit Boot Protocol"; Xen PVH, "Direct HVM boot protocol".

#ifndef VIREO_VMM_X86_BOOT_REGISTERS_H_
#define VIREO_VMM_X86_BOOT_REGISTERS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/memory/guest_memory.h"
#include "base/x86/cpu_types.h"

namespace vireo::x86 {

// Where and how the boot processor starts.
struct BootEntry {
  enum class Mode {
    kLong64,  // Paging on, 4 GiB mapped one to one, RSI = `argument`.
    kPvh32,   // Protected mode, paging off, flat segments, EBX = `argument`.
  };
  Mode mode = Mode::kLong64;
  uint64_t rip = 0;
  uint64_t argument = 0;  // boot_params or hvm_start_info.

  friend bool operator==(const BootEntry&, const BootEntry&) = default;
};

struct BootRegisters {
  Registers registers;
  SpecialRegisters special;
};

// `reset` is what KVM gave the vCPU: APIC base and what else is not ours to choose is kept.
BootRegisters MakeBootRegisters(const BootEntry& entry, const SpecialRegisters& reset);

// Writes GDT and (for kLong64) page tables where layout.h draws them. OUT_OF_RANGE when RAM is too
// small.
absl::Status WriteBootTables(const BootEntry& entry, GuestMemory& memory);

// What firmware sets on every processor: MTRRs on with write-back as the default, fast strings, PAT
// as after reset. KVM may refuse some of them: not fatal.
std::vector<MsrEntry> BootMsrs();

// What a processor has at reset that KVM leaves to us: all else is for firmware to set.
std::vector<MsrEntry> ResetMsrs();

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_BOOT_REGISTERS_H_
