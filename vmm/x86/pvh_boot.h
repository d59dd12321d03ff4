// Loading an uncompressed ELF64 kernel by its PVH entry point: a note named "Xen" of type
// XEN_ELFNOTE_PHYS32_ENTRY (18) holds the physical address to enter in 32-bit mode with EBX
// pointing to hvm_start_info. Xen public headers elfnote.h and arch-x86/hvm/start_info.h.

#ifndef VIREO_VMM_X86_PVH_BOOT_H_
#define VIREO_VMM_X86_PVH_BOOT_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/x86/boot_registers.h"
#include "vmm/x86/direct_boot.h"

namespace vireo::x86 {

struct ElfSegment {
  uint64_t file_offset = 0;
  uint64_t file_bytes = 0;
  uint64_t physical_address = 0;
  uint64_t memory_bytes = 0;  // At least file_bytes; the rest is zero.
};

struct ElfNotes {
  uint64_t file_offset = 0;
  uint64_t bytes = 0;
  uint64_t alignment = 4;  // Of the names and descriptors in it: 4 or 8.
};

// The program headers of an ELF64 file, checked against its size.
struct ElfKernel {
  std::vector<ElfSegment> segments;
  std::vector<ElfNotes> notes;
};

inline constexpr uint64_t kElfHeadBytes = 0x1000;

// INVALID_ARGUMENT when it is not an x86-64 executable or contradicts itself. `head` as for
// ParseBzImage; the program headers must lie within it.
absl::StatusOr<ElfKernel> ParseElfKernel(std::span<const uint8_t> head, uint64_t file_bytes,
                                         std::string_view name);

// The PVH entry in one note segment; nullopt when there is none. INVALID_ARGUMENT for broken notes.
// `alignment` is 4 or 8.
absl::StatusOr<std::optional<uint32_t>> FindPvhEntry(std::span<const uint8_t> notes,
                                                     uint64_t alignment, std::string_view name);

// As LoadBzImage.
absl::StatusOr<BootEntry> LoadPvhElf(const DirectBoot& boot);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_PVH_BOOT_H_
