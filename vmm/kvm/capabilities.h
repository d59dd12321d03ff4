// What Vireo cannot do without, by name. Private to vmm/kvm.

#ifndef VIREO_VMM_KVM_CAPABILITIES_H_
#define VIREO_VMM_KVM_CAPABILITIES_H_

#include <span>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace vireo::kvm {

struct Capability {
  int number;
  std::string_view name;  // "KVM_CAP_IRQFD"
};

std::span<const Capability> RequiredCapabilities();

// FAILED_PRECONDITION naming every required capability for which `check` (KVM_CHECK_EXTENSION)
// gives 0.
absl::Status CheckRequiredCapabilities(absl::FunctionRef<int(int capability)> check);

}  // namespace vireo::kvm

#endif  // VIREO_VMM_KVM_CAPABILITIES_H_
