// /dev/kvm itself: what this host's KVM can do, and the one way to make a VM.
//
// Thread-safe after Open(): every method is a single ioctl on an immutable descriptor.

#ifndef VIREO_VMM_KVM_SYSTEM_H_
#define VIREO_VMM_KVM_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/opener.h"
#include "base/unique_fd.h"
#include "base/x86/cpu_types.h"

namespace vireo::kvm {

class System {
 public:
  // What differs between hosts and is not required. Read once at Open().
  struct Features {
    uint32_t max_vcpus = 0;
    uint32_t memslots = 0;
    bool kvmclock_ctrl = false;  // A pause can be told to the guest's watchdog.
    bool tsc_control = false;    // Guest TSC frequency can differ from the host's.
    bool tsc_deadline_timer = false;
    uint32_t quirks2 = 0;  // The quirks that may be disabled.
    bool split_irqchip = false;
    bool x2apic_api = false;
    bool clock_realtime = false;  // KVM_GET_CLOCK pairs the clock with the wall clock.
    size_t xsave_bytes = 4096;
  };

  // `path` is normally /dev/kvm, or fd:N of an open one.
  // NOT_FOUND when there is no /dev/kvm: names the module to load. PERMISSION_DENIED: names the
  // group. FAILED_PRECONDITION when it is not KVM, or KVM lacks what Vireo needs: names the
  // capability.
  static absl::StatusOr<System> Open(Opener& opener, const std::string& path = "/dev/kvm");
  static absl::StatusOr<System> Adopt(UniqueFd fd);

  System(System&&) = default;
  System& operator=(System&&) = default;

  const Features& features() const { return features_; }
  // Bytes of the kvm_run mapping of every vCPU.
  size_t vcpu_mapping_bytes() const { return vcpu_mapping_bytes_; }

  // KVM_CHECK_EXTENSION; 0 when absent or unknown.
  int CheckExtension(int capability) const;

  // What KVM can offer a guest, host-dependent leaves included; x86::BuildCpuid filters it.
  absl::StatusOr<std::vector<x86::CpuidEntry>> SupportedCpuid() const;

  // The MSRs that make up a vCPU's state on this host.
  absl::StatusOr<std::vector<uint32_t>> MsrsToSave() const;

  // One line for the log when this KVM is of a software kind, which interprets an ordinary guest
  // kernel so slowly that it never gets anywhere; nullopt on hardware KVM.
  std::optional<std::string> SoftwareVirtualizationNotice() const;

  // A fresh VM descriptor. Used by Vm::Create.
  absl::StatusOr<UniqueFd> CreateVm() const;

 private:
  explicit System(UniqueFd fd) : fd_(std::move(fd)) {}

  absl::Status Probe();

  UniqueFd fd_;
  Features features_;
  size_t vcpu_mapping_bytes_ = 0;
};

// True when the text of /proc/cpuinfo shows a processor with hardware virtualization.
bool HasHardwareVirtualization(std::string_view cpuinfo);

// The module that gives this processor a /dev/kvm, from the text of /proc/cpuinfo.
std::string_view KvmModuleFor(std::string_view cpuinfo);

}  // namespace vireo::kvm

#endif  // VIREO_VMM_KVM_SYSTEM_H_
