// The least machine that runs a tiny guest: one VM, 4 MiB of RAM, one vCPU.

#ifndef VIREO_TESTS_GUEST_TINY_TINY_MACHINE_H_
#define VIREO_TESTS_GUEST_TINY_TINY_MACHINE_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory/guest_memory.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"
#include "vmm/x86/boot_registers.h"

namespace vireo::tiny {

inline constexpr uint64_t kGuestAddress = 0x100000;
inline constexpr uint64_t kIdtAddress = 0x3000;
inline constexpr uint64_t kRamBytes = 0x400000;
inline constexpr uint32_t kRamSlot = 0;

// The programs of guests.S.
std::span<const uint8_t> Ports();
std::span<const uint8_t> Doorbells();
std::span<const uint8_t> Interrupts();
std::span<const uint8_t> Writer();
std::span<const uint8_t> Doubler();
std::span<const uint8_t> Spinner();
std::span<const uint8_t> LegacyDisk();
std::span<const uint8_t> LongMode();

// Offsets of handlers within Interrupts().
uint64_t OnIsa();
uint64_t OnMessage();
uint64_t OnLevel();

struct TinyMachine {
  static absl::StatusOr<std::unique_ptr<TinyMachine>> Create(
      std::span<const uint8_t> program, x86::BootEntry::Mode mode = x86::BootEntry::Mode::kPvh32,
      uint64_t argument = 0);

  // An interrupt gate of the 32-bit IDT at kIdtAddress.
  absl::Status SetHandler(uint8_t vector, uint64_t address);

  std::unique_ptr<kvm::System> system;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<kvm::Vm> vm;
  std::unique_ptr<kvm::Vcpu> vcpu;
};

}  // namespace vireo::tiny

#endif  // VIREO_TESTS_GUEST_TINY_TINY_MACHINE_H_
