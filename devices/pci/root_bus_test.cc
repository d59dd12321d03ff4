#include "devices/pci/root_bus.h"

#include <map>
#include <random>
#include <thread>
#include <vector>

#include "base/async/event_loop.h"
#include "devices/bus.h"
#include "devices/pci/function.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_interrupts.h"

namespace vireo::pci {
namespace {

using testing::Eq;
using testing::Optional;

constexpr uint64_t kEcam = 0xb0000000;

class Constant final : public BusDevice {
 public:
  explicit Constant(uint8_t value) : value_(value) {}
  void Read(uint64_t, std::span<uint8_t> data) override {
    for (uint8_t& byte : data) byte = value_;
  }
  std::shared_ptr<Parking> Write(uint64_t, std::span<const uint8_t> data) override {
    last_ = data[0];
    return nullptr;
  }
  const uint8_t value_;
  std::atomic<int> last_{-1};
};

class TestFunction final : public Function {
 public:
  TestFunction(AddressSpace& space, uint16_t device_id)
      : Function(
            {.name = "test", .vendor_id = 0x1af4, .device_id = device_id, .class_code = 0x018000},
            space, nullptr) {
    EXPECT_TRUE(
        AddBar({.index = 0, .window = {.size = 0x1000, .trapped = &registers_, .name = {}}}).ok());
    FinishConstruction();
  }
  ~TestFunction() override { Detach(); }

 private:
  Constant registers_{0x44};
};

// A root bus on its two spaces, driven through ports and ECAM as a guest does.
class Machine {
 public:
  Machine() {
    EXPECT_TRUE(space_.pio()
                    .Insert(RootBus::kConfigPorts, RootBus::kConfigPortBytes, bus_.config_ports())
                    .ok());
  }

  static uint32_t ConfigAddress(Address address, uint16_t offset) {
    return 0x80000000u | static_cast<uint32_t>(address.slot) << 11 |
           static_cast<uint32_t>(address.function) << 8 | (offset & 0xfcu);
  }
  static uint64_t EcamAddress(Address address, uint16_t offset, uint64_t base = kEcam) {
    return base + (static_cast<uint64_t>(address.slot) << 15) +
           (static_cast<uint64_t>(address.function) << 12) + offset;
  }
  static uint64_t Load(const Bus& bus, uint64_t address, size_t size) {
    uint8_t data[8] = {};
    bus.Read(address, std::span(data).first(size));
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= uint64_t{data[i]} << (8 * i);
    return value;
  }
  static void Store(const Bus& bus, uint64_t address, uint64_t value, size_t size) {
    uint8_t data[8];
    for (size_t i = 0; i < 8; ++i) data[i] = static_cast<uint8_t>(value >> (8 * i));
    bus.Write(address, std::span(data).first(size));
  }

  uint64_t PortRead(Address address, uint16_t offset, size_t size) {
    Store(space_.pio(), 0xcf8, ConfigAddress(address, offset), 4);
    return Load(space_.pio(), 0xcfc + (offset & 3), size);
  }
  void PortWrite(Address address, uint16_t offset, uint64_t value, size_t size) {
    Store(space_.pio(), 0xcf8, ConfigAddress(address, offset), 4);
    Store(space_.pio(), 0xcfc + (offset & 3), value, size);
  }
  uint64_t EcamRead(Address address, uint16_t offset, size_t size) {
    return Load(space_.mmio(), EcamAddress(address, offset), size);
  }
  void EcamWrite(Address address, uint16_t offset, uint64_t value, size_t size) {
    Store(space_.mmio(), EcamAddress(address, offset), value, size);
  }

  FakeAddressSpace space_;
  Constant pm_block_{0x55};
  Constant reset_control_{0x66};
  std::map<int, std::optional<uint8_t>> pirqs_;
  RootBus bus_{
      space_,
      {.host_bridge = {.ecam_base_at_power_on = kEcam},
       .lpc_bridge = {.pm_block = &pm_block_,
                      .pm_base_at_power_on = 0x600,
                      .pirq_routed = [this](int pirq,
                                            std::optional<uint8_t> irq) { pirqs_[pirq] = irq; }},
       .reset_control = &reset_control_}};
};

class RootBusTest : public testing::Test, protected Machine {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
};

TEST_F(RootBusTest, IsAQ35) {
  EXPECT_EQ(EcamRead(RootBus::kHostBridge, 0x00, 4), 0x29c08086u);
  EXPECT_EQ(EcamRead(RootBus::kHostBridge, 0x2c, 4), 0x11001af4u);
  EXPECT_EQ(EcamRead(RootBus::kHostBridge, 0x08, 4) >> 8, 0x060000u);
  EXPECT_EQ(EcamRead(RootBus::kLpcBridge, 0x00, 4), 0x29188086u);
  EXPECT_EQ(EcamRead(RootBus::kLpcBridge, 0x2c, 4), 0x11001af4u);
  EXPECT_EQ(EcamRead(RootBus::kLpcBridge, 0x08, 4) >> 8, 0x060100u);
  EXPECT_EQ(EcamRead(RootBus::kLpcBridge, 0x0e, 1), 0x80u);
  EXPECT_EQ(ToString(RootBus::kLpcBridge), "00:1f.0");
}

TEST_F(RootBusTest, PortsAndEcamShowTheSame) {
  for (uint16_t offset = 0; offset < 256; offset += 4) {
    EXPECT_EQ(PortRead(RootBus::kHostBridge, offset, 4), EcamRead(RootBus::kHostBridge, offset, 4));
  }
  PortWrite(RootBus::kHostBridge, 0x91, 0x33, 1);
  EXPECT_EQ(EcamRead(RootBus::kHostBridge, 0x90, 4), 0x3300u);
  EcamWrite(RootBus::kHostBridge, 0x92, 0x1122, 2);
  EXPECT_EQ(PortRead(RootBus::kHostBridge, 0x92, 2), 0x1122u);
  EXPECT_EQ(PortRead(RootBus::kHostBridge, 0x93, 1), 0x11u);
}

TEST_F(RootBusTest, AbsentFunctionsAndRegistersReadAsOnes) {
  EXPECT_EQ(EcamRead({.slot = 3}, 0, 4), 0xffffffffu);
  EXPECT_EQ(PortRead({.slot = 3}, 0, 2), 0xffffu);
  EXPECT_EQ(EcamRead({.slot = 0x1f, .function = 2}, 0, 4), 0xffffffffu);
  // A conventional function has no extended registers, nor is there a second bus.
  EXPECT_EQ(EcamRead(RootBus::kHostBridge, 0x100, 4), 0xffffffffu);
  EXPECT_EQ(Load(space_.mmio(), kEcam + (1 << 20), 4), 0xffffffffu);
  Store(space_.pio(), 0xcf8, 0x80010000, 4);
  EXPECT_EQ(Load(space_.pio(), 0xcfc, 4), 0xffffffffu);
  Store(space_.mmio(), kEcam + (1 << 20) + 4, 7, 4);
}

TEST_F(RootBusTest, TheAddressPortTakesWholeAccessesWithEnableOnly) {
  Store(space_.pio(), 0xcf8, 0x8000f803, 4);
  EXPECT_EQ(Load(space_.pio(), 0xcf8, 4), 0x8000f800u);
  Store(space_.pio(), 0xcf8, 0x12, 1);
  Store(space_.pio(), 0xcfa, 0x12, 2);
  EXPECT_EQ(Load(space_.pio(), 0xcf8, 4), 0x8000f800u);
  EXPECT_EQ(Load(space_.pio(), 0xcf8, 2), 0xffffu);
  Store(space_.pio(), 0xcf8, 0x00000000, 4);
  EXPECT_EQ(Load(space_.pio(), 0xcfc, 4), 0xffffffffu);
}

TEST_F(RootBusTest, ByteAccessesAt0xcf9AreTheResetControl) {
  Store(space_.pio(), 0xcf9, 0x06, 1);
  EXPECT_EQ(reset_control_.last_, 0x06);
  EXPECT_EQ(Load(space_.pio(), 0xcf9, 1), 0x66u);
}

TEST_F(RootBusTest, InsertedFunctionsAppearAndAreCountedIn) {
  TestFunction first(space_, 0x1042);
  TestFunction second(space_, 0x1041);
  ASSERT_TRUE(bus_.Insert({.slot = 3}, first).ok());
  EXPECT_EQ(PortRead({.slot = 3}, 0, 4), 0x10421af4u);
  EXPECT_EQ(PortRead({.slot = 3}, 0x0e, 1), 0u);
  ASSERT_TRUE(bus_.Insert({.slot = 3, .function = 5}, second).ok());
  EXPECT_EQ(PortRead({.slot = 3}, 0x0e, 1), 0x80u);
  EXPECT_EQ(PortRead({.slot = 3}, 0x0c, 4), 0x00800000u);
  EXPECT_EQ(EcamRead({.slot = 3, .function = 5}, 0, 4), 0x10411af4u);
  EXPECT_EQ(bus_.Find({.slot = 3, .function = 5}), &second);
  EXPECT_EQ(bus_.Find({.slot = 3, .function = 6}), nullptr);
  EXPECT_TRUE(bus_.Remove({.slot = 3, .function = 5}).ok());
  EXPECT_EQ(PortRead({.slot = 3}, 0x0e, 1), 0u);
  EXPECT_EQ(EcamRead({.slot = 3, .function = 5}, 0, 4), 0xffffffffu);
}

TEST_F(RootBusTest, PlacesAreTakenOnceAndWithinTheBus) {
  TestFunction function(space_, 0x1042);
  EXPECT_EQ(bus_.Insert({.slot = 0}, function).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(bus_.Insert({.slot = 32}, function).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bus_.Insert({.slot = 1, .function = 8}, function).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bus_.Remove({.slot = 1}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(bus_.Remove(RootBus::kHostBridge).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bus_.Remove(RootBus::kLpcBridge).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RootBusTest, EcamMovesThroughItself) {
  EXPECT_EQ(bus_.host_bridge().ecam()->base, kEcam);
  EcamWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0xe0000001, 4);
  EXPECT_EQ(EcamRead(RootBus::kHostBridge, 0, 4), 0xffffffffu);
  EXPECT_EQ(Load(space_.mmio(), 0xe0000000, 4), 0x29c08086u);
  // 64 MiB of it, then none.
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0xd4000005, 4);
  EXPECT_EQ(bus_.host_bridge().ecam()->bytes, 64u << 20);
  EXPECT_EQ(Load(space_.mmio(), 0xd4000000, 4), 0x29c08086u);
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0xd4000004, 4);
  EXPECT_FALSE(bus_.host_bridge().ecam().has_value());
  EXPECT_EQ(Load(space_.mmio(), 0xd4000000, 4), 0xffffffffu);
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0xd4000007, 4);
  EXPECT_FALSE(bus_.host_bridge().ecam().has_value()) << "a reserved length";
  // Above 4 GiB, written in two halves.
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar + 4, 0x1, 4);
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0x1, 4);
  EXPECT_EQ(Load(space_.mmio(), 0x1'0000'0000, 4), 0x29c08086u);
}

TEST_F(RootBusTest, WithoutFirmwaresPlaceEcamIsOff) {
  FakeAddressSpace space;
  RootBus bus(space, {});
  EXPECT_FALSE(bus.host_bridge().ecam().has_value());
  EXPECT_FALSE(bus.lpc_bridge().pm_base().has_value());
}

TEST_F(RootBusTest, PmBaseMovesTheAcpiBlock) {
  EXPECT_THAT(bus_.lpc_bridge().pm_base(), Optional(Eq(0x600)));
  EXPECT_EQ(Load(space_.pio(), 0x67f, 1), 0x55u);
  EXPECT_EQ(PortRead(RootBus::kLpcBridge, LpcBridge::kPmBase, 4), 0x601u);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kPmBase, 0xb000, 4);
  EXPECT_EQ(Load(space_.pio(), 0x600, 1), 0xffu);
  EXPECT_EQ(Load(space_.pio(), 0xb000, 1), 0x55u);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kAcpiControl, 0x00, 1);
  EXPECT_EQ(Load(space_.pio(), 0xb000, 1), 0xffu);
}

TEST_F(RootBusTest, PirqRoutesAreTold) {
  EXPECT_EQ(PortRead(RootBus::kLpcBridge, LpcBridge::kPirqA, 4), 0x80808080u);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kPirqA + 1, 0x0a, 1);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kPirqE + 3, 0x0b, 1);
  EXPECT_THAT(pirqs_[1], Optional(Eq(10)));
  EXPECT_THAT(pirqs_[7], Optional(Eq(11)));
  loop_->RunTask(bus_.Reset());
  EXPECT_FALSE(pirqs_[1].has_value());
  EXPECT_FALSE(pirqs_[7].has_value());
}

TEST_F(RootBusTest, IntxPinsAreSpreadOverEightLines) {
  EXPECT_EQ(IntxGsi(0, 0), 16u);
  EXPECT_EQ(IntxGsi(1, 3), 20u);
  EXPECT_EQ(IntxGsi(31, 1), 16u);
}

TEST_F(RootBusTest, ABarThatWasInTheWayLetsTheOtherOneIn) {
  TestFunction first(space_, 1);
  TestFunction second(space_, 2);
  ASSERT_TRUE(bus_.Insert({.slot = 1}, first).ok());
  ASSERT_TRUE(bus_.Insert({.slot = 2}, second).ok());
  PortWrite({.slot = 1}, 0x10, 0xe0000000, 4);
  PortWrite({.slot = 2}, 0x10, 0xe0001000, 4);
  PortWrite({.slot = 1}, 0x04, 2, 2);
  PortWrite({.slot = 2}, 0x04, 2, 2);
  // They swap places without switching decoding off.
  PortWrite({.slot = 1}, 0x10, 0xe0001000, 4);
  PortWrite({.slot = 2}, 0x10, 0xe0000000, 4);
  EXPECT_THAT(first.bar_address(0), Optional(Eq(0xe0001000)));
  EXPECT_THAT(second.bar_address(0), Optional(Eq(0xe0000000)));
  PortWrite({.slot = 2}, 0x10, 0xe0001000, 4);
  EXPECT_FALSE(second.bar_address(0).has_value());
  ASSERT_TRUE(bus_.Remove({.slot = 1}).ok());
  EXPECT_THAT(second.bar_address(0), Optional(Eq(0xe0001000)));
}

TEST_F(RootBusTest, ResetReturnsBusAndBridgesToPowerOn) {
  TestFunction function(space_, 0x1042);
  ASSERT_TRUE(bus_.Insert({.slot = 4}, function).ok());
  PortWrite({.slot = 4}, 0x10, 0xe0000000, 4);
  PortWrite({.slot = 4}, 0x04, 2, 2);
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0xc0000001, 4);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kPmBase, 0xb000, 4);
  // ECAM cannot go back to where a BAR is now, until that goes.
  PortWrite({.slot = 4}, 0x10, kEcam, 4);
  loop_->RunTask(bus_.Reset());
  EXPECT_FALSE(bus_.host_bridge().ecam().has_value());
  loop_->RunTask(function.Reset());
  EXPECT_FALSE(function.bar_address(0).has_value());
  EXPECT_EQ(PortRead(RootBus::kHostBridge, 0, 4), 0x29c08086u);
  Store(space_.pio(), 0xcfc, 0, 4);  // Any configuration write tries again.
  EXPECT_TRUE(bus_.host_bridge().ecam().has_value());
  loop_->RunTask(bus_.Reset());
  EXPECT_EQ(Load(space_.pio(), 0xcf8, 4), 0u);
  EXPECT_EQ(bus_.host_bridge().ecam()->base, kEcam);
  EXPECT_THAT(bus_.lpc_bridge().pm_base(), Optional(Eq(0x600)));
}

TEST_F(RootBusTest, SavedAndRestoredIntoAFreshOne) {
  TestFunction function(space_, 0x1042);
  ASSERT_TRUE(bus_.Insert({.slot = 4}, function).ok());
  PortWrite({.slot = 4}, 0x10, 0xe0000000, 4);
  PortWrite({.slot = 4}, 0x04, 2, 2);
  PortWrite(RootBus::kHostBridge, HostBridge::kPciExpressBar, 0xc0000001, 4);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kPmBase, 0xb000, 4);
  PortWrite(RootBus::kLpcBridge, LpcBridge::kPirqA, 0x0a, 1);
  // In the middle of a configuration access: the address is written, the data not yet.
  Store(space_.pio(), 0xcf8, ConfigAddress({.slot = 4}, 0), 4);
  loop_->RunTask(bus_.Quiesce());
  loop_->RunTask(function.Quiesce());
  const EncodedState state = bus_.Save();
  const EncodedState function_state = function.Save();

  Machine other;
  TestFunction fresh(other.space_, 0x1042);
  ASSERT_TRUE(other.bus_.Insert({.slot = 4}, fresh).ok());
  ASSERT_TRUE(other.bus_.Restore(state).ok());
  ASSERT_TRUE(fresh.Restore(function_state).ok());
  other.bus_.Resume();
  EXPECT_EQ(Load(other.space_.pio(), 0xcfc, 4), 0x10421af4u);
  EXPECT_THAT(fresh.bar_address(0), Optional(Eq(0xe0000000)));
  EXPECT_EQ(other.bus_.host_bridge().ecam()->base, 0xc0000000u);
  EXPECT_EQ(Load(other.space_.pio(), 0xb000, 1), 0x55u);
  EXPECT_THAT(other.pirqs_[0], Optional(Eq(10)));
  EXPECT_EQ(other.bus_.Save().bytes, state.bytes);
}

TEST_F(RootBusTest, ForeignAndDamagedStatesAreRefused) {
  const EncodedState state = bus_.Save();
  EXPECT_FALSE(bus_.Restore(bus_.host_bridge().Save()).ok());
  EXPECT_FALSE(bus_.host_bridge().Restore(bus_.lpc_bridge().Save()).ok()) << "another identity";
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(bus_.Restore(cut).ok()) << length;
  }
}

TEST_F(RootBusTest, VcpusAccessWhileFunctionsComeGoAndMove) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> vcpus;
  for (int i = 0; i < 3; ++i) {
    vcpus.emplace_back([&, i] {
      std::mt19937 random(i);
      while (!stop) {
        const Address address = {.slot = static_cast<uint8_t>(random() % 6)};
        uint8_t identity[4];
        bus_.ReadConfig(address, 0, identity);
        const uint32_t bar = 0xe0000000 + random() % 4 * 0x1000;
        const std::vector<uint8_t> data = {0, static_cast<uint8_t>(bar >> 8), 0, 0xe0};
        bus_.WriteConfig(address, 0x10, data);
        bus_.WriteConfig(address, 0x04, std::vector<uint8_t>{static_cast<uint8_t>(random() % 4)});
        Load(space_.mmio(), bar, 4);
        const std::vector<uint8_t> ecam = {1, 0, 0, static_cast<uint8_t>(0xb0 + i * 16)};
        bus_.WriteConfig(RootBus::kHostBridge, HostBridge::kPciExpressBar, ecam);
        Load(space_.mmio(), kEcam, 4);
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    TestFunction first(space_, 1);
    TestFunction second(space_, 2);
    ASSERT_TRUE(bus_.Insert({.slot = 3}, first).ok());
    ASSERT_TRUE(bus_.Insert({.slot = 4}, second).ok());
    std::this_thread::yield();
    ASSERT_TRUE(bus_.Remove({.slot = 3}).ok());
    ASSERT_TRUE(bus_.Remove({.slot = 4}).ok());
  }
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
}

}  // namespace
}  // namespace vireo::pci
