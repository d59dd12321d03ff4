#include "devices/storage_controllers/port_registers.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/state.h"
#include "devices/storage_controllers/ahci_spec.h"
#include "gtest/gtest.h"

namespace vireo::ahci {
namespace {

constexpr uint32_t kAll = 0xffffffff;

PortRegisters Connected() {
  PortRegisters registers;
  registers.ConnectDevice(0x0150);
  return registers;
}

// What a write of all ones, or of all zeros after it, leaves to be read.
struct Mask {
  const char* name;
  uint32_t offset;
  uint32_t ones;
  uint32_t zeros;
};
class PortMaskTest : public testing::TestWithParam<Mask> {};

TEST_P(PortMaskTest, KeepsWhatThereIs) {
  PortRegisters registers = Connected();
  registers.Write(GetParam().offset, kAll, kAll);
  EXPECT_EQ(registers.Read(GetParam().offset), GetParam().ones);
  registers.Write(GetParam().offset, 0, kAll);
  EXPECT_EQ(registers.Read(GetParam().offset), GetParam().zeros);
}
INSTANTIATE_TEST_SUITE_P(
    Registers, PortMaskTest,
    testing::Values(Mask{"Clb", kPxClb, 0xfffffc00, 0}, Mask{"Clbu", kPxClbu, kAll, 0},
                    Mask{"Fb", kPxFb, 0xffffff00, 0}, Mask{"Fbu", kPxFbu, kAll, 0},
                    Mask{"Is", kPxIs, kIsPcs, kIsPcs}, Mask{"Ie", kPxIe, 0xfdc000ff, 0},
                    Mask{"Cmd", kPxCmd, 0x0100c017, 0x6}, Mask{"Tfd", kPxTfd, 0x150, 0x150},
                    Mask{"Sig", kPxSig, kSignatureAtapi, kSignatureAtapi},
                    Mask{"Ssts", kPxSsts, 0x123, 0x123}, Mask{"Sctl", kPxSctl, 0xfff, 0},
                    Mask{"Serr", kPxSerr, 0, 0}, Mask{"Sact", kPxSact, 0, 0},
                    Mask{"Ci", kPxCi, 0, 0}, Mask{"Sntf", 0x3c, 0, 0}, Mask{"Fbs", 0x40, 0, 0},
                    Mask{"Vendor", 0x70, 0, 0}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(PortRegistersTest, AWriteOfSomeBitsLeavesTheOthers) {
  PortRegisters registers = Connected();
  registers.Write(kPxIe, kAll, kAll);
  registers.Write(kPxIe, 0, 0xff);
  EXPECT_EQ(registers.Read(kPxIe), 0xfdc00000u);
  registers.is = kIsDhrs | kIsTfes;
  registers.Write(kPxIs, kAll, 0xff);
  EXPECT_EQ(registers.is, kIsTfes);
}

TEST(PortRegistersTest, CommandsAreForAnEngineThatRuns) {
  PortRegisters registers = Connected();
  registers.Write(kPxCmd, kCmdSt, kAll);
  registers.Write(kPxCi, 0x5, kAll);
  registers.Write(kPxCi, 0x2, kAll);  // Zeros take nothing back.
  EXPECT_EQ(registers.Read(kPxCi), 0x7u);
  EXPECT_TRUE(registers.has_commands());
  registers.Halt(kIsTfes);
  EXPECT_FALSE(registers.has_commands());
  registers.Write(kPxCmd, 0, kAll);
  registers.OnStartOrStop();
  EXPECT_EQ(registers.Read(kPxCi), 0u);
  EXPECT_FALSE(registers.halted);
}

TEST(PortRegistersTest, TheNextSlotIsTheLowestAfterTheLast) {
  PortRegisters registers;
  registers.ci = 1u << 0 | 1u << 7 | 1u << 31;
  EXPECT_EQ(registers.NextSlot(), 0u);
  registers.last_slot = 0;
  EXPECT_EQ(registers.NextSlot(), 7u);
  registers.last_slot = 7;
  EXPECT_EQ(registers.NextSlot(), 31u);
  registers.ci = 1u << 7;
  EXPECT_EQ(registers.NextSlot(), 7u);
}

TEST(PortRegistersTest, ADeviceThatGoesLeavesAnEmptyPort) {
  PortRegisters registers = Connected();
  registers.Write(kPxCmd, kCmdSt, kAll);
  registers.Write(kPxSctl, kSctlDetComreset, kAll);
  registers.DisconnectDevice();
  EXPECT_FALSE(registers.link_up());
  EXPECT_EQ(registers.Read(kPxSsts), 0u);
  EXPECT_EQ(registers.Read(kPxTfd), 0x7fu);
  EXPECT_EQ(registers.Read(kPxSig), kAll);
  EXPECT_TRUE(registers.halted);
  registers.Write(kPxSctl, kSctlDetOffline, kAll);
  EXPECT_FALSE(registers.link_up());
  EXPECT_EQ(registers.Read(kPxSsts), 4u);
}

TEST(PortRegistersTest, AnExchangeAsksForAnInterruptUntilItsErrorIsCleared) {
  PortRegisters registers = Connected();
  EXPECT_FALSE(registers.asks_for_interrupt());
  registers.Write(kPxIe, kIsPcs, kAll);
  EXPECT_TRUE(registers.asks_for_interrupt());
  registers.Write(kPxSerr, kSerrDiagX, kAll);
  EXPECT_FALSE(registers.asks_for_interrupt());
}

std::vector<uint8_t> Save(const PortRegisters& registers) {
  StateWriter writer;
  registers.Save(writer);
  return writer.Finish();
}

TEST(PortRegistersTest, StateIsRestored) {
  PortRegisters registers = Connected();
  registers.clb = 0x123456789400;
  registers.fb = 0xabcdef00;
  registers.is = kIsDhrs;
  registers.ie = kIsAll;
  registers.cmd = kCmdSt | kCmdFre;
  registers.ccs = 3;
  registers.sctl = 0x300;
  registers.ci = 0xf0;
  registers.last_slot = 3;
  registers.halted = true;
  const std::vector<uint8_t> state = Save(registers);
  PortRegisters fresh;
  StateReader reader(state);
  fresh.Restore(reader);
  EXPECT_TRUE(reader.Finish().ok());
  EXPECT_EQ(Save(fresh), state);
  EXPECT_EQ(fresh.ci, 0xf0u);
}

struct Impossible {
  const char* name;
  std::function<void(PortRegisters&)> damage;
};
class PortImpossibleTest : public testing::TestWithParam<Impossible> {};

TEST_P(PortImpossibleTest, IsDataLoss) {
  PortRegisters registers = Connected();
  GetParam().damage(registers);
  const std::vector<uint8_t> state = Save(registers);
  StateReader reader(state);
  registers.Restore(reader);
  EXPECT_TRUE(absl::IsDataLoss(reader.status()));
}
INSTANTIATE_TEST_SUITE_P(
    States, PortImpossibleTest,
    testing::Values(Impossible{"Clb", [](PortRegisters& r) { r.clb = 0x200; }},
                    Impossible{"Fb", [](PortRegisters& r) { r.fb = 0x80; }},
                    Impossible{"Is", [](PortRegisters& r) { r.is = kIsPcs; }},
                    Impossible{"Ie", [](PortRegisters& r) { r.ie = 1 << 8; }},
                    Impossible{"Cmd", [](PortRegisters& r) { r.cmd = kCmdCr; }},
                    Impossible{"Ccs", [](PortRegisters& r) { r.ccs = 32; }},
                    Impossible{"Tfd", [](PortRegisters& r) { r.tfd = 0x10000; }},
                    Impossible{"Sctl", [](PortRegisters& r) { r.sctl = 0x1000; }},
                    Impossible{"Serr", [](PortRegisters& r) { r.serr = 1; }},
                    Impossible{"Ci", [](PortRegisters& r) { r.ci = 1; }},
                    Impossible{"LastSlot", [](PortRegisters& r) { r.last_slot = 32; }}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vireo::ahci
