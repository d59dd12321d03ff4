#include "vmm/x86/cpuid.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status.h"
#include "vmm/x86/cpu_features.h"

namespace vireo::x86 {
namespace {

// Leaves.
constexpr uint32_t kVendor = 0x0;
constexpr uint32_t kBasicFeatures = 0x1;
constexpr uint32_t kIntelCaches = 0x4;
constexpr uint32_t kStructuredFeatures = 0x7;
constexpr uint32_t kTopology = 0xb;
constexpr uint32_t kXsave = 0xd;
constexpr uint32_t kTopologyV2 = 0x1f;
constexpr uint32_t kHypervisorFirst = 0x40000000;
constexpr uint32_t kKvmFeatures = 0x40000001;
constexpr uint32_t kHypervisorEnd = 0x40010000;
constexpr uint32_t kExtendedFirst = 0x80000000;
constexpr uint32_t kExtendedFeatures = 0x80000001;
constexpr uint32_t kBrandFirst = 0x80000002;
constexpr uint32_t kAmdL1 = 0x80000005;
constexpr uint32_t kAmdL2 = 0x80000006;
constexpr uint32_t kAddressSizes = 0x80000008;
constexpr uint32_t kSvm = 0x8000000a;
constexpr uint32_t kAmdCaches = 0x8000001d;
constexpr uint32_t kAmdTopology = 0x8000001e;
constexpr uint32_t kMemoryEncryption = 0x8000001f;

// Bits of leaf 1.
constexpr uint32_t kEcxOsxsave = 1u << 27;
constexpr uint32_t kEcxHypervisor = 1u << 31;
constexpr uint32_t kEdxHyperThreading = 1u << 28;
// Of leaf 0x80000001.
constexpr uint32_t kEcxCmpLegacy = 1u << 1;
constexpr uint32_t kEcxTopoext = 1u << 22;

// KVM's paravirtual features that need nothing of the VMM (Documentation/virt/kvm/x86/cpuid.rst):
// clocks, I/O delay, async page faults, steal time, EOI, spinlocks, TLB flush, IPIs, halt polling,
// yield, and "clock is stable".
constexpr uint32_t kKvmFeatureMask = (1u << 0) | (1u << 1) | (1u << 3) | (1u << 4) | (1u << 5) |
                                     (1u << 6) | (1u << 7) | (1u << 9) | (1u << 10) | (1u << 11) |
                                     (1u << 12) | (1u << 13) | (1u << 14) | (1u << 24);

// XCR0 components and the feature that each needs (Intel SDM vol. 1, "XSAVE-Managed Features").
struct XsaveComponent {
  uint8_t bit;
  std::string_view feature;
};
constexpr XsaveComponent kXsaveComponents[] = {
    {2, "avx"},     {3, "mpx"}, {4, "mpx"},       {5, "avx512f"},   {6, "avx512f"},
    {7, "avx512f"}, {9, "pku"}, {17, "amx_tile"}, {18, "amx_tile"},
};
constexpr uint32_t kLegacyXsaveBytes = 576;  // x87, SSE and the header.
constexpr uint32_t kXsaveX87AndSse = 3;

constexpr uint32_t kMostCpus = 4096;

std::string_view Trim(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return {};
  return text.substr(start, text.find_last_not_of(" \t") - start + 1);
}

// Bits that hold the numbers 0 .. count - 1.
uint32_t BitsFor(uint32_t count) { return static_cast<uint32_t>(std::bit_width(count - 1)); }

uint32_t ThreadBits(const CpuTopology& topology) { return BitsFor(topology.threads_per_core); }
uint32_t PackageBits(const CpuTopology& topology) {
  return ThreadBits(topology) + BitsFor(topology.cores_per_socket);
}

const CpuidEntry* Find(std::span<const CpuidEntry> entries, uint32_t function, uint32_t index) {
  for (const CpuidEntry& entry : entries) {
    if (entry.function == function && (!entry.has_index || entry.index == index)) return &entry;
  }
  return nullptr;
}

CpuidEntry* Find(std::vector<CpuidEntry>& entries, uint32_t function, uint32_t index) {
  return const_cast<CpuidEntry*>(Find(std::span<const CpuidEntry>(entries), function, index));
}

bool Has(std::span<const CpuidEntry> entries, const CpuFeature& feature) {
  const CpuidEntry* const entry = Find(entries, feature.function, feature.index);
  return entry != nullptr && (RegisterOf(*entry, feature.reg) >> feature.bit & 1) != 0;
}

bool IsAmd(std::span<const CpuidEntry> entries) {
  const CpuidEntry* const vendor = Find(entries, kVendor, 0);
  constexpr uint32_t kAuth = 0x68747541;  // "Auth", of AuthenticAMD
  constexpr uint32_t kHygo = 0x6f677948;  // "Hygo", of HygonGenuine
  return vendor != nullptr && (vendor->ebx == kAuth || vendor->ebx == kHygo);
}

void Erase(std::vector<CpuidEntry>& entries, uint32_t function) {
  std::erase_if(entries, [&](const CpuidEntry& entry) { return entry.function == function; });
}

// Without this feature and all that builds on it.
void Clear(std::vector<CpuidEntry>& entries, std::string_view name) {
  const CpuFeature* const feature = FindCpuFeature(name);
  VIREO_CHECK(feature != nullptr, "a feature of the table");
  CpuidEntry* const entry = Find(entries, feature->function, feature->index);
  if (entry != nullptr) RegisterOf(*entry, feature->reg) &= ~(1u << feature->bit);
  for (std::string_view dependent : DependentsOf(name)) Clear(entries, dependent);
}

// The 48 letters of the brand string.
void SetBrand(std::vector<CpuidEntry>& entries, std::string_view brand) {
  std::array<uint32_t, 12> words = {};
  std::memcpy(words.data(), brand.data(), std::min(brand.size(), sizeof(words) - 1));
  for (uint32_t i = 0; i < 3; ++i) {
    Erase(entries, kBrandFirst + i);
    entries.push_back({.function = kBrandFirst + i,
                       .eax = words[4 * i],
                       .ebx = words[4 * i + 1],
                       .ecx = words[4 * i + 2],
                       .edx = words[4 * i + 3]});
  }
}

// One level of cache as leaf 4 tells it (Intel SDM vol. 2A, "CPUID"); sharing is filled in For().
CpuidEntry IntelCache(uint32_t index, uint32_t type, uint32_t level, uint32_t ways, uint32_t sets) {
  constexpr uint32_t kSelfInitializing = 1 << 8;
  constexpr uint32_t kLineBytes = 64;
  return {.function = kIntelCaches,
          .index = index,
          .has_index = true,
          .eax = type == 0 ? 0 : (type | level << 5 | kSelfInitializing),
          .ebx = type == 0 ? 0 : ((ways - 1) << 22 | (kLineBytes - 1)),
          .ecx = type == 0 ? 0 : sets - 1,
          .edx = 0};
}

// A named model: only what its name promises, whatever host it runs on. `host` gives the vendor,
// address sizes and the state-component sizes.
std::vector<CpuidEntry> NamedModelEntries(const CpuModel& model, std::span<const CpuidEntry> host) {
  const bool amd = IsAmd(host);
  std::vector<CpuidEntry> entries;
  if (const CpuidEntry* vendor = Find(host, kVendor, 0)) {
    entries.push_back(*vendor);
    entries.back().eax = kXsave;
  }
  // A processor of the level's time, so that guests protect themselves from its faults: Zen 2
  // (family 23, model 49) and Haswell (family 6, model 60).
  const uint32_t signature = amd ? 0x00830f10 : 0x000306c4;
  constexpr uint32_t kClflushLine = 8 << 8;  // In units of 8 bytes.
  entries.push_back({.function = kBasicFeatures, .eax = signature, .ebx = kClflushLine});
  entries.push_back({.function = 0x6});
  entries.push_back({.function = kStructuredFeatures, .index = 0, .has_index = true, .eax = 1});
  entries.push_back({.function = kStructuredFeatures, .index = 1, .has_index = true});
  for (const CpuidEntry& entry : host) {
    if (entry.function == kXsave) {
      entries.push_back(entry);
      // Which features of XSAVE itself: by name only.
      if (entry.has_index && entry.index == 1) entries.back().eax = 0;
    }
  }
  if (!amd) {
    constexpr uint32_t kData = 1, kInstruction = 2, kUnified = 3;
    entries.push_back(IntelCache(0, kData, 1, 8, 64));         // 32 KiB
    entries.push_back(IntelCache(1, kInstruction, 1, 8, 64));  // 32 KiB
    entries.push_back(IntelCache(2, kUnified, 2, 16, 4096));   // 4 MiB
    entries.push_back(IntelCache(3, kUnified, 3, 16, 16384));  // 16 MiB
    entries.push_back(IntelCache(4, 0, 0, 0, 0));
  }
  entries.push_back({.function = kExtendedFirst, .eax = kAddressSizes});
  if (const CpuidEntry* vendor = Find(host, kVendor, 0); vendor != nullptr && amd) {
    entries.back().ebx = vendor->ebx;
    entries.back().ecx = vendor->ecx;
    entries.back().edx = vendor->edx;
  }
  entries.push_back({.function = kExtendedFeatures, .eax = amd ? signature : 0});
  SetBrand(entries, absl::StrFormat("Vireo %s processor", model.base));
  if (amd) {
    // AMD APM vol. 3, "L1 Cache and TLB Information": 64 KiB, 2 ways, 64-byte lines, twice; L2 of
    // 512 KiB, 16 ways; L3 of 16 MiB.
    entries.push_back({.function = kAmdL1, .ecx = 0x40020140, .edx = 0x40020140});
    entries.push_back({.function = kAmdL2, .ecx = 0x02008140, .edx = 0x00808140});
  } else {
    entries.push_back({.function = kAmdL2, .ecx = 0x10008040});
  }
  entries.push_back({.function = 0x80000007});
  if (const CpuidEntry* sizes = Find(host, kAddressSizes, 0)) {
    entries.push_back({.function = kAddressSizes, .eax = sizes->eax});
  }
  if (const CpuidEntry* kvm = Find(host, kKvmFeatures, 0)) entries.push_back(*kvm);
  return entries;
}

// Leaves of KVM itself: its signature and what a guest may use without the VMM's help.
void SetKvmLeaves(std::vector<CpuidEntry>& entries, uint32_t features) {
  std::erase_if(entries, [](const CpuidEntry& entry) {
    return entry.function >= kHypervisorFirst && entry.function < kHypervisorEnd;
  });
  std::array<uint32_t, 3> signature = {};
  std::memcpy(signature.data(), "KVMKVMKVM", 9);
  entries.push_back({.function = kHypervisorFirst,
                     .eax = kKvmFeatures,
                     .ebx = signature[0],
                     .ecx = signature[1],
                     .edx = signature[2]});
  entries.push_back({.function = kKvmFeatures, .eax = features & kKvmFeatureMask});
}

// Leaf 0xd speaks of nothing that the features do not.
void FitXsave(std::vector<CpuidEntry>& entries) {
  if (!Has(entries, *FindCpuFeature("xsave"))) {
    Erase(entries, kXsave);
    return;
  }
  CpuidEntry* const components = Find(entries, kXsave, 0);
  if (components == nullptr) return;
  uint32_t mask = components->eax;
  uint32_t known = kXsaveX87AndSse;
  for (const XsaveComponent& component : kXsaveComponents) {
    known |= 1u << component.bit;
    if (!Has(entries, *FindCpuFeature(component.feature))) mask &= ~(1u << component.bit);
  }
  mask &= known;
  components->eax = mask;
  components->edx = 0;
  uint32_t bytes = kLegacyXsaveBytes;
  for (const CpuidEntry& entry : entries) {
    if (entry.function != kXsave || entry.index < 2 || entry.index > 31) continue;
    if ((mask >> entry.index & 1) != 0) bytes = std::max(bytes, entry.ebx + entry.eax);
  }
  components->ebx = bytes;  // For all that is in the mask; KVM puts in what XCR0 holds.
  components->ecx = bytes;

  uint64_t supervisor = 0;
  if (CpuidEntry* const features = Find(entries, kXsave, 1); features != nullptr) {
    constexpr uint32_t kXsaves = 1 << 3;
    if ((features->eax & kXsaves) == 0) features->ecx = features->edx = 0;
    supervisor = features->ecx;
  }
  std::erase_if(entries, [&](const CpuidEntry& entry) {
    return entry.function == kXsave && entry.index >= 2 &&
           (entry.index > 31 || ((mask | supervisor) >> entry.index & 1) == 0);
  });
}

// Leaves whose presence the two "highest leaf" fields tell.
void SetMaximum(std::vector<CpuidEntry>& entries, uint32_t first, uint32_t limit) {
  uint32_t maximum = first;
  for (const CpuidEntry& entry : entries) {
    if (entry.function >= first && entry.function < limit) {
      maximum = std::max(maximum, entry.function);
    }
  }
  if (CpuidEntry* const entry = Find(entries, first, 0)) entry->eax = maximum;
}

absl::Status CheckTopology(const CpuTopology& topology) {
  const uint64_t cpus = uint64_t{topology.sockets} * topology.cores_per_socket *
                        std::max<uint64_t>(topology.threads_per_core, 1);
  if (topology.sockets == 0 || topology.cores_per_socket == 0 || topology.threads_per_core == 0 ||
      topology.sockets > kMostCpus || topology.cores_per_socket > kMostCpus ||
      topology.threads_per_core > 2 || cpus > kMostCpus) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a topology of %d sockets, %d cores each, %d threads each is not possible: at least one of "
        "each, at most 2 threads and %d in all",
        topology.sockets, topology.cores_per_socket, topology.threads_per_core, kMostCpus));
  }
  return absl::OkStatus();
}

std::string JoinNames(const std::vector<std::string>& names) { return absl::StrJoin(names, ", "); }

}  // namespace

absl::StatusOr<CpuModel> ParseCpuModel(std::string_view text) {
  CpuModel model;
  bool first = true;
  while (true) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view word = Trim(text.substr(0, comma));
    if (first) {
      if (word != "host" && FeaturesOfModel(word).empty()) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "unknown CPU model \"%s\": it is host, x86-64-v2, x86-64-v3 or x86-64-v4", word));
      }
      model.base = std::string(word);
      first = false;
    } else {
      if (word.size() < 2 || (word[0] != '+' && word[0] != '-')) {
        return absl::InvalidArgumentError(
            absl::StrFormat("CPU model: \"%s\" is neither +FEATURE nor -FEATURE", word));
      }
      const std::string name(word.substr(1));
      if (FindCpuFeature(name) == nullptr) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "CPU model: unknown feature \"%s\"; features have their names of /proc/cpuinfo", name));
      }
      std::vector<std::string>& mine = word[0] == '+' ? model.add : model.remove;
      const std::vector<std::string>& other = word[0] == '+' ? model.remove : model.add;
      if (std::find(other.begin(), other.end(), name) != other.end()) {
        return absl::InvalidArgumentError(
            absl::StrFormat("CPU model: %s is both added and removed", name));
      }
      mine.push_back(name);
    }
    if (comma == text.size()) return model;
    text.remove_prefix(comma + 1);
  }
}

CpuTopology DefaultTopology(uint32_t cpus) {
  return {.sockets = 1, .cores_per_socket = cpus, .threads_per_core = 1};
}

uint32_t ApicId(const CpuTopology& topology, uint32_t cpu_index) {
  const uint32_t thread = cpu_index % topology.threads_per_core;
  const uint32_t core = cpu_index / topology.threads_per_core % topology.cores_per_socket;
  const uint32_t socket = cpu_index / (topology.threads_per_core * topology.cores_per_socket);
  return socket << PackageBits(topology) | core << ThreadBits(topology) | thread;
}

absl::StatusOr<CpuidTemplate> CpuidTemplate::Build(const CpuidOptions& options) {
  RETURN_IF_ERROR(CheckTopology(options.topology));
  std::vector<CpuidEntry> host(options.supported.begin(), options.supported.end());
  if (Find(host, kVendor, 0) == nullptr || Find(host, kBasicFeatures, 0) == nullptr ||
      Find(host, kExtendedFeatures, 0) == nullptr) {
    return absl::FailedPreconditionError("KVM lists no CPUID leaves 0, 1 and 0x80000001");
  }
  // What the machine gives besides the processor: KVM leaves these to the VMM.
  CpuidEntry* const basic = Find(host, kBasicFeatures, 0);
  const CpuFeature& deadline = *FindCpuFeature("tsc_deadline_timer");
  basic->ecx |= kEcxHypervisor;
  basic->ecx &= ~(1u << deadline.bit);
  if (options.tsc_deadline_timer) basic->ecx |= 1u << deadline.bit;

  const bool named = options.model.base != "host";
  std::set<std::string_view> wanted;
  for (std::string_view name : FeaturesOfModel(options.model.base)) wanted.insert(name);
  if (named && wanted.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("unknown CPU model \"%s\"", options.model.base));
  }
  for (const std::string& name : options.model.add) wanted.insert(name);
  for (const std::string& name : options.model.remove) wanted.erase(name);
  std::vector<std::string> lacking;
  for (std::string_view name : wanted) {
    const CpuFeature* const feature = FindCpuFeature(name);
    if (feature == nullptr) {
      return absl::InvalidArgumentError(absl::StrFormat("unknown CPU feature \"%s\"", name));
    }
    if (!Has(host, *feature)) lacking.emplace_back(name);
  }
  if (!lacking.empty()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the CPU model %s needs %s, which this host's KVM does not offer",
                        options.model.base, JoinNames(lacking)));
  }

  CpuidTemplate result;
  result.topology_ = options.topology;
  std::vector<CpuidEntry>& entries = result.entries_;
  if (named) {
    entries = NamedModelEntries(options.model, host);
    // KVM emulates these wherever it runs, and guests do far better with them.
    for (std::string_view name : {"hypervisor", "x2apic", "tsc_deadline_timer", "arat"}) {
      if (Has(host, *FindCpuFeature(name))) wanted.insert(name);
    }
    for (const std::string& name : options.model.remove) wanted.erase(name);
    for (std::string_view name : wanted) {
      const CpuFeature* const feature = FindCpuFeature(name);
      CpuidEntry* entry = Find(entries, feature->function, feature->index);
      if (entry == nullptr) {
        entries.push_back({.function = feature->function,
                           .index = feature->index,
                           .has_index = feature->function == kXsave});
        entry = &entries.back();
      }
      RegisterOf(*entry, feature->reg) |= 1u << feature->bit;
    }
  } else {
    entries = host;
    Erase(entries, kMemoryEncryption);
    if (!Has(entries, *FindCpuFeature("svm"))) Erase(entries, kSvm);
  }
  for (const std::string& name : options.model.remove) {
    if (FindCpuFeature(name) == nullptr) {
      return absl::InvalidArgumentError(absl::StrFormat("unknown CPU feature \"%s\"", name));
    }
    Clear(entries, name);
  }
  FitXsave(entries);

  const CpuidEntry* const kvm = Find(host, kKvmFeatures, 0);
  SetKvmLeaves(entries, kvm == nullptr ? 0 : kvm->eax);

  // Where leaf 0x80000008 is absent, 36 bits are what there is.
  constexpr uint32_t kDefaultAddressSizes = 36 | 48 << 8;
  if (Find(entries, kAddressSizes, 0) == nullptr) {
    entries.push_back({.function = kAddressSizes, .eax = kDefaultAddressSizes});
  }
  CpuidEntry& sizes = *Find(entries, kAddressSizes, 0);
  uint32_t bits = sizes.eax & 0xff;
  if (options.max_physical_address_bits != 0) {
    bits = std::min(bits, options.max_physical_address_bits);
  }
  sizes.eax = (sizes.eax & 0xff00) | bits;  // Without a third width, which is for nested guests.
  result.physical_address_bits_ = bits;

  // Topology leaves are made for each vCPU; both vendors' kernels read 0xb.
  const bool v2 = Find(entries, kTopologyV2, 0) != nullptr;
  Erase(entries, kTopology);
  Erase(entries, kTopologyV2);
  Erase(entries, kAmdTopology);
  for (const uint32_t function : {kTopology, kTopologyV2}) {
    if (function == kTopologyV2 && !v2) continue;
    for (uint32_t level = 0; level < 3; ++level) {
      entries.push_back({.function = function, .index = level, .has_index = true});
    }
  }
  if (CpuidEntry* extended = Find(entries, kExtendedFeatures, 0);
      (extended->ecx & kEcxTopoext) != 0) {
    if (IsAmd(entries)) {
      entries.push_back({.function = kAmdTopology});
    } else {
      extended->ecx &= ~kEcxTopoext;
    }
  }
  SetMaximum(entries, kVendor, kHypervisorFirst);
  SetMaximum(entries, kExtendedFirst, 0xc0000000);
  std::sort(entries.begin(), entries.end(), [](const CpuidEntry& a, const CpuidEntry& b) {
    return a.function != b.function ? a.function < b.function : a.index < b.index;
  });
  return result;
}

std::vector<CpuidEntry> CpuidTemplate::For(uint32_t cpu_index) const {
  const uint32_t apic_id = ApicId(topology_, cpu_index);
  const uint32_t threads = topology_.threads_per_core;
  const uint32_t package_cpus = threads * topology_.cores_per_socket;
  const bool amd = IsAmd(entries_);
  // Leaves 4 and 0x8000001d: how many APIC IDs share the cache, less one.
  const auto sharing = [&](uint32_t eax) {
    constexpr uint32_t kSharingMask = 0xfffu << 14;
    const uint32_t level = eax >> 5 & 7;
    const uint32_t ids = 1u << (level >= 3 ? PackageBits(topology_) : ThreadBits(topology_));
    return (eax & ~kSharingMask) | ((ids - 1) << 14 & kSharingMask);
  };

  std::vector<CpuidEntry> entries = entries_;
  for (CpuidEntry& entry : entries) {
    switch (entry.function) {
      case kBasicFeatures: {
        const uint32_t logical = std::min<uint32_t>(1u << PackageBits(topology_), 255);
        entry.ebx = (entry.ebx & 0xffff) | logical << 16 | (apic_id & 0xff) << 24;
        entry.ecx &= ~kEcxOsxsave;  // KVM sets it when the guest does.
        entry.edx &= ~kEdxHyperThreading;
        if (package_cpus > 1) entry.edx |= kEdxHyperThreading;
        break;
      }
      case kIntelCaches:
        if ((entry.eax & 0x1f) != 0) {
          const uint32_t cores =
              std::min<uint32_t>((1u << BitsFor(topology_.cores_per_socket)) - 1, 63);
          entry.eax = (sharing(entry.eax) & 0x03ffffff) | cores << 26;
        }
        break;
      case kAmdCaches:
        if ((entry.eax & 0x1f) != 0) entry.eax = sharing(entry.eax);
        break;
      case kTopology:
      case kTopologyV2: {
        // Intel SDM vol. 2A, leaf 0BH: level type 1 is SMT, 2 is core.
        constexpr uint32_t kSmt = 1 << 8, kCore = 2 << 8;
        entry.eax = entry.ebx = 0;
        entry.ecx = entry.index;
        entry.edx = apic_id;
        if (entry.index == 0) {
          entry.eax = ThreadBits(topology_);
          entry.ebx = threads;
          entry.ecx |= kSmt;
        } else if (entry.index == 1) {
          entry.eax = PackageBits(topology_);
          entry.ebx = package_cpus;
          entry.ecx |= kCore;
        }
        break;
      }
      case kExtendedFeatures:
        entry.ecx &= ~kEcxCmpLegacy;
        if (amd && package_cpus > 1) entry.ecx |= kEcxCmpLegacy;
        break;
      case kAddressSizes:
        // AMD APM vol. 3, "Processor Capacity Parameters": threads less one, and the bits of their
        // IDs.
        entry.ecx =
            amd ? (std::min<uint32_t>(package_cpus - 1, 255) | PackageBits(topology_) << 12) : 0;
        entry.edx = 0;
        break;
      case kAmdTopology:
        entry.eax = apic_id;
        entry.ebx =
            (apic_id >> ThreadBits(topology_) & ((1u << BitsFor(topology_.cores_per_socket)) - 1)) |
            (threads - 1) << 8;
        entry.ecx = apic_id >> PackageBits(topology_);
        entry.edx = 0;
        break;
      default:
        break;
    }
  }
  return entries;
}

bool CpuidTemplate::HasFeature(std::string_view linux_name) const {
  const CpuFeature* const feature = FindCpuFeature(linux_name);
  return feature != nullptr && Has(entries_, *feature);
}

std::vector<std::string> CpuidTemplate::FeatureNames() const {
  std::vector<std::string> names;
  for (const CpuFeature& feature : CpuFeatures()) {
    if (Has(entries_, feature)) names.emplace_back(feature.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace vireo::x86
