#include "vmm/x86/cpu_features.h"

#include <algorithm>
#include <array>

namespace vireo::x86 {
namespace {

// Intel SDM vol. 2A, "CPUID"; AMD APM vol. 3, appendix E; names as in Linux
// arch/x86/include/asm/cpufeatures.h.
// clang-format off
constexpr CpuFeature kFeatures[] = {
    {"fpu", 0x1, 0, CpuidRegister::kEdx, 0},
    {"vme", 0x1, 0, CpuidRegister::kEdx, 1},
    {"de", 0x1, 0, CpuidRegister::kEdx, 2},
    {"pse", 0x1, 0, CpuidRegister::kEdx, 3},
    {"tsc", 0x1, 0, CpuidRegister::kEdx, 4},
    {"msr", 0x1, 0, CpuidRegister::kEdx, 5},
    {"pae", 0x1, 0, CpuidRegister::kEdx, 6},
    {"mce", 0x1, 0, CpuidRegister::kEdx, 7},
    {"cx8", 0x1, 0, CpuidRegister::kEdx, 8},
    {"apic", 0x1, 0, CpuidRegister::kEdx, 9},
    {"sep", 0x1, 0, CpuidRegister::kEdx, 11},
    {"mtrr", 0x1, 0, CpuidRegister::kEdx, 12},
    {"pge", 0x1, 0, CpuidRegister::kEdx, 13},
    {"mca", 0x1, 0, CpuidRegister::kEdx, 14},
    {"cmov", 0x1, 0, CpuidRegister::kEdx, 15},
    {"pat", 0x1, 0, CpuidRegister::kEdx, 16},
    {"pse36", 0x1, 0, CpuidRegister::kEdx, 17},
    {"clflush", 0x1, 0, CpuidRegister::kEdx, 19},
    {"mmx", 0x1, 0, CpuidRegister::kEdx, 23},
    {"fxsr", 0x1, 0, CpuidRegister::kEdx, 24},
    {"sse", 0x1, 0, CpuidRegister::kEdx, 25},
    {"sse2", 0x1, 0, CpuidRegister::kEdx, 26},
    {"pni", 0x1, 0, CpuidRegister::kEcx, 0},
    {"pclmulqdq", 0x1, 0, CpuidRegister::kEcx, 1},
    {"ssse3", 0x1, 0, CpuidRegister::kEcx, 9},
    {"fma", 0x1, 0, CpuidRegister::kEcx, 12},
    {"cx16", 0x1, 0, CpuidRegister::kEcx, 13},
    {"pcid", 0x1, 0, CpuidRegister::kEcx, 17},
    {"sse4_1", 0x1, 0, CpuidRegister::kEcx, 19},
    {"sse4_2", 0x1, 0, CpuidRegister::kEcx, 20},
    {"x2apic", 0x1, 0, CpuidRegister::kEcx, 21},
    {"movbe", 0x1, 0, CpuidRegister::kEcx, 22},
    {"popcnt", 0x1, 0, CpuidRegister::kEcx, 23},
    {"tsc_deadline_timer", 0x1, 0, CpuidRegister::kEcx, 24},
    {"aes", 0x1, 0, CpuidRegister::kEcx, 25},
    {"xsave", 0x1, 0, CpuidRegister::kEcx, 26},
    {"avx", 0x1, 0, CpuidRegister::kEcx, 28},
    {"f16c", 0x1, 0, CpuidRegister::kEcx, 29},
    {"rdrand", 0x1, 0, CpuidRegister::kEcx, 30},
    {"hypervisor", 0x1, 0, CpuidRegister::kEcx, 31},
    {"fsgsbase", 0x7, 0, CpuidRegister::kEbx, 0},
    {"tsc_adjust", 0x7, 0, CpuidRegister::kEbx, 1},
    {"bmi1", 0x7, 0, CpuidRegister::kEbx, 3},
    {"hle", 0x7, 0, CpuidRegister::kEbx, 4},
    {"avx2", 0x7, 0, CpuidRegister::kEbx, 5},
    {"smep", 0x7, 0, CpuidRegister::kEbx, 7},
    {"bmi2", 0x7, 0, CpuidRegister::kEbx, 8},
    {"erms", 0x7, 0, CpuidRegister::kEbx, 9},
    {"invpcid", 0x7, 0, CpuidRegister::kEbx, 10},
    {"rtm", 0x7, 0, CpuidRegister::kEbx, 11},
    {"mpx", 0x7, 0, CpuidRegister::kEbx, 14},
    {"avx512f", 0x7, 0, CpuidRegister::kEbx, 16},
    {"avx512dq", 0x7, 0, CpuidRegister::kEbx, 17},
    {"rdseed", 0x7, 0, CpuidRegister::kEbx, 18},
    {"adx", 0x7, 0, CpuidRegister::kEbx, 19},
    {"smap", 0x7, 0, CpuidRegister::kEbx, 20},
    {"avx512ifma", 0x7, 0, CpuidRegister::kEbx, 21},
    {"clflushopt", 0x7, 0, CpuidRegister::kEbx, 23},
    {"clwb", 0x7, 0, CpuidRegister::kEbx, 24},
    {"avx512pf", 0x7, 0, CpuidRegister::kEbx, 26},
    {"avx512er", 0x7, 0, CpuidRegister::kEbx, 27},
    {"avx512cd", 0x7, 0, CpuidRegister::kEbx, 28},
    {"sha_ni", 0x7, 0, CpuidRegister::kEbx, 29},
    {"avx512bw", 0x7, 0, CpuidRegister::kEbx, 30},
    {"avx512vl", 0x7, 0, CpuidRegister::kEbx, 31},
    {"avx512vbmi", 0x7, 0, CpuidRegister::kEcx, 1},
    {"umip", 0x7, 0, CpuidRegister::kEcx, 2},
    {"pku", 0x7, 0, CpuidRegister::kEcx, 3},
    {"avx512_vbmi2", 0x7, 0, CpuidRegister::kEcx, 6},
    {"gfni", 0x7, 0, CpuidRegister::kEcx, 8},
    {"vaes", 0x7, 0, CpuidRegister::kEcx, 9},
    {"vpclmulqdq", 0x7, 0, CpuidRegister::kEcx, 10},
    {"avx512_vnni", 0x7, 0, CpuidRegister::kEcx, 11},
    {"avx512_bitalg", 0x7, 0, CpuidRegister::kEcx, 12},
    {"avx512_vpopcntdq", 0x7, 0, CpuidRegister::kEcx, 14},
    {"la57", 0x7, 0, CpuidRegister::kEcx, 16},
    {"rdpid", 0x7, 0, CpuidRegister::kEcx, 22},
    {"bus_lock_detect", 0x7, 0, CpuidRegister::kEcx, 24},
    {"cldemote", 0x7, 0, CpuidRegister::kEcx, 25},
    {"movdiri", 0x7, 0, CpuidRegister::kEcx, 27},
    {"movdir64b", 0x7, 0, CpuidRegister::kEcx, 28},
    {"avx512_4vnniw", 0x7, 0, CpuidRegister::kEdx, 2},
    {"avx512_4fmaps", 0x7, 0, CpuidRegister::kEdx, 3},
    {"fsrm", 0x7, 0, CpuidRegister::kEdx, 4},
    {"avx512_vp2intersect", 0x7, 0, CpuidRegister::kEdx, 8},
    {"md_clear", 0x7, 0, CpuidRegister::kEdx, 10},
    {"serialize", 0x7, 0, CpuidRegister::kEdx, 14},
    {"tsxldtrk", 0x7, 0, CpuidRegister::kEdx, 16},
    {"amx_bf16", 0x7, 0, CpuidRegister::kEdx, 22},
    {"avx512_fp16", 0x7, 0, CpuidRegister::kEdx, 23},
    {"amx_tile", 0x7, 0, CpuidRegister::kEdx, 24},
    {"amx_int8", 0x7, 0, CpuidRegister::kEdx, 25},
    {"spec_ctrl", 0x7, 0, CpuidRegister::kEdx, 26},
    {"intel_stibp", 0x7, 0, CpuidRegister::kEdx, 27},
    {"flush_l1d", 0x7, 0, CpuidRegister::kEdx, 28},
    {"arch_capabilities", 0x7, 0, CpuidRegister::kEdx, 29},
    {"ssbd", 0x7, 0, CpuidRegister::kEdx, 31},
    {"avx_vnni", 0x7, 1, CpuidRegister::kEax, 4},
    {"avx512_bf16", 0x7, 1, CpuidRegister::kEax, 5},
    {"fzrm", 0x7, 1, CpuidRegister::kEax, 10},
    {"fsrs", 0x7, 1, CpuidRegister::kEax, 11},
    {"fsrc", 0x7, 1, CpuidRegister::kEax, 12},
    {"amx_fp16", 0x7, 1, CpuidRegister::kEax, 21},
    {"avx_ifma", 0x7, 1, CpuidRegister::kEax, 23},
    {"xsaveopt", 0xd, 1, CpuidRegister::kEax, 0},
    {"xsavec", 0xd, 1, CpuidRegister::kEax, 1},
    {"xgetbv1", 0xd, 1, CpuidRegister::kEax, 2},
    {"xsaves", 0xd, 1, CpuidRegister::kEax, 3},
    {"xfd", 0xd, 1, CpuidRegister::kEax, 4},
    {"syscall", 0x80000001, 0, CpuidRegister::kEdx, 11},
    {"nx", 0x80000001, 0, CpuidRegister::kEdx, 20},
    {"mmxext", 0x80000001, 0, CpuidRegister::kEdx, 22},
    {"fxsr_opt", 0x80000001, 0, CpuidRegister::kEdx, 25},
    {"pdpe1gb", 0x80000001, 0, CpuidRegister::kEdx, 26},
    {"rdtscp", 0x80000001, 0, CpuidRegister::kEdx, 27},
    {"lm", 0x80000001, 0, CpuidRegister::kEdx, 29},
    {"3dnowext", 0x80000001, 0, CpuidRegister::kEdx, 30},
    {"3dnow", 0x80000001, 0, CpuidRegister::kEdx, 31},
    {"lahf_lm", 0x80000001, 0, CpuidRegister::kEcx, 0},
    {"svm", 0x80000001, 0, CpuidRegister::kEcx, 2},
    {"cr8_legacy", 0x80000001, 0, CpuidRegister::kEcx, 4},
    {"abm", 0x80000001, 0, CpuidRegister::kEcx, 5},
    {"sse4a", 0x80000001, 0, CpuidRegister::kEcx, 6},
    {"misalignsse", 0x80000001, 0, CpuidRegister::kEcx, 7},
    {"3dnowprefetch", 0x80000001, 0, CpuidRegister::kEcx, 8},
    {"osvw", 0x80000001, 0, CpuidRegister::kEcx, 9},
    {"ibs", 0x80000001, 0, CpuidRegister::kEcx, 10},
    {"xop", 0x80000001, 0, CpuidRegister::kEcx, 11},
    {"fma4", 0x80000001, 0, CpuidRegister::kEcx, 16},
    {"tbm", 0x80000001, 0, CpuidRegister::kEcx, 21},
    {"topoext", 0x80000001, 0, CpuidRegister::kEcx, 22},
    {"perfctr_core", 0x80000001, 0, CpuidRegister::kEcx, 23},
    {"nonstop_tsc", 0x80000007, 0, CpuidRegister::kEdx, 8},
    {"clzero", 0x80000008, 0, CpuidRegister::kEbx, 0},
    {"xsaveerptr", 0x80000008, 0, CpuidRegister::kEbx, 2},
    {"wbnoinvd", 0x80000008, 0, CpuidRegister::kEbx, 9},
    {"ibpb", 0x80000008, 0, CpuidRegister::kEbx, 12},
    {"ibrs", 0x80000008, 0, CpuidRegister::kEbx, 14},
    {"stibp", 0x80000008, 0, CpuidRegister::kEbx, 15},
    {"stibp_always_on", 0x80000008, 0, CpuidRegister::kEbx, 17},
    {"amd_ssbd", 0x80000008, 0, CpuidRegister::kEbx, 24},
    {"virt_ssbd", 0x80000008, 0, CpuidRegister::kEbx, 25},
    {"amd_ssb_no", 0x80000008, 0, CpuidRegister::kEbx, 26},
    {"amd_psfd", 0x80000008, 0, CpuidRegister::kEbx, 28},
    {"no_nested_data_bp", 0x80000021, 0, CpuidRegister::kEax, 0},
    {"lfence_rdtsc", 0x80000021, 0, CpuidRegister::kEax, 2},
    {"null_sel_clr_base", 0x80000021, 0, CpuidRegister::kEax, 6},
    {"autoibrs", 0x80000021, 0, CpuidRegister::kEax, 8},
    {"no_smm_ctl_msr", 0x80000021, 0, CpuidRegister::kEax, 9},
    {"sbpb", 0x80000021, 0, CpuidRegister::kEax, 27},
    {"ibpb_brtype", 0x80000021, 0, CpuidRegister::kEax, 28},
    {"srso_no", 0x80000021, 0, CpuidRegister::kEax, 29},
    {"arat", 0x6, 0, CpuidRegister::kEax, 2},
};
// clang-format on

// What any 64-bit PC has and every kernel takes for granted (x86-64-v1 and the machine's basics),
// then the levels of the x86-64 psABI, "Micro-Architecture Levels". Each level holds those before
// it.
constexpr std::string_view kLevels[] = {
    "fpu",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "syscall",
    "nx",
    "lm",
    // x86-64-v2
    "cx16",
    "lahf_lm",
    "popcnt",
    "pni",
    "sse4_1",
    "sse4_2",
    "ssse3",
    // x86-64-v3
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "abm",
    "movbe",
    "xsave",
    // x86-64-v4
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
};
constexpr size_t kLevel2 = 24 + 7;
constexpr size_t kLevel3 = kLevel2 + 9;
constexpr size_t kLevel4 = kLevel3 + 5;
static_assert(std::size(kLevels) == kLevel4);

constexpr std::string_view kOfXsave[] = {"avx", "xsaveopt", "xsavec", "xgetbv1", "xsaves",
                                         "xfd", "pku",      "mpx",    "amx_tile"};
constexpr std::string_view kOfAvx[] = {"avx2", "f16c",       "fma",      "fma4",     "xop",
                                       "vaes", "vpclmulqdq", "avx_vnni", "avx_ifma", "avx512f"};
constexpr std::string_view kOfAvx512f[] = {
    "avx512dq",      "avx512ifma",       "avx512pf",      "avx512er",      "avx512cd",
    "avx512bw",      "avx512vl",         "avx512vbmi",    "avx512_vbmi2",  "avx512_vnni",
    "avx512_bitalg", "avx512_vpopcntdq", "avx512_4vnniw", "avx512_4fmaps", "avx512_vp2intersect",
    "avx512_fp16",   "avx512_bf16"};
constexpr std::string_view kOfAmxTile[] = {"amx_bf16", "amx_int8", "amx_fp16"};

}  // namespace

std::span<const CpuFeature> CpuFeatures() { return kFeatures; }

const CpuFeature* FindCpuFeature(std::string_view name) {
  const auto found = std::find_if(std::begin(kFeatures), std::end(kFeatures),
                                  [&](const CpuFeature& f) { return f.name == name; });
  return found == std::end(kFeatures) ? nullptr : found;
}

uint32_t& RegisterOf(CpuidEntry& entry, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::kEax:
      return entry.eax;
    case CpuidRegister::kEbx:
      return entry.ebx;
    case CpuidRegister::kEcx:
      return entry.ecx;
    case CpuidRegister::kEdx:
      return entry.edx;
  }
  __builtin_unreachable();
}

uint32_t RegisterOf(const CpuidEntry& entry, CpuidRegister reg) {
  return RegisterOf(const_cast<CpuidEntry&>(entry), reg);
}

std::span<const std::string_view> DependentsOf(std::string_view name) {
  if (name == "xsave") return kOfXsave;
  if (name == "avx") return kOfAvx;
  if (name == "avx512f") return kOfAvx512f;
  if (name == "amx_tile") return kOfAmxTile;
  return {};
}

std::span<const std::string_view> FeaturesOfModel(std::string_view model) {
  const std::span<const std::string_view> all = kLevels;
  if (model == "x86-64-v2") return all.first(kLevel2);
  if (model == "x86-64-v3") return all.first(kLevel3);
  if (model == "x86-64-v4") return all;
  return {};
}

}  // namespace vireo::x86
