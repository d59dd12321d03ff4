#include "vmm/x86/cpuid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "base/x86/cpu_types.h"
#include "vmm/x86/cpu_features.h"

namespace vireo::x86 {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

std::vector<CpuidEntry> Host(std::string_view vendor, std::initializer_list<const char*> lacking) {
  uint32_t letters[3];
  std::memcpy(letters, vendor.data(), 12);
  const bool amd = vendor == "AuthenticAMD";
  std::vector<CpuidEntry> host = {
      // KVM's order of the vendor's letters: EBX, EDX, ECX.
      {.function = 0, .eax = 0x10, .ebx = letters[0], .ecx = letters[2], .edx = letters[1]},
      {.function = 1, .eax = 0x00a20f10, .ebx = 0x05800800},
      {.function = 6},
      {.function = 7, .index = 0, .has_index = true, .eax = 1},
      {.function = 7, .index = 1, .has_index = true},
      {.function = 0xb, .index = 0, .has_index = true, .edx = 201},
      {.function = 0xd, .index = 0, .has_index = true, .eax = 0x2e7, .ebx = 2696, .ecx = 2696},
      {.function = 0xd, .index = 1, .has_index = true, .ecx = 0x1800},
      {.function = 0xd, .index = 2, .has_index = true, .eax = 256, .ebx = 576},
      {.function = 0xd, .index = 5, .has_index = true, .eax = 64, .ebx = 1088},
      {.function = 0xd, .index = 6, .has_index = true, .eax = 512, .ebx = 1152},
      {.function = 0xd, .index = 7, .has_index = true, .eax = 1024, .ebx = 1664},
      {.function = 0xd, .index = 9, .has_index = true, .eax = 8, .ebx = 2688},
      {.function = 0xd, .index = 11, .has_index = true, .eax = 16, .ecx = 1},
      {.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b},
      {.function = 0x40000001, .eax = 0xffffffff, .edx = 1},
      {.function = 0x40000010, .eax = 12345},
      {.function = 0x80000000, .eax = 0x80000021},
      {.function = 0x80000001},
      {.function = 0x80000002, .eax = 0x74736f48},  // "Host"
      {.function = 0x80000007},
      {.function = 0x80000008, .eax = 0x00303030, .ecx = 0x4007},
      {.function = 0x8000000a, .eax = 1},
      {.function = 0x8000001f, .eax = 2},
      {.function = 0x80000021},
  };
  if (amd) {
    host.push_back({.function = 0x8000001d, .index = 0, .has_index = true, .eax = 0x121});
    host.push_back({.function = 0x8000001d, .index = 1, .has_index = true, .eax = 0x163});
    host.push_back({.function = 0x8000001e, .eax = 201});
  } else {
    host.push_back({.function = 4, .index = 0, .has_index = true, .eax = 0x1c004121});
    host.push_back({.function = 4, .index = 1, .has_index = true, .eax = 0x1c03c163});
    host.push_back({.function = 4, .index = 2, .has_index = true});
    host.push_back({.function = 0x1f, .index = 0, .has_index = true, .edx = 201});
  }
  std::set<std::string_view> without(lacking.begin(), lacking.end());
  for (std::string_view always : {"svm", "tsc_deadline_timer", "hypervisor"})
    without.insert(always);
  for (const CpuFeature& feature : CpuFeatures()) {
    if (without.contains(feature.name)) continue;
    for (CpuidEntry& entry : host) {
      if (entry.function == feature.function && entry.index == feature.index) {
        RegisterOf(entry, feature.reg) |= 1u << feature.bit;
      }
    }
  }
  return host;
}

std::vector<CpuidEntry> Amd(std::initializer_list<const char*> lacking = {}) {
  return Host("AuthenticAMD", lacking);
}
std::vector<CpuidEntry> Intel(std::initializer_list<const char*> lacking = {}) {
  return Host("GenuineIntel", lacking);
}

absl::StatusOr<CpuidTemplate> Build(const std::vector<CpuidEntry>& host, std::string_view model,
                                    CpuTopology topology = {}) {
  absl::StatusOr<CpuModel> parsed = ParseCpuModel(model);
  if (!parsed.ok()) return parsed.status();
  return CpuidTemplate::Build(
      {.supported = host, .model = *parsed, .topology = topology, .tsc_deadline_timer = true});
}

// The leaf, which must be there once.
CpuidEntry Leaf(const std::vector<CpuidEntry>& entries, uint32_t function, uint32_t index = 0) {
  CpuidEntry found;
  int count = 0;
  for (const CpuidEntry& entry : entries) {
    if (entry.function != function || entry.index != index) continue;
    found = entry;
    ++count;
  }
  EXPECT_EQ(count, 1) << std::hex << function << "." << index;
  return found;
}

bool HasLeaf(const std::vector<CpuidEntry>& entries, uint32_t function, uint32_t index = 0) {
  for (const CpuidEntry& entry : entries) {
    if (entry.function == function && entry.index == index) return true;
  }
  return false;
}

TEST(CpuModelTest, BaseAndFeatures) {
  const CpuModel model = *ParseCpuModel("x86-64-v2, +aes ,-popcnt,+rdrand");
  EXPECT_EQ(model.base, "x86-64-v2");
  EXPECT_THAT(model.add, testing::ElementsAre("aes", "rdrand"));
  EXPECT_THAT(model.remove, testing::ElementsAre("popcnt"));
  EXPECT_EQ(ParseCpuModel("host")->base, "host");
}

struct BadModel {
  const char* name;
  const char* text;
  const char* says;
};
class BadModelTest : public testing::TestWithParam<BadModel> {};

TEST_P(BadModelTest, IsRefusedByName) {
  const absl::Status status = ParseCpuModel(GetParam().text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(Texts, BadModelTest,
                         testing::Values(BadModel{"Empty", "", "unknown CPU model \"\""},
                                         BadModel{"Unknown", "skylake", "\"skylake\""},
                                         BadModel{"UnknownFeature", "host,+warp", "\"warp\""},
                                         BadModel{"NoSign", "host,avx", "\"avx\""},
                                         BadModel{"EmptyFeature", "host,", "\"\""},
                                         BadModel{"OnlySign", "host,+", "\"+\""},
                                         BadModel{"Contradiction", "host,+avx,-avx",
                                                  "avx is both"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(HostModelTest, KeepsWhatKvmSupportsAndAddsWhatTheMachineGives) {
  const CpuidTemplate cpuid = *Build(Amd(), "host");
  EXPECT_TRUE(cpuid.HasFeature("avx512f"));
  EXPECT_TRUE(cpuid.HasFeature("hypervisor"));
  EXPECT_TRUE(cpuid.HasFeature("tsc_deadline_timer"));
  EXPECT_FALSE(cpuid.HasFeature("svm"));
  EXPECT_EQ(Leaf(cpuid.For(0), 1).eax, 0x00a20f10u);
  EXPECT_EQ(cpuid.physical_address_bits(), 0x30u);
}

TEST(HostModelTest, LeavesOutWhatAGuestCannotUse) {
  const std::vector<CpuidEntry> entries = Build(Amd(), "host")->For(0);
  EXPECT_FALSE(HasLeaf(entries, 0x8000000a));
  EXPECT_FALSE(HasLeaf(entries, 0x8000001f));
  EXPECT_FALSE(HasLeaf(entries, 0x40000010));
}

TEST(HostModelTest, TscDeadlineOnlyWhereKvmHasIt) {
  const std::vector<CpuidEntry> host = Amd();
  const CpuidTemplate cpuid =
      *CpuidTemplate::Build({.supported = host, .model = {}, .topology = {}});
  EXPECT_FALSE(cpuid.HasFeature("tsc_deadline_timer"));
}

TEST(HostModelTest, RemovingAFeatureRemovesWhatBuildsOnIt) {
  const CpuidTemplate cpuid = *Build(Amd(), "host,-avx");
  for (const char* name : {"avx", "avx2", "fma", "avx512f", "avx512vl", "vaes"}) {
    EXPECT_FALSE(cpuid.HasFeature(name)) << name;
  }
  EXPECT_TRUE(cpuid.HasFeature("xsave"));
  const std::vector<CpuidEntry> entries = cpuid.For(0);
  EXPECT_EQ(Leaf(entries, 0xd, 0).eax, 0x203u);  // x87, SSE, PKU.
  EXPECT_FALSE(HasLeaf(entries, 0xd, 2));
  EXPECT_FALSE(HasLeaf(entries, 0xd, 7));
  EXPECT_TRUE(HasLeaf(entries, 0xd, 9));
}

TEST(HostModelTest, WithoutXsaveThereIsNoLeafOfIt) {
  const CpuidTemplate cpuid = *Build(Amd(), "host,-xsave");
  EXPECT_FALSE(HasLeaf(cpuid.For(0), 0xd, 0));
  EXPECT_FALSE(cpuid.HasFeature("xsaves"));
  EXPECT_FALSE(cpuid.HasFeature("avx"));
}

TEST(HostModelTest, SupervisorStateStaysOnlyWithXsaves) {
  EXPECT_TRUE(HasLeaf(Build(Amd(), "host")->For(0), 0xd, 11));
  EXPECT_FALSE(HasLeaf(Build(Amd(), "host,-xsaves")->For(0), 0xd, 11));
}

TEST(KvmLeavesTest, SignatureAndOnlyFeaturesThatNeedNoHelp) {
  const std::vector<CpuidEntry> entries = Build(Amd(), "host")->For(0);
  const CpuidEntry signature = Leaf(entries, 0x40000000);
  EXPECT_EQ(signature.eax, 0x40000001u);
  EXPECT_EQ(signature.ebx, 0x4b4d564bu);
  EXPECT_EQ(signature.ecx, 0x564b4d56u);
  EXPECT_EQ(signature.edx, 0x4du);
  const CpuidEntry features = Leaf(entries, 0x40000001);
  EXPECT_EQ(features.eax,
            0x01007efbu);       // Not MSI_EXT_DEST_ID, HC_MAP_GPA_RANGE, MIGRATION_CONTROL.
  EXPECT_EQ(features.edx, 0u);  // No promise of dedicated processors.
}

TEST(NamedModelTest, GivesExactlyItsLevelOnAnyHost) {
  for (const auto& host : {Amd(), Intel()}) {
    const CpuidTemplate cpuid = *Build(host, "x86-64-v3");
    EXPECT_TRUE(cpuid.HasFeature("avx2"));
    EXPECT_TRUE(cpuid.HasFeature("x2apic"));
    EXPECT_FALSE(cpuid.HasFeature("avx512f"));
    EXPECT_FALSE(cpuid.HasFeature("rdrand"));
    EXPECT_FALSE(cpuid.HasFeature("nonstop_tsc"));
    EXPECT_EQ(Leaf(cpuid.For(0), 0xd, 0).eax, 7u);
    EXPECT_EQ(Leaf(cpuid.For(0), 0xd, 0).ecx, 832u);
  }
  EXPECT_EQ(Build(Amd(), "x86-64-v3")->FeatureNames(), Build(Intel(), "x86-64-v3")->FeatureNames());
}

TEST(NamedModelTest, RicherHostsOfOneVendorGiveTheSameLeaves) {
  EXPECT_EQ(Build(Amd(), "x86-64-v2")->For(1),
            Build(Amd({"avx512f", "avx2", "sha_ni", "rdrand", "topoext"}), "x86-64-v2")->For(1));
}

TEST(NamedModelTest, LevelTwoHasNoXsave) {
  const CpuidTemplate cpuid = *Build(Intel(), "x86-64-v2");
  EXPECT_FALSE(cpuid.HasFeature("xsave"));
  EXPECT_FALSE(HasLeaf(cpuid.For(0), 0xd, 0));
}

TEST(NamedModelTest, FeaturesAreAddedAndRemoved) {
  const CpuidTemplate cpuid = *Build(Amd(), "x86-64-v2,+aes,+rdrand,-popcnt,-x2apic");
  EXPECT_TRUE(cpuid.HasFeature("aes"));
  EXPECT_TRUE(cpuid.HasFeature("rdrand"));
  EXPECT_FALSE(cpuid.HasFeature("popcnt"));
  EXPECT_FALSE(cpuid.HasFeature("x2apic"));
}

TEST(NamedModelTest, BrandNamesTheModel) {
  const CpuidEntry first = Leaf(Build(Amd(), "x86-64-v2")->For(0), 0x80000002);
  char text[17] = {};
  std::memcpy(text, &first.eax, 16);
  EXPECT_STREQ(text, "Vireo x86-64-v2 ");
}

TEST(NamedModelTest, WhatTheHostLacksIsNamed) {
  const absl::Status status = Build(Amd({"avx2", "fma"}), "x86-64-v3").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("x86-64-v3 needs avx2, fma"));
  EXPECT_TRUE(Build(Amd({"avx2", "fma"}), "x86-64-v3,-avx2,-fma").ok());
  EXPECT_THAT(std::string(Build(Amd({"sha_ni"}), "host,+sha_ni").status().message()),
              HasSubstr("sha_ni"));
}

struct TopologyCase {
  const char* name;
  CpuTopology topology;
  uint32_t cpu;
  uint32_t apic_id;
  uint32_t thread_bits;
  uint32_t package_bits;
};
class TopologyTest : public testing::TestWithParam<TopologyCase> {};

TEST_P(TopologyTest, LeavesAgree) {
  const TopologyCase& c = GetParam();
  EXPECT_EQ(ApicId(c.topology, c.cpu), c.apic_id);
  const uint32_t per_package = c.topology.cores_per_socket * c.topology.threads_per_core;
  for (const auto& host : {Amd(), Intel()}) {
    const std::vector<CpuidEntry> entries = Build(host, "host", c.topology)->For(c.cpu);
    const CpuidEntry basic = Leaf(entries, 1);
    EXPECT_EQ(basic.ebx >> 24, c.apic_id);
    EXPECT_EQ(basic.ebx >> 16 & 0xff, 1u << c.package_bits);
    EXPECT_EQ(basic.edx >> 28 & 1, per_package > 1 ? 1u : 0u);
    EXPECT_EQ(basic.ecx >> 27 & 1, 0u);  // OSXSAVE is the guest's own doing.
    const CpuidEntry smt = Leaf(entries, 0xb, 0);
    EXPECT_EQ(smt.eax, c.thread_bits);
    EXPECT_EQ(smt.ebx, c.topology.threads_per_core);
    EXPECT_EQ(smt.ecx, 0x100u);
    EXPECT_EQ(smt.edx, c.apic_id);
    const CpuidEntry core = Leaf(entries, 0xb, 1);
    EXPECT_EQ(core.eax, c.package_bits);
    EXPECT_EQ(core.ebx, per_package);
    EXPECT_EQ(core.ecx, 0x201u);
    EXPECT_EQ(Leaf(entries, 0xb, 2).ecx, 2u);
  }

  const std::vector<CpuidEntry> amd = Build(Amd(), "host", c.topology)->For(c.cpu);
  EXPECT_EQ(Leaf(amd, 0x80000008).ecx, (per_package - 1) | c.package_bits << 12);
  EXPECT_EQ(Leaf(amd, 0x80000001).ecx >> 1 & 1, per_package > 1 ? 1u : 0u);
  const CpuidEntry extended = Leaf(amd, 0x8000001e);
  EXPECT_EQ(extended.eax, c.apic_id);
  EXPECT_EQ(extended.ebx >> 8, c.topology.threads_per_core - 1);
  EXPECT_EQ(Leaf(amd, 0x8000001d, 0).eax >> 14 & 0xfff, (1u << c.thread_bits) - 1);
  EXPECT_EQ(Leaf(amd, 0x8000001d, 1).eax >> 14 & 0xfff, (1u << c.package_bits) - 1);

  const std::vector<CpuidEntry> intel = Build(Intel(), "host", c.topology)->For(c.cpu);
  EXPECT_EQ(Leaf(intel, 4, 0).eax >> 14 & 0xfff, (1u << c.thread_bits) - 1);
  EXPECT_EQ(Leaf(intel, 4, 1).eax >> 14 & 0xfff, (1u << c.package_bits) - 1);
  EXPECT_EQ(Leaf(intel, 4, 0).eax >> 26, (1u << (c.package_bits - c.thread_bits)) - 1);
  EXPECT_EQ(Leaf(intel, 4, 2).eax, 0u);
  EXPECT_EQ(Leaf(intel, 0x1f, 1).ebx, per_package);
  EXPECT_FALSE(HasLeaf(amd, 0x1f));
}

INSTANTIATE_TEST_SUITE_P(Shapes, TopologyTest,
                         testing::Values(TopologyCase{"One", {1, 1, 1}, 0, 0, 0, 0},
                                         TopologyCase{"FourCores", {1, 4, 1}, 3, 3, 0, 2},
                                         TopologyCase{"Threads", {1, 2, 2}, 3, 3, 1, 2},
                                         TopologyCase{"ThreeCores", {2, 3, 1}, 3, 4, 0, 2},
                                         TopologyCase{"Sockets", {2, 3, 2}, 11, 13, 1, 3},
                                         TopologyCase{"SixtyFour", {1, 64, 1}, 63, 63, 0, 6}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CpuidTest, NothingOfTheHostsOwnTopologyShows) {
  for (const auto& host : {Amd(), Intel()}) {
    for (const CpuidEntry& entry : Build(host, "host", {1, 2, 1})->For(0)) {
      EXPECT_NE(entry.edx, 201u) << std::hex << entry.function;
      EXPECT_FALSE(entry.function == 0x8000001e && entry.eax != 0);
    }
  }
}

TEST(CpuidTest, ImpossibleTopologiesAreRefused) {
  for (const CpuTopology& topology : {CpuTopology{0, 1, 1}, CpuTopology{1, 0, 1},
                                      CpuTopology{1, 1, 3}, CpuTopology{4096, 4096, 1}}) {
    EXPECT_EQ(Build(Amd(), "host", topology).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CpuidTest, MaximaTellOfTheLeavesThatAreThere) {
  for (const char* model : {"host", "x86-64-v2", "x86-64-v3"}) {
    for (const auto& host : {Amd(), Intel()}) {
      const std::vector<CpuidEntry> entries = Build(host, model)->For(0);
      uint32_t basic = 0, extended = 0x80000000;
      for (const CpuidEntry& entry : entries) {
        if (entry.function < 0x40000000) basic = std::max(basic, entry.function);
        if (entry.function >= 0x80000000) extended = std::max(extended, entry.function);
      }
      EXPECT_EQ(Leaf(entries, 0).eax, basic);
      EXPECT_EQ(Leaf(entries, 0x80000000).eax, extended);
    }
  }
}

TEST(CpuidTest, PhysicalAddressesCanBeNarrowed) {
  const std::vector<CpuidEntry> host = Amd();
  const CpuidTemplate cpuid = *CpuidTemplate::Build(
      {.supported = host, .model = {}, .topology = {}, .max_physical_address_bits = 40});
  EXPECT_EQ(cpuid.physical_address_bits(), 40u);
  EXPECT_EQ(Leaf(cpuid.For(0), 0x80000008).eax, 0x3028u);
}

TEST(CpuidTest, AHostWithoutTheBasicLeavesIsRefused) {
  EXPECT_EQ(CpuidTemplate::Build({.model = {}, .topology = {}}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(CpuidTest, FeatureNamesAreSorted) {
  const std::vector<std::string> names = Build(Amd(), "host")->FeatureNames();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_THAT(names, Contains("avx2"));
  EXPECT_THAT(names, Not(Contains("svm")));
}

}  // namespace
}  // namespace vireo::x86
