// The ACPI tables of machine "vireo-1": RSDP, XSDT, FADT (fixed hardware), FACS, DSDT, MADT, SRAT,
// MCFG.
//
// They are built as two blobs whose pointers are offsets, plus a list of what to add and which
// checksums to make once the blobs have their addresses. A direct boot applies the list itself
// (PlaceAcpiTables); firmware gets it through fw_cfg's table loader, which has the same three
// commands.
//
// ACPI 6.3 chapters 5 (tables) and 20 (AML); PCI Firmware Specification 3.2 (MCFG).

#ifndef VIREO_VMM_X86_ACPI_H_
#define VIREO_VMM_X86_ACPI_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory/guest_memory.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {

struct AcpiOptions {
  Layout layout;
  // One for each CPU that can ever exist; the first `enabled_cpus` of them are there at boot.
  std::vector<uint32_t> apic_ids;
  uint32_t enabled_cpus = 1;
  uint64_t ecam_base = kEcamAddress;
  bool i8042 = true;
  bool com1 = true;
  bool pvpanic = true;
};

struct AcpiBlob {
  std::string name;  // As the firmware's loader names it.
  std::vector<uint8_t> bytes;
  uint32_t alignment = 16;
  bool in_f_segment = false;  // Must be found by scanning below 1 MiB (the RSDP).
};

// The field of `size` bytes at `offset` of blob `blob` holds an offset into blob `target`: add its
// address.
struct AcpiPointerFixup {
  uint32_t blob;
  uint32_t offset;
  uint8_t size;
  uint32_t target;
};

// The byte at `offset` makes the bytes [start, start + length) of `blob` sum to zero. After all
// pointers.
struct AcpiChecksumFixup {
  uint32_t blob;
  uint32_t offset;
  uint32_t start;
  uint32_t length;
};

struct AcpiTables {
  std::vector<AcpiBlob> blobs;
  std::vector<AcpiPointerFixup> pointers;
  std::vector<AcpiChecksumFixup> checksums;
};

AcpiTables BuildAcpiTables(const AcpiOptions& options);

struct PlacedBlob {
  uint64_t address = 0;
  std::vector<uint8_t> bytes;  // Fixed up.
};

// Lays the blobs out in [area.base, area.end()), the RSDP first, and applies the fix-ups.
// RESOURCE_EXHAUSTED when the area is too small.
absl::StatusOr<std::vector<PlacedBlob>> PlaceAcpiTables(const AcpiTables& tables,
                                                        AddressRange area);

// BuildAcpiTables, PlaceAcpiTables in the area that layout.h draws, and the bytes written to guest
// memory. Returns the address of the RSDP.
absl::StatusOr<uint64_t> WriteAcpiTables(const AcpiOptions& options, GuestMemory& memory);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_ACPI_H_
