// One vCPU of KVM. Owned by its thread: KVM wants every ioctl of a vCPU, KVM_RUN above all, from
// one thread at a time. RequestExit() alone may be called from any thread.
//
// How to stop a vCPU thread (no signal is ever lost, none is waited for):
//
//     any thread                          vCPU thread
//     ----------                          -----------
//     set what is wanted                  loop:
//     vcpu.RequestExit()                    look at what is wanted; then vcpu.ClearExitRequest(),
//     pthread_kill(thread, KickSignal())      look once more (a request in between)
//                                           exit = vcpu.Run()
//
// Before KVM_RUN the flag makes it return at once; inside it the signal does. The handler is empty.

#ifndef VIREO_VMM_KVM_VCPU_H_
#define VIREO_VMM_KVM_VCPU_H_

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/state.h"
#include "base/unique_fd.h"
#include "base/x86/cpu_types.h"

struct kvm_run;

namespace vireo::kvm {

class System;

// `count` accesses of `size` bytes at one port, string instructions included; `data` has size *
// count bytes in the vCPU's shared page, valid until the next Run(). For `in` the device fills it.
struct ExitPio {
  uint16_t port;
  uint8_t size;
  bool in;
  uint32_t count;
  std::span<uint8_t> data;
};
// One access of 1 to 8 bytes. For a read the device fills `data`.
struct ExitMmio {
  uint64_t address;
  bool is_write;
  std::span<uint8_t> data;
};
struct ExitHlt {};
// A triple fault, or INIT where the processor cannot take it.
struct ExitShutdown {};
struct ExitSystemEvent {
  enum class Type { kShutdown, kReset, kCrash, kOther };
  Type type;
};
// Run() gave way to RequestExit(), a signal, or nothing in particular: call it again.
struct ExitInterrupted {};
// KVM could not go on. `description` is for the log.
struct ExitInternalError {
  uint32_t suberror;
  std::string description;
};
struct ExitFailEntry {
  uint64_t hardware_reason;
  uint32_t cpu;
};
struct ExitUnknown {
  uint32_t reason;
};

using VcpuExit = std::variant<ExitPio, ExitMmio, ExitHlt, ExitShutdown, ExitSystemEvent,
                              ExitInterrupted, ExitInternalError, ExitFailEntry, ExitUnknown>;

enum class MpState : uint32_t {
  kRunnable = 0,
  kUninitialized = 1,  // Waits for INIT.
  kInitReceived = 2,   // Waits for SIPI.
  kHalted = 3,
  kSipiReceived = 4,
};

// The signal of the protocol above. InstallKickHandler() once per process, before any vCPU thread.
int KickSignal();
absl::Status InstallKickHandler();

class Vcpu {
 public:
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  uint32_t id() const { return id_; }

  // Enters the guest and returns at the next exit that is for user space. An answer to the last
  // exit (data of an IN or an MMIO read) is taken up first. INTERNAL when KVM refuses.
  absl::StatusOr<VcpuExit> Run();

  // Makes the next Run() return ExitInterrupted after the last exit has been completed, until
  // cleared. Any thread. Needs the kick signal besides when the thread may be inside Run().
  void RequestExit();
  void ClearExitRequest();

  // Signals blocked while inside KVM_RUN; without this, the thread's own mask holds.
  absl::Status SetSignalMask(const sigset_t& blocked);

  // Before the first Run(). INVALID_ARGUMENT when KVM cannot do it.
  absl::Status SetCpuid(std::span<const x86::CpuidEntry> entries);
  absl::StatusOr<std::vector<x86::CpuidEntry>> GetCpuid() const;

  absl::StatusOr<x86::Registers> GetRegisters() const;
  absl::Status SetRegisters(const x86::Registers& registers);
  absl::StatusOr<x86::SpecialRegisters> GetSpecialRegisters() const;
  absl::Status SetSpecialRegisters(const x86::SpecialRegisters& registers);

  // The values of `indices`; those that KVM does not know are left out.
  absl::StatusOr<std::vector<x86::MsrEntry>> GetMsrs(std::span<const uint32_t> indices) const;
  // Sets all it can and returns the indices that KVM refused, for the caller to report.
  absl::StatusOr<std::vector<uint32_t>> SetMsrs(std::span<const x86::MsrEntry> msrs);

  absl::StatusOr<MpState> GetMpState() const;
  absl::Status SetMpState(MpState state);

  // UNIMPLEMENTED by kernels without it.
  absl::StatusOr<uint32_t> TscKhz() const;
  absl::Status SetTscKhz(uint32_t khz);

  // Tells the guest that it was stopped, so that its soft-lockup watchdog forgives the gap. Call
  // after a pause, before Run(). OK as well when the guest does not use kvmclock.
  absl::Status NotifyPaused();

  // Local APIC LVT0 as ExtINT and LVT1 as NMI, the way firmware leaves the boot processor.
  absl::Status WireLocalInterrupts();

  // Everything but the CPUID, which is configuration: registers, XSAVE area, MSRs, local APIC,
  // pending events, debug registers, MP state. Saving a new vCPU and restoring it later is how one
  // is reset. Restore() logs MSRs that this host refuses and goes on. DATA_LOSS when the state does
  // not parse.
  absl::StatusOr<EncodedState> Save() const;
  absl::Status Restore(const EncodedState& state);

 private:
  friend class Vm;
  Vcpu(const System& system, UniqueFd fd, uint32_t id, kvm_run* run, size_t run_bytes);

  VcpuExit DecodeExit();

  const System& system_;
  UniqueFd fd_;
  uint32_t id_;
  kvm_run* run_;
  size_t run_bytes_;
};

}  // namespace vireo::kvm

#endif  // VIREO_VMM_KVM_VCPU_H_
