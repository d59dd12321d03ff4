#include "vmm/x86/boot_registers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/endian.h"
#include "base/memory/guest_memory.h"
#include "vmm/x86/layout.h"

namespace vireo::x86 {
namespace {

constexpr BootEntry kLong = {
    .mode = BootEntry::Mode::kLong64, .rip = 0x1000200, .argument = kBootParamsAddress};
constexpr BootEntry kPvh = {
    .mode = BootEntry::Mode::kPvh32, .rip = 0x100010, .argument = kPvhStartInfoAddress};

class BootTablesTest : public testing::Test {
 protected:
  uint64_t Word(uint64_t address) {
    return memory_->ReadObject<Le64>(GuestAddress(address))->value();
  }

  // A page walk as the processor does it (Intel SDM vol. 3A, "4-Level Paging"), to 2 MiB pages.
  uint64_t Translate(uint64_t root, uint64_t address) {
    constexpr uint64_t kAddressMask = 0x000ffffffffff000;
    uint64_t table = root;
    for (const int shift : {39, 30}) {
      const uint64_t entry = Word(table + 8 * (address >> shift & 511));
      EXPECT_EQ(entry & 3, 3u) << "present and writable at shift " << shift;
      table = entry & kAddressMask;
    }
    const uint64_t entry = Word(table + 8 * (address >> 21 & 511));
    EXPECT_EQ(entry & 0x83, 0x83u) << "a present, writable 2 MiB page";
    return (entry & kAddressMask & ~uint64_t{0x1fffff}) | (address & 0x1fffff);
  }

  std::unique_ptr<GuestMemory> memory_ =
      *GuestMemory::Create({{GuestAddress(0), 0x200000}}, GuestMemory::Backing::kPrivate);
};

TEST_F(BootTablesTest, FourGiBAreMappedOneToOne) {
  ASSERT_TRUE(WriteBootTables(kLong, *memory_).ok());
  const uint64_t root = MakeBootRegisters(kLong, {}).special.cr3;
  for (const uint64_t address : {uint64_t{0}, uint64_t{0x1000200}, uint64_t{0x7fffffff},
                                 uint64_t{0xb0000000}, uint64_t{0xfee00000}, k4GiB - 1}) {
    EXPECT_EQ(Translate(root, address), address);
  }
}

TEST_F(BootTablesTest, DescriptorsAgreeWithTheHiddenParts) {
  for (const BootEntry& entry : {kLong, kPvh}) {
    ASSERT_TRUE(WriteBootTables(entry, *memory_).ok());
    const SpecialRegisters special = MakeBootRegisters(entry, {}).special;
    EXPECT_EQ(Word(special.gdt.base), 0u);
    for (const Segment& segment : {special.cs, special.ds, special.ss}) {
      ASSERT_LT(segment.selector + 7, special.gdt.limit + 1);
      const uint64_t descriptor = Word(special.gdt.base + segment.selector);
      EXPECT_EQ(descriptor >> 40 & 0xf, segment.type);
      EXPECT_EQ(descriptor >> 44 & 1, segment.s);
      EXPECT_EQ(descriptor >> 47 & 1, segment.present);
      EXPECT_EQ(descriptor >> 53 & 1, segment.l);
      EXPECT_EQ(descriptor >> 54 & 1, segment.db);
      EXPECT_EQ(descriptor >> 55 & 1, segment.g);
      EXPECT_EQ((descriptor & 0xffff) | (descriptor >> 32 & 0xf0000), 0xfffffu);
    }
  }
}

TEST_F(BootTablesTest, TooLittleMemoryIsAnError) {
  const auto tiny =
      *GuestMemory::Create({{GuestAddress(0), 0x1000}}, GuestMemory::Backing::kPrivate);
  EXPECT_EQ(WriteBootTables(kLong, *tiny).code(), absl::StatusCode::kOutOfRange);
}

// Linux boot.rst, "64-bit Boot Protocol": CS 0x10 with execute, DS 0x18 with read and write,
// interrupts off, RSI.
TEST(BootRegistersTest, LongModeAsTheLinuxProtocolWantsIt) {
  const BootRegisters boot = MakeBootRegisters(kLong, {.apic_base = 0xfee00900});
  EXPECT_EQ(boot.registers.rip, 0x1000200u);
  EXPECT_EQ(boot.registers.rsi, kBootParamsAddress);
  EXPECT_EQ(boot.registers.rflags & 0x200, 0u);
  EXPECT_EQ(boot.special.cs.selector, 0x10);
  EXPECT_EQ(boot.special.cs.l, 1);
  EXPECT_EQ(boot.special.cs.db, 0);
  EXPECT_EQ(boot.special.ds.selector, 0x18);
  EXPECT_EQ(boot.special.cr0 & 0x80000001, 0x80000001u);
  EXPECT_EQ(boot.special.cr4 & 0x20, 0x20u);
  EXPECT_EQ(boot.special.efer & 0x500, 0x500u);
  EXPECT_EQ(boot.special.apic_base, 0xfee00900u);
}

// Xen docs/misc/pvh.pandoc: protected mode, paging off, flat 4 GiB segments, CR4 clear, EBX.
TEST(BootRegistersTest, ProtectedModeAsPvhWantsIt) {
  const BootRegisters boot = MakeBootRegisters(kPvh, {.cr4 = 0xff, .efer = 0x500});
  EXPECT_EQ(boot.registers.rip, 0x100010u);
  EXPECT_EQ(boot.registers.rbx, kPvhStartInfoAddress);
  EXPECT_EQ(boot.special.cr0 & 0x80000001, 1u);
  EXPECT_EQ(boot.special.cr4, 0u);
  EXPECT_EQ(boot.special.efer, 0u);
  EXPECT_EQ(boot.special.cs.db, 1);
  EXPECT_EQ(boot.special.cs.l, 0);
  EXPECT_EQ(boot.special.cs.limit, 0xffffffffu);
  EXPECT_EQ(boot.special.tr.limit, 0x67u);
}

TEST(BootMsrsTest, MemoryIsWriteBackByDefault) {
  EXPECT_THAT(BootMsrs(), testing::Contains(MsrEntry{0x2ff, 0x806}));
  std::set<uint32_t> indices;
  for (const MsrEntry& msr : BootMsrs()) EXPECT_TRUE(indices.insert(msr.index).second);
}

// OVMF refuses to begin with MTRRs that somebody else has set.
TEST(ResetMsrsTest, LeaveMtrrsToFirmware) {
  for (const MsrEntry& msr : ResetMsrs()) EXPECT_NE(msr.index, 0x2ffu);
}

}  // namespace
}  // namespace vireo::x86
