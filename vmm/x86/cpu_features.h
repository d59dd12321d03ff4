// CPU features by the names that Linux gives them in /proc/cpuinfo, and where CPUID tells of each.

#ifndef VIREO_VMM_X86_CPU_FEATURES_H_
#define VIREO_VMM_X86_CPU_FEATURES_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "base/x86/cpu_types.h"

namespace vireo::x86 {

enum class CpuidRegister : uint8_t { kEax, kEbx, kEcx, kEdx };

struct CpuFeature {
  std::string_view name;
  uint32_t function;
  uint32_t index;
  CpuidRegister reg;
  uint8_t bit;
};

// All that a guest may be told of. Those that the machine itself decides (ht, osxsave) are not
// among them.
std::span<const CpuFeature> CpuFeatures();

// nullptr for an unknown name.
const CpuFeature* FindCpuFeature(std::string_view name);

// The register of `entry` that holds `reg`.
uint32_t& RegisterOf(CpuidEntry& entry, CpuidRegister reg);
uint32_t RegisterOf(const CpuidEntry& entry, CpuidRegister reg);

// Features that make no sense without `name`, directly.
std::span<const std::string_view> DependentsOf(std::string_view name);

// The features that a CPU model promises, psABI levels included; empty for an unknown model or
// "host".
std::span<const std::string_view> FeaturesOfModel(std::string_view model);

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_CPU_FEATURES_H_
