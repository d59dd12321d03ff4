#include "vmm/kvm/vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/ioctl.h"
#include "vmm/kvm/system.h"

namespace vireo::kvm {
namespace {

void OnKick(int) {}  // Being delivered is all that the signal is for.

kvm_segment ToKvm(const x86::Segment& segment) {
  kvm_segment out = {};
  out.base = segment.base;
  out.limit = segment.limit;
  out.selector = segment.selector;
  out.type = segment.type;
  out.present = segment.present;
  out.dpl = segment.dpl;
  out.db = segment.db;
  out.s = segment.s;
  out.l = segment.l;
  out.g = segment.g;
  out.avl = segment.avl;
  out.unusable = segment.unusable;
  return out;
}

x86::Segment FromKvm(const kvm_segment& segment) {
  return {.base = segment.base,
          .limit = segment.limit,
          .selector = segment.selector,
          .type = segment.type,
          .present = segment.present,
          .dpl = segment.dpl,
          .db = segment.db,
          .s = segment.s,
          .l = segment.l,
          .g = segment.g,
          .avl = segment.avl,
          .unusable = segment.unusable};
}

std::string DescribeInternalError(const kvm_run& run) {
  if (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
    const auto& failure = run.emulation_failure;
    if (failure.ndata >= 3 &&
        (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
      const size_t size = std::min<size_t>(failure.insn_size, sizeof(failure.insn_bytes));
      return absl::StrCat("KVM cannot emulate the instruction ",
                          absl::BytesToHexString(absl::string_view(
                              reinterpret_cast<const char*>(failure.insn_bytes), size)));
    }
    return "KVM cannot emulate an instruction";
  }
  std::string text = absl::StrFormat("KVM internal error %d", run.internal.suberror);
  for (uint32_t i = 0; i < std::min<uint32_t>(run.internal.ndata, 16); ++i) {
    absl::StrAppendFormat(&text, " 0x%x", run.internal.data[i]);
  }
  return text;
}

ExitSystemEvent::Type SystemEventType(uint32_t type) {
  switch (type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      return ExitSystemEvent::Type::kShutdown;
    case KVM_SYSTEM_EVENT_RESET:
      return ExitSystemEvent::Type::kReset;
    case KVM_SYSTEM_EVENT_CRASH:
      return ExitSystemEvent::Type::kCrash;
    default:
      return ExitSystemEvent::Type::kOther;
  }
}

}  // namespace

int KickSignal() { return SIGRTMIN; }

absl::Status InstallKickHandler() {
  struct sigaction action = {};
  action.sa_handler = OnKick;  // Without SA_RESTART: KVM_RUN returns EINTR.
  sigemptyset(&action.sa_mask);
  if (::sigaction(KickSignal(), &action, nullptr) != 0) {
    return ErrnoStatus(errno, "installing the vCPU kick signal");
  }
  return absl::OkStatus();
}

Vcpu::Vcpu(const System& system, UniqueFd fd, uint32_t id, kvm_run* run, size_t run_bytes)
    : system_(system), fd_(std::move(fd)), id_(id), run_(run), run_bytes_(run_bytes) {}

Vcpu::~Vcpu() { ::munmap(run_, run_bytes_); }

absl::StatusOr<VcpuExit> Vcpu::Run() {
  for (;;) {
    if (::ioctl(fd_.get(), KVM_RUN, 0) == 0) return DecodeExit();
    if (errno == EINTR) return VcpuExit(ExitInterrupted());
    // A vCPU that waited for its SIPI has got it, and wants to be entered again.
    if (errno == EAGAIN) continue;
    return ErrnoStatus(errno, absl::StrFormat("KVM_RUN of vCPU %d", id_));
  }
}

VcpuExit Vcpu::DecodeExit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: {
      uint8_t* const data = reinterpret_cast<uint8_t*>(run_) + run_->io.data_offset;
      return ExitPio{.port = run_->io.port,
                     .size = run_->io.size,
                     .in = run_->io.direction == KVM_EXIT_IO_IN,
                     .count = run_->io.count,
                     .data = {data, size_t{run_->io.size} * run_->io.count}};
    }
    case KVM_EXIT_MMIO:
      return ExitMmio{
          .address = run_->mmio.phys_addr,
          .is_write = run_->mmio.is_write != 0,
          .data = {run_->mmio.data, std::min<size_t>(run_->mmio.len, sizeof(run_->mmio.data))}};
    case KVM_EXIT_HLT:
      return ExitHlt();
    case KVM_EXIT_SHUTDOWN:
      return ExitShutdown();
    case KVM_EXIT_SYSTEM_EVENT:
      return ExitSystemEvent{SystemEventType(run_->system_event.type)};
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return ExitInterrupted();
    case KVM_EXIT_INTERNAL_ERROR:
      return ExitInternalError{run_->internal.suberror, DescribeInternalError(*run_)};
    case KVM_EXIT_FAIL_ENTRY:
      return ExitFailEntry{run_->fail_entry.hardware_entry_failure_reason, run_->fail_entry.cpu};
    default:
      return ExitUnknown{run_->exit_reason};
  }
}

void Vcpu::RequestExit() {
  std::atomic_ref<uint8_t>(run_->immediate_exit).store(1, std::memory_order_seq_cst);
}

void Vcpu::ClearExitRequest() {
  std::atomic_ref<uint8_t>(run_->immediate_exit).store(0, std::memory_order_seq_cst);
}

absl::Status Vcpu::SetSignalMask(const sigset_t& blocked) {
  abi::SignalMask mask = {};
  mask.len = sizeof(mask.sigset);
  // The kernel's sigset is the first 64 bits of the C library's.
  std::memcpy(mask.sigset, &blocked, sizeof(mask.sigset));
  return Ioctl(fd_, abi::kSetSignalMask, "KVM_SET_SIGNAL_MASK", &mask).status();
}

absl::Status Vcpu::SetCpuid(std::span<const x86::CpuidEntry> entries) {
  abi::Cpuid cpuid(entries.size());
  cpuid.header().nent = static_cast<uint32_t>(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    kvm_cpuid_entry2& out = cpuid.entries()[i];
    out.function = entries[i].function;
    out.index = entries[i].index;
    out.flags = entries[i].has_index ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    out.eax = entries[i].eax;
    out.ebx = entries[i].ebx;
    out.ecx = entries[i].ecx;
    out.edx = entries[i].edx;
  }
  return Ioctl(fd_, abi::kSetCpuid, "KVM_SET_CPUID2", cpuid.data()).status();
}

absl::StatusOr<std::vector<x86::CpuidEntry>> Vcpu::GetCpuid() const {
  abi::Cpuid cpuid(256);  // KVM takes no more.
  cpuid.header().nent = 256;
  RETURN_IF_ERROR(Ioctl(fd_, abi::kGetCpuid, "KVM_GET_CPUID2", cpuid.data()).status());
  std::vector<x86::CpuidEntry> entries;
  for (const kvm_cpuid_entry2& entry : cpuid.entries().first(cpuid.header().nent)) {
    entries.push_back({.function = entry.function,
                       .index = entry.index,
                       .has_index = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
                       .eax = entry.eax,
                       .ebx = entry.ebx,
                       .ecx = entry.ecx,
                       .edx = entry.edx});
  }
  return entries;
}

absl::StatusOr<x86::Registers> Vcpu::GetRegisters() const {
  kvm_regs in = {};
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_REGS, "KVM_GET_REGS", &in).status());
  return x86::Registers{.rax = in.rax,
                        .rbx = in.rbx,
                        .rcx = in.rcx,
                        .rdx = in.rdx,
                        .rsi = in.rsi,
                        .rdi = in.rdi,
                        .rsp = in.rsp,
                        .rbp = in.rbp,
                        .r8 = in.r8,
                        .r9 = in.r9,
                        .r10 = in.r10,
                        .r11 = in.r11,
                        .r12 = in.r12,
                        .r13 = in.r13,
                        .r14 = in.r14,
                        .r15 = in.r15,
                        .rip = in.rip,
                        .rflags = in.rflags};
}

absl::Status Vcpu::SetRegisters(const x86::Registers& in) {
  kvm_regs out = {};
  out.rax = in.rax;
  out.rbx = in.rbx;
  out.rcx = in.rcx;
  out.rdx = in.rdx;
  out.rsi = in.rsi;
  out.rdi = in.rdi;
  out.rsp = in.rsp;
  out.rbp = in.rbp;
  out.r8 = in.r8;
  out.r9 = in.r9;
  out.r10 = in.r10;
  out.r11 = in.r11;
  out.r12 = in.r12;
  out.r13 = in.r13;
  out.r14 = in.r14;
  out.r15 = in.r15;
  out.rip = in.rip;
  out.rflags = in.rflags;
  return Ioctl(fd_, KVM_SET_REGS, "KVM_SET_REGS", &out).status();
}

absl::StatusOr<x86::SpecialRegisters> Vcpu::GetSpecialRegisters() const {
  kvm_sregs in = {};
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_SREGS, "KVM_GET_SREGS", &in).status());
  return x86::SpecialRegisters{.cs = FromKvm(in.cs),
                               .ds = FromKvm(in.ds),
                               .es = FromKvm(in.es),
                               .fs = FromKvm(in.fs),
                               .gs = FromKvm(in.gs),
                               .ss = FromKvm(in.ss),
                               .tr = FromKvm(in.tr),
                               .ldt = FromKvm(in.ldt),
                               .gdt = {in.gdt.base, in.gdt.limit},
                               .idt = {in.idt.base, in.idt.limit},
                               .cr0 = in.cr0,
                               .cr2 = in.cr2,
                               .cr3 = in.cr3,
                               .cr4 = in.cr4,
                               .cr8 = in.cr8,
                               .efer = in.efer,
                               .apic_base = in.apic_base};
}

absl::Status Vcpu::SetSpecialRegisters(const x86::SpecialRegisters& in) {
  kvm_sregs out = {};
  out.cs = ToKvm(in.cs);
  out.ds = ToKvm(in.ds);
  out.es = ToKvm(in.es);
  out.fs = ToKvm(in.fs);
  out.gs = ToKvm(in.gs);
  out.ss = ToKvm(in.ss);
  out.tr = ToKvm(in.tr);
  out.ldt = ToKvm(in.ldt);
  out.gdt.base = in.gdt.base;
  out.gdt.limit = in.gdt.limit;
  out.idt.base = in.idt.base;
  out.idt.limit = in.idt.limit;
  out.cr0 = in.cr0;
  out.cr2 = in.cr2;
  out.cr3 = in.cr3;
  out.cr4 = in.cr4;
  out.cr8 = in.cr8;
  out.efer = in.efer;
  out.apic_base = in.apic_base;
  return Ioctl(fd_, KVM_SET_SREGS, "KVM_SET_SREGS", &out).status();
}

absl::StatusOr<std::vector<x86::MsrEntry>> Vcpu::GetMsrs(std::span<const uint32_t> indices) const {
  std::vector<x86::MsrEntry> values;
  size_t next = 0;
  while (next < indices.size()) {
    // KVM reads up to the first MSR that it does not know and says how many those were.
    abi::Msrs msrs(indices.size() - next);
    msrs.header().nmsrs = static_cast<uint32_t>(indices.size() - next);
    for (size_t i = next; i < indices.size(); ++i) msrs.entries()[i - next].index = indices[i];
    ASSIGN_OR_RETURN(const int read, Ioctl(fd_, abi::kGetMsrs, "KVM_GET_MSRS", msrs.data()));
    for (int i = 0; i < read; ++i) {
      values.push_back({.index = msrs.entries()[i].index, .value = msrs.entries()[i].data});
    }
    next += static_cast<size_t>(read);
    if (next < indices.size()) ++next;
  }
  return values;
}

absl::StatusOr<std::vector<uint32_t>> Vcpu::SetMsrs(std::span<const x86::MsrEntry> values) {
  std::vector<uint32_t> refused;
  size_t next = 0;
  while (next < values.size()) {
    abi::Msrs msrs(values.size() - next);
    msrs.header().nmsrs = static_cast<uint32_t>(values.size() - next);
    for (size_t i = next; i < values.size(); ++i) {
      msrs.entries()[i - next].index = values[i].index;
      msrs.entries()[i - next].data = values[i].value;
    }
    ASSIGN_OR_RETURN(const int set, Ioctl(fd_, abi::kSetMsrs, "KVM_SET_MSRS", msrs.data()));
    next += static_cast<size_t>(set);
    if (next < values.size()) refused.push_back(values[next++].index);
  }
  return refused;
}

absl::StatusOr<MpState> Vcpu::GetMpState() const {
  kvm_mp_state state = {};
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state).status());
  return static_cast<MpState>(state.mp_state);
}

absl::Status Vcpu::SetMpState(MpState state) {
  kvm_mp_state request = {};
  request.mp_state = static_cast<uint32_t>(state);
  return Ioctl(fd_, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &request).status();
}

absl::StatusOr<uint32_t> Vcpu::TscKhz() const {
  ASSIGN_OR_RETURN(const int khz, Ioctl(fd_, KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", 0));
  return static_cast<uint32_t>(khz);
}

absl::Status Vcpu::SetTscKhz(uint32_t khz) {
  return Ioctl(fd_, KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", khz).status();
}

absl::Status Vcpu::NotifyPaused() {
  if (!system_.features().kvmclock_ctrl) return absl::OkStatus();
  const absl::Status status = Ioctl(fd_, KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL", 0).status();
  // EINVAL: this vCPU has no kvmclock page.
  if (StatusErrno(status) == EINVAL) return absl::OkStatus();
  return status;
}

absl::Status Vcpu::WireLocalInterrupts() {
  // Intel SDM vol. 3A, "Local Vector Table": LINT0 at 0x350, LINT1 at 0x360; delivery mode in
  // bits 8..10.
  constexpr uint32_t kExtInt = 7 << 8;
  constexpr uint32_t kNmi = 4 << 8;
  kvm_lapic_state lapic = {};
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_LAPIC, "KVM_GET_LAPIC", &lapic).status());
  std::memcpy(lapic.regs + 0x350, &kExtInt, sizeof(kExtInt));
  std::memcpy(lapic.regs + 0x360, &kNmi, sizeof(kNmi));
  return Ioctl(fd_, KVM_SET_LAPIC, "KVM_SET_LAPIC", &lapic).status();
}

}  // namespace vireo::kvm
