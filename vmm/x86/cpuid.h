// The processor a guest sees: CPU models, topology and the KVM leaves, made from what KVM supports
// on this host. Pure: the same input gives the same leaves for every vCPU, boot and restart.

#ifndef VIREO_VMM_X86_CPUID_H_
#define VIREO_VMM_X86_CPUID_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/x86/cpu_types.h"

namespace vireo::x86 {

// "host", "x86-64-v2", "x86-64-v3" or "x86-64-v4", then features added and removed by their Linux
// names: "x86-64-v2,+aes,-rdrand".
struct CpuModel {
  std::string base = "host";
  std::vector<std::string> add;
  std::vector<std::string> remove;
};

// INVALID_ARGUMENT naming the unknown model or feature, or one that is both added and removed.
absl::StatusOr<CpuModel> ParseCpuModel(std::string_view text);

struct CpuTopology {
  uint32_t sockets = 1;
  uint32_t cores_per_socket = 1;
  uint32_t threads_per_core = 1;

  uint32_t cpus() const { return sockets * cores_per_socket * threads_per_core; }
  friend bool operator==(const CpuTopology&, const CpuTopology&) = default;
};

// One socket of `cpus` single-threaded cores: what a guest gets unless told otherwise.
CpuTopology DefaultTopology(uint32_t cpus);

// APIC IDs pack thread, core and socket into bit fields, so they have gaps unless counts are powers
// of 2.
uint32_t ApicId(const CpuTopology& topology, uint32_t cpu_index);

struct CpuidOptions {
  std::span<const CpuidEntry> supported;  // KVM_GET_SUPPORTED_CPUID.
  CpuModel model;
  CpuTopology topology;
  // In-kernel local APIC timer of KVM: CPUID.1:ECX.TSC_DEADLINE is ours to set, KVM does not list
  // it.
  bool tsc_deadline_timer = false;
  // Largest number of guest-physical address bits; 0: what the host has.
  uint32_t max_physical_address_bits = 0;
};

// What all vCPUs share. Cpuid leaves that say who runs it are filled by For().
class CpuidTemplate {
 public:
  // INVALID_ARGUMENT for an impossible topology; FAILED_PRECONDITION naming the features that the
  // model (or an added feature) needs and this host lacks.
  static absl::StatusOr<CpuidTemplate> Build(const CpuidOptions& options);

  // The leaves of one vCPU, ready for KVM_SET_CPUID2.
  std::vector<CpuidEntry> For(uint32_t cpu_index) const;

  uint32_t physical_address_bits() const { return physical_address_bits_; }
  // Features the guest sees, by their Linux names, sorted: for Describe, and to compare hosts.
  std::vector<std::string> FeatureNames() const;
  bool HasFeature(std::string_view linux_name) const;

 private:
  CpuidTemplate() = default;

  std::vector<CpuidEntry> entries_;
  CpuTopology topology_;
  uint32_t physical_address_bits_ = 0;
};

}  // namespace vireo::x86

#endif  // VIREO_VMM_X86_CPUID_H_
