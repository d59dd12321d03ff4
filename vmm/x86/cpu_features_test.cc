#include "vmm/x86/cpu_features.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <tuple>

namespace vireo::x86 {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

// Known from the vendors' manuals, not from the table.
struct KnownPlace {
  const char* name;
  uint32_t function;
  CpuidRegister reg;
  uint8_t bit;
};
class CpuFeatureTest : public testing::TestWithParam<KnownPlace> {};

TEST_P(CpuFeatureTest, IsWhereTheManualHasIt) {
  const CpuFeature* const feature = FindCpuFeature(GetParam().name);
  ASSERT_NE(feature, nullptr);
  EXPECT_EQ(feature->function, GetParam().function);
  EXPECT_EQ(feature->reg, GetParam().reg);
  EXPECT_EQ(feature->bit, GetParam().bit);
}

constexpr CpuidRegister kEax = CpuidRegister::kEax, kEbx = CpuidRegister::kEbx,
                        kEcx = CpuidRegister::kEcx, kEdx = CpuidRegister::kEdx;

INSTANTIATE_TEST_SUITE_P(
    Known, CpuFeatureTest,
    testing::Values(
        KnownPlace{"sse2", 1, kEdx, 26}, KnownPlace{"clflush", 1, kEdx, 19},
        KnownPlace{"pni", 1, kEcx, 0}, KnownPlace{"cx16", 1, kEcx, 13},
        KnownPlace{"x2apic", 1, kEcx, 21}, KnownPlace{"xsave", 1, kEcx, 26},
        KnownPlace{"rdrand", 1, kEcx, 30}, KnownPlace{"hypervisor", 1, kEcx, 31},
        KnownPlace{"avx2", 7, kEbx, 5}, KnownPlace{"smap", 7, kEbx, 20},
        KnownPlace{"sha_ni", 7, kEbx, 29}, KnownPlace{"avx512vl", 7, kEbx, 31},
        KnownPlace{"umip", 7, kEcx, 2}, KnownPlace{"la57", 7, kEcx, 16},
        KnownPlace{"rdpid", 7, kEcx, 22}, KnownPlace{"fsrm", 7, kEdx, 4},
        KnownPlace{"spec_ctrl", 7, kEdx, 26}, KnownPlace{"ssbd", 7, kEdx, 31},
        KnownPlace{"xsaves", 0xd, kEax, 3}, KnownPlace{"arat", 6, kEax, 2},
        KnownPlace{"syscall", 0x80000001, kEdx, 11}, KnownPlace{"nx", 0x80000001, kEdx, 20},
        KnownPlace{"lm", 0x80000001, kEdx, 29}, KnownPlace{"rdtscp", 0x80000001, kEdx, 27},
        KnownPlace{"lahf_lm", 0x80000001, kEcx, 0}, KnownPlace{"abm", 0x80000001, kEcx, 5},
        KnownPlace{"topoext", 0x80000001, kEcx, 22}, KnownPlace{"nonstop_tsc", 0x80000007, kEdx, 8},
        KnownPlace{"ibpb", 0x80000008, kEbx, 12}, KnownPlace{"virt_ssbd", 0x80000008, kEbx, 25}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(CpuFeaturesTest, EachNameAndEachBitStandsOnce) {
  std::set<std::string_view> names;
  std::set<std::tuple<uint32_t, uint32_t, CpuidRegister, uint8_t>> places;
  for (const CpuFeature& f : CpuFeatures()) {
    EXPECT_TRUE(names.insert(f.name).second) << f.name;
    EXPECT_TRUE(places.insert({f.function, f.index, f.reg, f.bit}).second) << f.name;
    EXPECT_LT(f.bit, 32);
  }
}

TEST(CpuFeaturesTest, ModelsAndDependentsNameKnownFeatures) {
  for (const char* model : {"x86-64-v2", "x86-64-v3", "x86-64-v4"}) {
    for (std::string_view name : FeaturesOfModel(model)) {
      EXPECT_NE(FindCpuFeature(name), nullptr) << name;
    }
  }
  for (const CpuFeature& f : CpuFeatures()) {
    for (std::string_view name : DependentsOf(f.name)) {
      EXPECT_NE(FindCpuFeature(name), nullptr) << name;
    }
  }
}

TEST(CpuFeaturesTest, LevelsGrow) {
  EXPECT_THAT(FeaturesOfModel("x86-64-v2"), SizeIs(24 + 7));
  EXPECT_THAT(FeaturesOfModel("x86-64-v3"), SizeIs(24 + 7 + 9));
  EXPECT_THAT(FeaturesOfModel("x86-64-v4"), SizeIs(24 + 7 + 9 + 5));
  EXPECT_THAT(FeaturesOfModel("host"), IsEmpty());
  EXPECT_THAT(FeaturesOfModel("x86-64-v9"), IsEmpty());
}

}  // namespace
}  // namespace vireo::x86
