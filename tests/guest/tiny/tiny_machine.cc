#include "tests/guest/tiny/tiny_machine.h"

#include <utility>
#include <vector>

#include "base/opener.h"
#include "base/status.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/layout.h"

#define VIREO_TINY_GUEST(function, symbol)                                            \
  extern "C" const uint8_t tiny_##symbol[];                                           \
  extern "C" const uint8_t tiny_##symbol##_end[];                                     \
  std::span<const uint8_t> vireo::tiny::function() {                                  \
    return {tiny_##symbol, static_cast<size_t>(tiny_##symbol##_end - tiny_##symbol)}; \
  }

VIREO_TINY_GUEST(Ports, ports)
VIREO_TINY_GUEST(Doorbells, doorbells)
VIREO_TINY_GUEST(Interrupts, interrupts)
VIREO_TINY_GUEST(Writer, writer)
VIREO_TINY_GUEST(Doubler, doubler)
VIREO_TINY_GUEST(Spinner, spinner)
VIREO_TINY_GUEST(LegacyDisk, legacy_disk)
VIREO_TINY_GUEST(LongMode, long_mode)

extern "C" const uint8_t tiny_on_isa[];
extern "C" const uint8_t tiny_on_message[];
extern "C" const uint8_t tiny_on_level[];

namespace vireo::tiny {

uint64_t OnIsa() { return static_cast<uint64_t>(tiny_on_isa - tiny_interrupts); }
uint64_t OnMessage() { return static_cast<uint64_t>(tiny_on_message - tiny_interrupts); }
uint64_t OnLevel() { return static_cast<uint64_t>(tiny_on_level - tiny_interrupts); }

absl::StatusOr<std::unique_ptr<TinyMachine>> TinyMachine::Create(std::span<const uint8_t> program,
                                                                 x86::BootEntry::Mode mode,
                                                                 uint64_t argument) {
  auto machine = std::make_unique<TinyMachine>();
  DirectOpener opener;
  ASSIGN_OR_RETURN(kvm::System system, kvm::System::Open(opener));
  machine->system = std::make_unique<kvm::System>(std::move(system));
  ASSIGN_OR_RETURN(machine->memory, GuestMemory::Create({{GuestAddress(0), kRamBytes}},
                                                        GuestMemory::Backing::kPrivate));
  ASSIGN_OR_RETURN(
      machine->vm,
      kvm::Vm::Create(*machine->system, {.tss_address = x86::kKvmTssAddress,
                                         .identity_map_address = x86::kKvmIdentityMapAddress}));
  RETURN_IF_ERROR(machine->vm->SetMemslot(
      {.id = kRamSlot, .guest_base = GuestAddress(0), .host = machine->memory->regions()[0].host}));
  ASSIGN_OR_RETURN(machine->vcpu, machine->vm->CreateVcpu(0));

  ASSIGN_OR_RETURN(const std::vector<x86::CpuidEntry> supported, machine->system->SupportedCpuid());
  ASSIGN_OR_RETURN(const x86::CpuidTemplate cpuid,
                   x86::CpuidTemplate::Build(
                       {.supported = supported,
                        .model = {},
                        .topology = x86::DefaultTopology(1),
                        .tsc_deadline_timer = machine->system->features().tsc_deadline_timer}));
  RETURN_IF_ERROR(machine->vcpu->SetCpuid(cpuid.For(0)));
  RETURN_IF_ERROR(machine->vcpu->SetMsrs(x86::BootMsrs()).status());
  RETURN_IF_ERROR(machine->vcpu->WireLocalInterrupts());

  const x86::BootEntry entry = {.mode = mode, .rip = kGuestAddress, .argument = argument};
  RETURN_IF_ERROR(machine->memory->Write(GuestAddress(kGuestAddress), program));
  RETURN_IF_ERROR(x86::WriteBootTables(entry, *machine->memory));
  ASSIGN_OR_RETURN(const x86::SpecialRegisters reset, machine->vcpu->GetSpecialRegisters());
  x86::BootRegisters registers = x86::MakeBootRegisters(entry, reset);
  registers.special.idt = {.base = kIdtAddress, .limit = 256 * 8 - 1};
  RETURN_IF_ERROR(machine->vcpu->SetSpecialRegisters(registers.special));
  RETURN_IF_ERROR(machine->vcpu->SetRegisters(registers.registers));
  return machine;
}

absl::Status TinyMachine::SetHandler(uint8_t vector, uint64_t address) {
  // Intel SDM vol. 3A, "IDT Descriptors": a present 32-bit interrupt gate through the boot code
  // segment.
  constexpr uint64_t kSelector = 0x10 << 16;
  constexpr uint64_t kPresentInterruptGate = 0x8e00;
  const uint64_t gate =
      (address & 0xffff) | kSelector | (kPresentInterruptGate | (address & 0xffff0000)) << 32;
  return memory->WriteObject(GuestAddress(kIdtAddress + 8 * vector), gate);
}

}  // namespace vireo::tiny
