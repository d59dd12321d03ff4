#include "vmm/x86/aml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace vireo::x86::aml {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

// The bytes are those of the encodings in ACPI 6.3 chapter 20, worked out by hand.

TEST(AmlTest, IntegersTakeTheShortestForm) {
  EXPECT_THAT(Integer(0), ElementsAre(0x00));
  EXPECT_THAT(Integer(1), ElementsAre(0x01));
  EXPECT_THAT(Integer(2), ElementsAre(0x0a, 2));
  EXPECT_THAT(Integer(0x1234), ElementsAre(0x0b, 0x34, 0x12));
  EXPECT_THAT(Integer(0x12345678), ElementsAre(0x0c, 0x78, 0x56, 0x34, 0x12));
  EXPECT_THAT(Integer(0x123456789), ElementsAre(0x0e, 0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0));
}

TEST(AmlTest, NamesArePaddedAndPrefixed) {
  EXPECT_THAT(NameString("_CRS"), ElementsAreArray("_CRS", 4));
  EXPECT_THAT(NameString("KBD"), ElementsAreArray("KBD_", 4));
  EXPECT_THAT(NameString("\\_SB"), ElementsAreArray("\\_SB_", 5));
  EXPECT_THAT(NameString("\\_SB.PCI0"), ElementsAreArray("\\\x2e_SB_PCI0", 10));
  EXPECT_THAT(NameString("_SB.PCI0.ISA"), ElementsAreArray("\x2f\x03_SB_PCI0ISA_", 14));
  EXPECT_THAT(NameString("^A"), ElementsAreArray("^A___", 5));
}

TEST(AmlTest, EisaIdsAreCompressed) {
  EXPECT_THAT(EisaId("PNP0501"), ElementsAre(0x0c, 0x41, 0xd0, 0x05, 0x01));
  EXPECT_THAT(EisaId("PNP0A08"), ElementsAre(0x0c, 0x41, 0xd0, 0x0a, 0x08));
}

TEST(AmlTest, UuidsAreMixedEndian) {
  const Term uuid = Uuid("33db4d5b-1ff7-401c-9657-7441c03dd766");
  EXPECT_THAT(uuid, ElementsAre(0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c,
                                0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66));
}

TEST(AmlTest, PackagesCountTheirElements) {
  EXPECT_THAT(Package({Integer(5), Integer(0)}), ElementsAre(0x12, 0x05, 2, 0x0a, 5, 0x00));
}

// "Package Length Encoding": the length counts its own bytes, at each border.
struct LengthCase {
  size_t payload;
  std::vector<uint8_t> encoding;
};
class PackageLengthTest : public testing::TestWithParam<LengthCase> {};

TEST_P(PackageLengthTest, CountsItself) {
  // Scope's body is the name (5 bytes) and the payload.
  const Term payload(GetParam().payload - 5, 0xa3);
  const Term scope = Scope("\\_SB", {payload});
  const std::vector<uint8_t>& want = GetParam().encoding;
  EXPECT_THAT(Term(scope.begin() + 1, scope.begin() + 1 + want.size()), ElementsAreArray(want));
  EXPECT_EQ(scope.size(), 1 + want.size() + GetParam().payload);
}

INSTANTIATE_TEST_SUITE_P(Borders, PackageLengthTest,
                         testing::Values(LengthCase{10, {11}}, LengthCase{62, {63}},
                                         LengthCase{63, {0x41, 0x04}},             // 65
                                         LengthCase{4093, {0x4f, 0xff}},           // 4095
                                         LengthCase{4094, {0x81, 0x00, 0x01}},     // 4097
                                         LengthCase{70000, {0x83, 0x17, 0x11}}));  // 70003

TEST(AmlTest, MethodsCarryTheirArguments) {
  EXPECT_THAT(Method("_OSC", 4, {Return(Arg(3))}),
              ElementsAre(0x14, 0x08, '_', 'O', 'S', 'C', 0x0c, 0xa4, 0x6b));
}

TEST(AmlTest, FieldsCountBits) {
  EXPECT_THAT(
      Field("PEOR", FieldAccess::kByte, {{"", 64}, {"PEPT", 8}}),
      ElementsAre(0x5b, 0x81, 0x0e, 'P', 'E', 'O', 'R', 1, 0, 0x40, 0x04, 'P', 'E', 'P', 'T', 8));
}

TEST(AmlTest, ResourceTemplatesEndWithATag) {
  EXPECT_THAT(
      ResourceTemplate({Io(0x3f8, 8), Irq(4)}),
      ElementsAre(0x11, 0x10, 0x0a, 0x0d, 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0, 0x79, 0));
}

TEST(AmlTest, WindowsTellTheirLength) {
  EXPECT_THAT(IoWindow(0xd00, 0xffff),
              ElementsAre(0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0x00, 0x0d, 0xff, 0xff, 0, 0, 0x00, 0xf3));
  EXPECT_THAT(MemoryWindow32(0xc0000000, 0xfebfffff),
              ElementsAre(0x87, 23, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff, 0xbf,
                          0xfe, 0, 0, 0, 0, 0, 0, 0xc0, 0x3e));
  EXPECT_EQ(MemoryWindow64(0x100000000, 0x1ffffffff).size(), 46u);
}

TEST(AmlDeathTest, NamesMustBeNames) {
  EXPECT_DEATH(NameString("TOOLONG"), "");
  EXPECT_DEATH(NameString("1ABC"), "");
  EXPECT_DEATH(NameString("ab"), "");
}

}  // namespace
}  // namespace vireo::x86::aml
