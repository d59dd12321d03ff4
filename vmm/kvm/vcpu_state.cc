// Saving and restoring a vCPU. The order of the ioctls matters and is said at each.

#include <cstring>
#include <iterator>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/ioctl.h"
#include "vmm/kvm/system.h"
#include "vmm/kvm/vcpu.h"

namespace vireo::kvm {
namespace {

constexpr uint32_t kStateVersion = 1;
constexpr std::string_view kStateType = "kvm-vcpu";

// Takes effect relative to the TSC and the local APIC's timer mode, so it is set after both.
constexpr uint32_t kMsrTscDeadline = 0x6e0;

template <typename T>
std::span<const uint8_t> BytesOf(const T& object) {
  return {reinterpret_cast<const uint8_t*>(&object), sizeof(T)};
}

template <typename T>
T ReadStruct(StateReader& reader, std::string_view error) {
  T object = {};
  const std::vector<uint8_t> bytes = reader.Bytes();
  if (bytes.size() == sizeof(T)) {
    std::memcpy(&object, bytes.data(), sizeof(T));
  } else {
    reader.Fail(error);
  }
  return object;
}

// Everything a vCPU is, as the kernel's own structs (whose layout is ABI and never changes).
struct Contents {
  kvm_mp_state mp_state = {};
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  std::vector<uint8_t> xsave;
  kvm_xcrs xcrs = {};
  kvm_debugregs debugregs = {};
  kvm_lapic_state lapic = {};
  std::vector<x86::MsrEntry> msrs;
  kvm_vcpu_events events = {};
};

std::vector<uint8_t> Encode(const Contents& contents) {
  StateWriter writer;
  writer.Bytes(BytesOf(contents.mp_state));
  writer.Bytes(BytesOf(contents.regs));
  writer.Bytes(BytesOf(contents.sregs));
  writer.Bytes(contents.xsave);
  writer.Bytes(BytesOf(contents.xcrs));
  writer.Bytes(BytesOf(contents.debugregs));
  writer.Bytes(BytesOf(contents.lapic));
  writer.Bytes(BytesOf(contents.events));
  writer.U32(static_cast<uint32_t>(contents.msrs.size()));
  for (const x86::MsrEntry& msr : contents.msrs) {
    writer.U32(msr.index);
    writer.U64(msr.value);
  }
  return writer.Finish();
}

absl::StatusOr<Contents> Decode(const EncodedState& state) {
  RETURN_IF_ERROR(CheckState(state, kStateType, kStateVersion));
  StateReader reader(state.bytes);
  constexpr std::string_view kWrongSize = "kvm-vcpu: a part of the wrong size";
  Contents contents;
  contents.mp_state = ReadStruct<kvm_mp_state>(reader, kWrongSize);
  contents.regs = ReadStruct<kvm_regs>(reader, kWrongSize);
  contents.sregs = ReadStruct<kvm_sregs>(reader, kWrongSize);
  contents.xsave = reader.Bytes();
  if (contents.xsave.size() < sizeof(abi::Xsave)) reader.Fail(kWrongSize);
  contents.xcrs = ReadStruct<kvm_xcrs>(reader, kWrongSize);
  contents.debugregs = ReadStruct<kvm_debugregs>(reader, kWrongSize);
  contents.lapic = ReadStruct<kvm_lapic_state>(reader, kWrongSize);
  contents.events = ReadStruct<kvm_vcpu_events>(reader, kWrongSize);
  const uint32_t msrs = reader.U32();
  for (uint32_t i = 0; i < msrs && reader.status().ok(); ++i) {
    x86::MsrEntry msr;
    msr.index = reader.U32();
    msr.value = reader.U64();
    contents.msrs.push_back(msr);
  }
  RETURN_IF_ERROR(reader.Finish());
  return contents;
}

}  // namespace

absl::StatusOr<EncodedState> Vcpu::Save() const {
  Contents contents;
  // First: KVM takes up a pending INIT or SIPI here, which changes the registers.
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &contents.mp_state).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_REGS, "KVM_GET_REGS", &contents.regs).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_SREGS, "KVM_GET_SREGS", &contents.sregs).status());
  const size_t xsave_bytes = system_.features().xsave_bytes;
  contents.xsave.resize(xsave_bytes);
  if (xsave_bytes > sizeof(abi::Xsave)) {
    RETURN_IF_ERROR(Ioctl(fd_, abi::kGetXsave2, "KVM_GET_XSAVE2", contents.xsave.data()).status());
  } else {
    RETURN_IF_ERROR(Ioctl(fd_, abi::kGetXsave, "KVM_GET_XSAVE", contents.xsave.data()).status());
  }
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_XCRS, "KVM_GET_XCRS", &contents.xcrs).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &contents.debugregs).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_GET_LAPIC, "KVM_GET_LAPIC", &contents.lapic).status());
  ASSIGN_OR_RETURN(const std::vector<uint32_t> indices, system_.MsrsToSave());
  ASSIGN_OR_RETURN(contents.msrs, GetMsrs(indices));
  RETURN_IF_ERROR(
      Ioctl(fd_, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &contents.events).status());
  return EncodedState{std::string(kStateType), kStateVersion, Encode(contents)};
}

absl::Status Vcpu::Restore(const EncodedState& state) {
  ASSIGN_OR_RETURN(Contents contents, Decode(state));
  if (contents.xsave.size() > system_.features().xsave_bytes) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the saved XSAVE area of vCPU %d has %d bytes, this host's KVM takes %d",
                        id_, contents.xsave.size(), system_.features().xsave_bytes));
  }
  contents.xsave.resize(system_.features().xsave_bytes);

  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &contents.mp_state).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_REGS, "KVM_SET_REGS", &contents.regs).status());
  // Before the local APIC, which lives where apic_base puts it, and in the mode that it names.
  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_SREGS, "KVM_SET_SREGS", &contents.sregs).status());
  // XCR0 first: the area holds what it enables.
  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_XCRS, "KVM_SET_XCRS", &contents.xcrs).status());
  RETURN_IF_ERROR(Ioctl(fd_, abi::kSetXsave, "KVM_SET_XSAVE", contents.xsave.data()).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", &contents.debugregs).status());
  RETURN_IF_ERROR(Ioctl(fd_, KVM_SET_LAPIC, "KVM_SET_LAPIC", &contents.lapic).status());

  std::vector<x86::MsrEntry> first;
  std::vector<x86::MsrEntry> last;
  for (const x86::MsrEntry& msr : contents.msrs) {
    (msr.index == kMsrTscDeadline ? last : first).push_back(msr);
  }
  ASSIGN_OR_RETURN(std::vector<uint32_t> refused, SetMsrs(first));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> refused_last, SetMsrs(last));
  refused.insert(refused.end(), refused_last.begin(), refused_last.end());
  for (const uint32_t index : refused) {
    LogWarning("vCPU %d: this host's KVM does not take MSR 0x%x back", id_, index);
  }
  // Last: the calls above may clear what is pending.
  return Ioctl(fd_, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &contents.events).status();
}

}  // namespace vireo::kvm
