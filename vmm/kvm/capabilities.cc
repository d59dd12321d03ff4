#include "vmm/kvm/capabilities.h"

#include <linux/kvm.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vireo::kvm {
namespace {

#define VIREO_CAPABILITY(name) \
  Capability { name, #name }
constexpr Capability kRequired[] = {
    VIREO_CAPABILITY(KVM_CAP_IRQCHIP),
    VIREO_CAPABILITY(KVM_CAP_USER_MEMORY),
    VIREO_CAPABILITY(KVM_CAP_DESTROY_MEMORY_REGION_WORKS),
    VIREO_CAPABILITY(KVM_CAP_READONLY_MEM),
    VIREO_CAPABILITY(KVM_CAP_SET_TSS_ADDR),
    VIREO_CAPABILITY(KVM_CAP_SET_IDENTITY_MAP_ADDR),
    VIREO_CAPABILITY(KVM_CAP_EXT_CPUID),
    VIREO_CAPABILITY(KVM_CAP_MP_STATE),
    VIREO_CAPABILITY(KVM_CAP_IRQ_ROUTING),
    VIREO_CAPABILITY(KVM_CAP_IRQFD),
    VIREO_CAPABILITY(KVM_CAP_IRQFD_RESAMPLE),
    VIREO_CAPABILITY(KVM_CAP_IOEVENTFD),
    VIREO_CAPABILITY(KVM_CAP_IOEVENTFD_ANY_LENGTH),
    VIREO_CAPABILITY(KVM_CAP_SIGNAL_MSI),
    VIREO_CAPABILITY(KVM_CAP_PIT2),
    VIREO_CAPABILITY(KVM_CAP_PIT_STATE2),
    VIREO_CAPABILITY(KVM_CAP_VCPU_EVENTS),
    VIREO_CAPABILITY(KVM_CAP_DEBUGREGS),
    VIREO_CAPABILITY(KVM_CAP_XSAVE),
    VIREO_CAPABILITY(KVM_CAP_XCRS),
    VIREO_CAPABILITY(KVM_CAP_ADJUST_CLOCK),
    VIREO_CAPABILITY(KVM_CAP_IMMEDIATE_EXIT),
};
#undef VIREO_CAPABILITY

}  // namespace

std::span<const Capability> RequiredCapabilities() { return kRequired; }

absl::Status CheckRequiredCapabilities(absl::FunctionRef<int(int capability)> check) {
  std::string missing;
  for (const Capability& capability : kRequired) {
    if (check(capability.number) > 0) continue;
    absl::StrAppendFormat(&missing, "%s%s", missing.empty() ? "" : ", ", capability.name);
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("this host's KVM is too old or too small for Vireo: it lacks ", missing));
}

}  // namespace vireo::kvm
