// The x86 processor's state in plain structs: the words that vmm/kvm (which hands them to the
// kernel) and vmm/x86 (which decides their values, without KVM) share. Values only, no behaviour.

#ifndef VIREO_BASE_X86_CPU_TYPES_H_
#define VIREO_BASE_X86_CPU_TYPES_H_

#include <cstdint>

namespace vireo::x86 {

// One answer of the CPUID instruction.
struct CpuidEntry {
  uint32_t function = 0;   // EAX before.
  uint32_t index = 0;      // ECX before; means something only if `has_index`.
  bool has_index = false;  // The leaf has subleaves.
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;

  friend bool operator==(const CpuidEntry&, const CpuidEntry&) = default;
};

struct MsrEntry {
  uint32_t index = 0;
  uint64_t value = 0;

  friend bool operator==(const MsrEntry&, const MsrEntry&) = default;
};

// A segment register with its hidden part (Intel SDM vol. 3A, "Segment Descriptors").
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;  // In bytes, after granularity has been applied.
  uint16_t selector = 0;
  uint8_t type = 0;
  uint8_t present = 0;
  uint8_t dpl = 0;
  uint8_t db = 0;  // Default operand size: 1 means 32 bits.
  uint8_t s = 0;   // 1: code or data, 0: system.
  uint8_t l = 0;   // 64-bit code.
  uint8_t g = 0;   // Granularity, as it stands in the descriptor.
  uint8_t avl = 0;
  uint8_t unusable = 0;

  friend bool operator==(const Segment&, const Segment&) = default;
};

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;

  friend bool operator==(const DescriptorTable&, const DescriptorTable&) = default;
};

struct Registers {
  uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0;
  uint64_t rsi = 0, rdi = 0, rsp = 0, rbp = 0;
  uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0;
  uint64_t r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  uint64_t rip = 0;
  uint64_t rflags = 2;  // Bit 1 always reads as one.

  friend bool operator==(const Registers&, const Registers&) = default;
};

struct SpecialRegisters {
  Segment cs, ds, es, fs, gs, ss, tr, ldt;
  DescriptorTable gdt, idt;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
  uint64_t efer = 0;
  uint64_t apic_base = 0;

  friend bool operator==(const SpecialRegisters&, const SpecialRegisters&) = default;
};

}  // namespace vireo::x86

#endif  // VIREO_BASE_X86_CPU_TYPES_H_
