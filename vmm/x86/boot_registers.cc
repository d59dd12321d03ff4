#include "vmm/x86/boot_registers.h"

#include <array>
#include <cstring>
#include <span>

#include "base/endian.h"
#include "base/status.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

// Intel SDM vol. 3A, "Control Registers" and "Extended Feature Enable Register".
constexpr uint64_t kCr0ProtectionEnable = 1 << 0;
constexpr uint64_t kCr0ExtensionType = 1 << 4;
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4PhysicalAddressExtension = 1 << 5;
constexpr uint64_t kEferLongModeEnable = 1 << 8;
constexpr uint64_t kEferLongModeActive = 1 << 10;

// Page-table entries.
constexpr uint64_t kPresent = 1 << 0;
constexpr uint64_t kWritable = 1 << 1;
constexpr uint64_t kLargePage = 1 << 7;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kEntriesPerTable = 512;
constexpr uint64_t kDirectories = 4;  // 1 GiB each, in 2 MiB pages.

// Intel SDM vol. 4.
constexpr uint32_t kMiscEnable = 0x1a0;
constexpr uint64_t kMiscEnableFastStrings = 1 << 0;

// The selectors of the Linux boot protocol: __BOOT_CS is 0x10, __BOOT_DS 0x18.
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTssSelector = 0x20;

constexpr uint8_t kTypeCode = 0xb;   // Execute, read, accessed.
constexpr uint8_t kTypeData = 0x3;   // Read, write, accessed.
constexpr uint8_t kTypeTss32 = 0xb;  // Busy; in long mode the same number is the 64-bit TSS.

Segment FlatSegment(uint16_t selector, uint8_t type, bool long_mode) {
  const bool code = type == kTypeCode;
  return {.base = 0,
          .limit = 0xffffffff,
          .selector = selector,
          .type = type,
          .present = 1,
          .db = static_cast<uint8_t>(code && long_mode ? 0 : 1),
          .s = 1,
          .l = static_cast<uint8_t>(code && long_mode ? 1 : 0),
          .g = 1};
}

Segment TaskSegment() {
  return {.base = 0, .limit = 0x67, .selector = kTssSelector, .type = kTypeTss32, .present = 1};
}

// Intel SDM vol. 3A, "Segment Descriptors".
uint64_t Descriptor(const Segment& segment) {
  const uint64_t limit = segment.g ? segment.limit >> 12 : segment.limit;
  const uint64_t access =
      segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present << 7);
  const uint64_t flags = segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3);
  return (limit & 0xffff) | ((segment.base & 0xffffff) << 16) | (access << 40) |
         (((limit >> 16) & 0xf) << 48) | (flags << 52) | (((segment.base >> 24) & 0xff) << 56);
}

template <size_t kCount>
absl::Status WriteWords(GuestMemory& memory, uint64_t address,
                        const std::array<Le64, kCount>& words) {
  return memory.Write(GuestAddress(address),
                      {reinterpret_cast<const uint8_t*>(words.data()), sizeof(words)});
}

// A task segment descriptor in long mode takes two slots, so the table has six.
constexpr uint16_t kGdtBytes = 6 * 8;

absl::Status WriteGdt(bool long_mode, GuestMemory& memory) {
  const std::array<Le64, kGdtBytes / 8> gdt = {
      uint64_t{0},
      uint64_t{0},
      Descriptor(FlatSegment(kCodeSelector, kTypeCode, long_mode)),
      Descriptor(FlatSegment(kDataSelector, kTypeData, long_mode)),
      Descriptor(TaskSegment()),
      uint64_t{0},
  };
  return WriteWords(memory, kGdtAddress, gdt);
}

// PML4 -> PDPT -> 4 directories -> 2 MiB pages: every processor has those.
absl::Status WritePageTables(GuestMemory& memory) {
  constexpr uint64_t kPdpt = kPageTablesAddress + kPageBytes;
  constexpr uint64_t kFirstDirectory = kPdpt + kPageBytes;
  std::array<Le64, kEntriesPerTable> table = {};
  table[0] = kPdpt | kPresent | kWritable;
  RETURN_IF_ERROR(WriteWords(memory, kPageTablesAddress, table));
  table = {};
  for (uint64_t i = 0; i < kDirectories; ++i) {
    table[i] = (kFirstDirectory + i * kPageBytes) | kPresent | kWritable;
  }
  RETURN_IF_ERROR(WriteWords(memory, kPdpt, table));
  for (uint64_t directory = 0; directory < kDirectories; ++directory) {
    for (uint64_t i = 0; i < kEntriesPerTable; ++i) {
      const uint64_t page = (directory * kEntriesPerTable + i) << 21;
      table[i] = page | kPresent | kWritable | kLargePage;
    }
    RETURN_IF_ERROR(WriteWords(memory, kFirstDirectory + directory * kPageBytes, table));
  }
  return absl::OkStatus();
}

}  // namespace

BootRegisters MakeBootRegisters(const BootEntry& entry, const SpecialRegisters& reset) {
  const bool long_mode = entry.mode == BootEntry::Mode::kLong64;
  BootRegisters boot;
  boot.registers.rip = entry.rip;
  boot.registers.rsp = kBootStackTop;
  boot.registers.rbp = kBootStackTop;
  if (long_mode) {
    boot.registers.rsi = entry.argument;
  } else {
    boot.registers.rbx = entry.argument;
  }

  SpecialRegisters& special = boot.special;
  special = reset;
  special.cs = FlatSegment(kCodeSelector, kTypeCode, long_mode);
  special.ds = FlatSegment(kDataSelector, kTypeData, long_mode);
  special.es = special.fs = special.gs = special.ss = special.ds;
  special.tr = TaskSegment();
  special.ldt = {.unusable = 1};
  special.gdt = {kGdtAddress, kGdtBytes - 1};
  special.idt = {kIdtAddress, 0};  // Any exception is a triple fault, as the protocols have it.
  special.cr2 = 0;
  special.cr8 = 0;
  special.cr0 = kCr0ProtectionEnable | kCr0ExtensionType;
  special.cr3 = 0;
  special.cr4 = 0;
  special.efer = 0;
  if (long_mode) {
    special.cr0 |= kCr0Paging;
    special.cr3 = kPageTablesAddress;
    special.cr4 = kCr4PhysicalAddressExtension;
    special.efer = kEferLongModeEnable | kEferLongModeActive;
  }
  return boot;
}

absl::Status WriteBootTables(const BootEntry& entry, GuestMemory& memory) {
  const bool long_mode = entry.mode == BootEntry::Mode::kLong64;
  RETURN_IF_ERROR(WriteGdt(long_mode, memory));
  return long_mode ? WritePageTables(memory) : absl::OkStatus();
}

std::vector<MsrEntry> BootMsrs() {
  constexpr uint32_t kMtrrDefaultType = 0x2ff;
  constexpr uint64_t kMtrrEnableWriteBack = (1 << 11) | 6;
  constexpr uint32_t kPat = 0x277;
  constexpr uint64_t kPatAfterReset = 0x0007040600070406;
  return {
      {kMiscEnable, kMiscEnableFastStrings},
      {kMtrrDefaultType, kMtrrEnableWriteBack},
      {kPat, kPatAfterReset},
  };
}

std::vector<MsrEntry> ResetMsrs() { return {{kMiscEnable, kMiscEnableFastStrings}}; }

}  // namespace vireo::x86
