#include "vmm/kvm/vm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace vireo::kvm {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<IrqchipPin> PinsOf(uint32_t gsi) {
  std::vector<IrqchipPin> pins;
  for (const GsiRoute& route : PcIrqchipRoutes()) {
    if (route.gsi == gsi) pins.push_back(std::get<IrqchipPin>(route.target));
  }
  return pins;
}

using Chip = IrqchipPin::Chip;

TEST(PcIrqchipRoutesTest, IsaInterruptsReachPicAndIoapic) {
  EXPECT_THAT(PinsOf(4),
              ElementsAre(IrqchipPin{Chip::kPicMaster, 4}, IrqchipPin{Chip::kIoapic, 4}));
  EXPECT_THAT(PinsOf(9), ElementsAre(IrqchipPin{Chip::kPicSlave, 1}, IrqchipPin{Chip::kIoapic, 9}));
}

TEST(PcIrqchipRoutesTest, TimerArrivesAtIoapicPinTwo) {
  EXPECT_THAT(PinsOf(0),
              ElementsAre(IrqchipPin{Chip::kPicMaster, 0}, IrqchipPin{Chip::kIoapic, 2}));
  EXPECT_THAT(PinsOf(2), IsEmpty());
}

TEST(PcIrqchipRoutesTest, PciInterruptsReachTheIoapicAlone) {
  for (uint32_t gsi = 16; gsi < 24; ++gsi) {
    EXPECT_THAT(PinsOf(gsi), ElementsAre(IrqchipPin{Chip::kIoapic, gsi}));
  }
  EXPECT_THAT(PinsOf(24), IsEmpty());
}

TEST(KickTest, HandlerCanBeInstalled) { EXPECT_TRUE(InstallKickHandler().ok()); }

}  // namespace
}  // namespace vireo::kvm
