#include "devices/pci/msix.h"

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_interrupts.h"

namespace vireo::pci {
namespace {

constexpr uint64_t kVectorControl = 12;

class MsixTest : public testing::Test {
 protected:
  void Write32(uint64_t offset, uint32_t value) {
    const uint8_t data[4] = {static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8),
                             static_cast<uint8_t>(value >> 16), static_cast<uint8_t>(value >> 24)};
    msix_.WriteTable(offset, data);
  }
  uint32_t Read32(uint64_t offset) const {
    uint8_t data[4];
    msix_.ReadTable(offset, data);
    return data[0] | data[1] << 8 | data[2] << 16 | static_cast<uint32_t>(data[3]) << 24;
  }
  uint8_t Pending(uint64_t offset) const {
    uint8_t data[1];
    msix_.ReadPba(offset, data);
    return data[0];
  }
  // As a driver sets a vector up.
  void SetUp(uint16_t vector, uint32_t address, uint32_t data) {
    Write32(vector * 16, address);
    Write32(vector * 16 + 4, 0);
    Write32(vector * 16 + 8, data);
    Write32(vector * 16 + kVectorControl, 0);
  }

  FakeMsiSink sink_{10};
  Msix msix_{sink_};
};

TEST_F(MsixTest, StartsOffAndMasked) {
  EXPECT_FALSE(msix_.enabled());
  EXPECT_EQ(Read32(kVectorControl), 1u);
  EXPECT_EQ(msix_.table_bytes(), 160u);
  EXPECT_EQ(msix_.pba_bytes(), 8u);
}

TEST_F(MsixTest, ASignalRaisesTheProgrammedMessage) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(3, 0xfee01000, 0x4041);
  EXPECT_EQ(sink_.message(3), (MsiMessage{.address = 0xfee01000, .data = 0x4041}));
  msix_.Signal(3);
  EXPECT_EQ(sink_.TakeSignals(3), 1);
  EXPECT_EQ(Pending(0), 0);
}

TEST_F(MsixTest, AVectorSetUpBeforeEnablingWorksToo) {
  SetUp(0, 0xfee00000, 0x30);
  EXPECT_FALSE(sink_.message(0).has_value());
  msix_.SetControl(Msix::kControlEnable);
  EXPECT_TRUE(sink_.message(0).has_value());
  msix_.Signal(0);
  EXPECT_EQ(sink_.TakeSignals(0), 1);
}

TEST_F(MsixTest, AMaskedVectorIsPendingUntilUnmasked) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(9, 0xfee00000, 0x30);
  Write32(9 * 16 + kVectorControl, 1);
  msix_.Signal(9);
  msix_.Signal(9);
  EXPECT_EQ(sink_.TakeSignals(9), 0);
  EXPECT_EQ(Pending(1), 1 << 1);
  Write32(9 * 16 + kVectorControl, 0);
  EXPECT_EQ(sink_.TakeSignals(9), 1);
  EXPECT_EQ(Pending(1), 0);
}

TEST_F(MsixTest, TheFunctionMaskHoldsAllVectorsBack) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  SetUp(1, 0xfee00000, 0x31);
  msix_.SetControl(Msix::kControlEnable | Msix::kControlFunctionMask);
  msix_.Signal(0);
  msix_.Signal(1);
  EXPECT_EQ(sink_.TakeSignals(0) + sink_.TakeSignals(1), 0);
  EXPECT_EQ(Pending(0), 3);
  msix_.SetControl(Msix::kControlEnable);
  EXPECT_EQ(sink_.TakeSignals(0), 1);
  EXPECT_EQ(sink_.TakeSignals(1), 1);
}

TEST_F(MsixTest, MovingAnInterruptWhileMaskedProgramsOnce) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  sink_.TakePrograms();
  Write32(kVectorControl, 1);
  Write32(0, 0xfee02000);
  Write32(8, 0x31);
  EXPECT_EQ(sink_.TakePrograms(), 0);
  msix_.Signal(0);
  Write32(kVectorControl, 0);
  EXPECT_EQ(sink_.TakePrograms(), 1);
  EXPECT_EQ(sink_.message(0), (MsiMessage{.address = 0xfee02000, .data = 0x31}));
  EXPECT_EQ(sink_.TakeSignals(0), 1);
}

TEST_F(MsixTest, MaskingAndUnmaskingAloneCostsNoProgramming) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  sink_.TakePrograms();
  Write32(kVectorControl, 1);
  Write32(kVectorControl, 0);
  EXPECT_EQ(sink_.TakePrograms(), 0);
}

TEST_F(MsixTest, SwitchingOffClearsRoutesAndPending) {
  msix_.SetControl(Msix::kControlEnable | Msix::kControlFunctionMask);
  SetUp(0, 0xfee00000, 0x30);
  msix_.Signal(0);
  msix_.SetControl(0);
  EXPECT_EQ(Pending(0), 0);
  msix_.Signal(0);
  msix_.SetControl(Msix::kControlEnable);
  EXPECT_EQ(sink_.TakeSignals(0), 0);
  msix_.SetControl(0);
  EXPECT_FALSE(sink_.message(0).has_value());
}

TEST_F(MsixTest, VectorsOutOfRangeRaiseNothing) {
  msix_.SetControl(Msix::kControlEnable);
  msix_.Signal(10);
  msix_.Signal(0xffff);
  for (uint16_t vector = 0; vector < 10; ++vector) EXPECT_EQ(sink_.TakeSignals(vector), 0);
}

TEST_F(MsixTest, AFullHostLosesInterruptsButNothingElse) {
  sink_.SetFull();
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  msix_.Signal(0);
  EXPECT_EQ(Read32(8), 0x30u);
}

TEST_F(MsixTest, WholeEntriesByQwords) {
  msix_.SetControl(Msix::kControlEnable);
  const uint8_t address[8] = {0x03, 0x10, 0xe0, 0xfe, 1, 0, 0, 0};  // Low bits read as zero.
  const uint8_t rest[8] = {0x55, 0, 0, 0, 0, 0, 0, 0};
  msix_.WriteTable(0, address);
  msix_.WriteTable(8, rest);
  EXPECT_EQ(sink_.message(0), (MsiMessage{.address = 0x1'fee01000, .data = 0x55}));
}

TEST_F(MsixTest, SavedAndRestoredWithAPendingVector) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  SetUp(1, 0xfee00000, 0x31);
  Write32(16 + kVectorControl, 1);
  msix_.Signal(1);
  StateWriter writer;
  msix_.Save(writer);
  const std::vector<uint8_t> state = writer.Finish();

  FakeMsiSink sink(10);
  Msix fresh(sink);
  StateReader reader(state);
  ASSERT_TRUE(fresh.Restore(reader).ok());
  ASSERT_TRUE(reader.Finish().ok());
  EXPECT_TRUE(fresh.enabled());
  EXPECT_EQ(sink.message(0), (MsiMessage{.address = 0xfee00000, .data = 0x30}));
  fresh.Signal(0);
  EXPECT_EQ(sink.TakeSignals(0), 1);
  EXPECT_EQ(sink.TakeSignals(1), 0);
  fresh.WriteTable(16 + kVectorControl, std::vector<uint8_t>{0});
  EXPECT_EQ(sink.TakeSignals(1), 1);
  StateWriter again;
  fresh.Save(again);

  FakeMsiSink small(2);
  Msix other(small);
  StateReader third(state);
  EXPECT_EQ(other.Restore(third).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MsixTest, ResetMasksAllAndClearsTheRoutes) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  msix_.Reset();
  EXPECT_FALSE(msix_.enabled());
  EXPECT_FALSE(sink_.message(0).has_value());
  EXPECT_EQ(Read32(0), 0u);
  EXPECT_EQ(Read32(kVectorControl), 1u);
}

TEST_F(MsixTest, NoSignalIsLostWhileTheVectorIsMaskedAndUnmasked) {
  msix_.SetControl(Msix::kControlEnable);
  SetUp(0, 0xfee00000, 0x30);
  // One signal at a time: the next is raised when the last was seen, delivered or still pending.
  std::atomic<int> raised{0};
  std::atomic<bool> stop{false};
  std::thread device([&] {
    for (int i = 0; i < 2000; ++i) {
      msix_.Signal(0);
      ++raised;
      int seen = 0;
      while (seen == 0) seen = sink_.TakeSignals(0);
      EXPECT_EQ(seen, 1);
    }
    stop = true;
  });
  while (!stop) {
    Write32(kVectorControl, 1);
    Write32(kVectorControl, 0);
  }
  device.join();
  EXPECT_EQ(raised, 2000);
}

TEST_F(MsixTest, RandomAccessesNeverGoWrong) {
  std::mt19937 random(1);
  for (int i = 0; i < 50000; ++i) {
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    const uint64_t offset = random() % 8 == 0 ? ~uint64_t{0} - random() % 8 : random() % 200;
    switch (random() % 5) {
      case 0:
        msix_.ReadTable(offset, data);
        break;
      case 1:
        msix_.ReadPba(offset, data);
        break;
      case 2:
        msix_.SetControl(static_cast<uint16_t>(random()));
        break;
      case 3:
        msix_.Signal(static_cast<uint16_t>(random() % 12));
        break;
      default:
        msix_.WriteTable(offset, data);
        break;
    }
  }
}

}  // namespace
}  // namespace vireo::pci
