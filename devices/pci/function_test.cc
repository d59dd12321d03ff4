#include "devices/pci/function.h"

#include <array>
#include <random>
#include <vector>

#include "base/async/event_loop.h"
#include "base/event_fd.h"
#include "devices/bus.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_interrupts.h"

namespace vireo::pci {
namespace {

using testing::ElementsAre;
using testing::Eq;
using testing::Optional;

constexpr uint64_t kTable = 0x1000;
constexpr uint64_t kPba = 0x1800;

// A function as a device model makes one: BAR 0 of 8 KiB with MSI-X in its second half, a 64-bit
// BAR 2, I/O ports in BAR 4.
class TestFunction final : public Function {
 public:
  TestFunction(FakeAddressSpace& space, InterruptLine& intx, MsiSink& sink)
      : Function({.name = "test",
                  .vendor_id = 0x1af4,
                  .device_id = 0x1042,
                  .revision_id = 1,
                  .class_code = 0x018000,
                  .subsystem_vendor_id = 0x1af4,
                  .subsystem_id = 0x1100,
                  .interrupt_pin = 1},
                 space, &intx),
        msix_(sink) {
    EXPECT_TRUE(AddBar({.index = 0,
                        .kind = BarKind::kMemory32,
                        .window = {.size = 0x2000, .trapped = &registers_, .name = {}}})
                    .ok());
    EXPECT_TRUE(AddBar({.index = 2,
                        .kind = BarKind::kMemory64Prefetchable,
                        .window = {.size = uint64_t{1} << 33, .trapped = &big_, .name = {}}})
                    .ok());
    EXPECT_TRUE(AddBar({.index = 4,
                        .kind = BarKind::kIo,
                        .window = {.size = 32, .trapped = &ports_, .name = {}}})
                    .ok());
    EXPECT_TRUE(
        AddMsix(msix_, {.table_bar = 0, .table_offset = kTable, .pba_bar = 0, .pba_offset = kPba})
            .ok());
    const std::vector<uint8_t> body = {1, 2, 3, 4, 5, 6};
    const std::vector<uint8_t> writable = {0, 0, 0xff, 0, 0, 0};
    EXPECT_EQ(*AddCapability(kCapabilityVendorSpecific, body, writable), kVendorCapability);
    FinishConstruction();
  }
  ~TestFunction() override { Detach(); }

  static constexpr uint8_t kVendorCapability = 0x4c;  // After MSI-X at 0x40.

  using Function::AddBar;
  using Function::AddExpansionRom;
  using Function::SetBarDoorbells;
  using Function::SetIntx;

  void OnConfigRead(uint16_t offset, std::span<uint8_t> data) override {
    if (offset == 0x4e && data.size() == 1) data[0] = 0x77;
  }
  std::shared_ptr<Parking> OnConfigWritten(uint16_t offset, std::span<const uint8_t>) override {
    return offset == kVendorCapability + 4 ? parking_ : nullptr;
  }

  Msix& msix() { return msix_; }
  std::shared_ptr<Parking> parking_ = std::make_shared<Parking>();

 private:
  class Registers final : public BusDevice {
   public:
    explicit Registers(Msix& msix) : msix_(msix) {}
    void Read(uint64_t offset, std::span<uint8_t> data) override {
      for (uint8_t& byte : data) byte = 0x11;
      if (offset >= kPba) {
        msix_.ReadPba(offset - kPba, data);
      } else if (offset >= kTable) {
        msix_.ReadTable(offset - kTable, data);
      }
    }
    std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override {
      if (offset >= kTable && offset < kPba) msix_.WriteTable(offset - kTable, data);
      return nullptr;
    }

   private:
    Msix& msix_;
  };
  class Constant final : public BusDevice {
   public:
    explicit Constant(uint8_t value) : value_(value) {}
    void Read(uint64_t, std::span<uint8_t> data) override {
      for (uint8_t& byte : data) byte = value_;
    }
    std::shared_ptr<Parking> Write(uint64_t, std::span<const uint8_t>) override { return nullptr; }

   private:
    const uint8_t value_;
  };

  Msix msix_;
  Registers registers_{msix_};
  Constant big_{0x22};
  Constant ports_{0x33};
};

class FunctionTest : public testing::Test {
 protected:
  void Write(uint16_t offset, uint64_t value, size_t size) {
    WriteTo(function_, offset, value, size);
  }
  static void WriteTo(Function& function, uint16_t offset, uint64_t value, size_t size) {
    uint8_t data[8];
    for (size_t i = 0; i < 8; ++i) data[i] = static_cast<uint8_t>(value >> (8 * i));
    function.WriteConfig(offset, std::span(data).first(size));
  }
  uint64_t Read(uint16_t offset, size_t size) {
    uint8_t data[8] = {};
    function_.ReadConfig(offset, std::span(data).first(size));
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= uint64_t{data[i]} << (8 * i);
    return value;
  }
  static uint8_t Peek(const Bus& bus, uint64_t address) {
    uint8_t data[1];
    bus.Read(address, data);
    return data[0];
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  FakeAddressSpace space_;
  FakeInterruptLine intx_;
  FakeMsiSink sink_{4};
  TestFunction function_{space_, intx_, sink_};
};

TEST_F(FunctionTest, ShowsItsIdentity) {
  EXPECT_EQ(Read(0x00, 4), 0x10421af4u);
  EXPECT_EQ(Read(0x08, 4), 0x01800001u);
  EXPECT_EQ(Read(0x2c, 4), 0x11001af4u);
  EXPECT_EQ(Read(0x3d, 1), 1u);
  EXPECT_EQ(Read(0x0e, 1), 0u);
  EXPECT_EQ(Read(0x34, 1), 0x40u);
  // MSI-X with 4 vectors, then the vendor's.
  EXPECT_EQ(Read(0x40, 4), 0x00034c11u);
  EXPECT_EQ(Read(0x44, 4), kTable);
  EXPECT_EQ(Read(0x48, 4), kPba);
  EXPECT_EQ(Read(0x4c, 4), 0x02010009u);
}

TEST_F(FunctionTest, SizingTellsSizesAndKinds) {
  Write(0x10, 0xffffffff, 4);
  EXPECT_EQ(Read(0x10, 4), 0xffffe000u);
  Write(0x18, 0xffffffff, 4);
  Write(0x1c, 0xffffffff, 4);
  EXPECT_EQ(Read(0x18, 8), 0xfffffffe'0000000cu);
  Write(0x20, 0xffffffff, 4);
  EXPECT_EQ(Read(0x20, 4), 0xffffffe1u);
  Write(0x24, 0xffffffff, 4);
  EXPECT_EQ(Read(0x24, 4), 0u) << "an absent BAR";
  Write(0x30, 0xffffffff, 4);
  EXPECT_EQ(Read(0x30, 4), 0u) << "no expansion ROM";
}

TEST_F(FunctionTest, DoorbellsAreReplacedWhereverTheBarIs) {
  const EventFd first = *EventFd::Create();
  const EventFd second = *EventFd::Create();
  const auto ring = [this](uint16_t port) {
    space_.pio().Write(port, std::array<uint8_t, 2>{1, 0});
  };
  ASSERT_TRUE(
      function_.SetBarDoorbells(4, {{.offset = 16, .length = 2, .match = 1, .event = &first}})
          .ok());
  Write(0x20, 0xc000, 4);
  Write(0x04, kCommandIo, 2);
  ring(0xc010);
  EXPECT_EQ(first.Drain(), 1u);
  ASSERT_TRUE(
      function_.SetBarDoorbells(4, {{.offset = 16, .length = 2, .match = 1, .event = &second}})
          .ok());
  Write(0x20, 0xd000, 4);
  ring(0xd010);
  EXPECT_EQ(first.Drain(), 0u);
  EXPECT_EQ(second.Drain(), 1u);
  ASSERT_TRUE(function_.SetBarDoorbells(4, {}).ok());
  ring(0xd010);
  EXPECT_EQ(second.Drain(), 0u);
  function_.Detach();
  EXPECT_TRUE(function_.SetBarDoorbells(4, {{.offset = 16, .event = &first}}).ok());
}

TEST_F(FunctionTest, BarsAnswerOnlyWhileDecodingIsOn) {
  Write(0x10, 0xe0000000, 4);
  Write(0x20, 0xc000, 4);
  EXPECT_EQ(Peek(space_.mmio(), 0xe0000000), 0xff);
  Write(0x04, kCommandMemory, 2);
  EXPECT_EQ(Peek(space_.mmio(), 0xe0000000), 0x11);
  EXPECT_EQ(Peek(space_.pio(), 0xc000), 0xff);
  Write(0x04, kCommandMemory | kCommandIo, 2);
  EXPECT_EQ(Peek(space_.pio(), 0xc01f), 0x33);
  EXPECT_THAT(function_.bar_address(0), Optional(Eq(0xe0000000)));
  Write(0x04, 0, 2);
  EXPECT_EQ(Peek(space_.mmio(), 0xe0000000), 0xff);
  EXPECT_EQ(Peek(space_.pio(), 0xc000), 0xff);
  EXPECT_FALSE(function_.bar_address(0).has_value());
}

TEST_F(FunctionTest, BarsMoveWhileDecodingIsOn) {
  Write(0x04, kCommandMemory, 2);
  Write(0x10, 0xe0000000, 4);
  Write(0x10, 0xd0000000, 4);
  EXPECT_EQ(Peek(space_.mmio(), 0xe0000000), 0xff);
  EXPECT_EQ(Peek(space_.mmio(), 0xd0000000), 0x11);
  Write(0x18, 0x40'00000000, 8);
  EXPECT_EQ(Peek(space_.mmio(), 0x40'00000000), 0x22);
  EXPECT_EQ(Peek(space_.mmio(), 0x41'ffffffff), 0x22);
}

TEST_F(FunctionTest, ABarBeingSizedAnswersNowhere) {
  Write(0x04, kCommandMemory | kCommandIo, 2);
  Write(0x10, 0xffffffff, 4);
  Write(0x18, ~uint64_t{0}, 8);
  Write(0x20, 0xffffffff, 4);
  for (const int bar : {0, 2, 4}) EXPECT_FALSE(function_.bar_address(bar).has_value()) << bar;
  Write(0x10, 0, 4);
  EXPECT_FALSE(function_.bar_address(0).has_value()) << "zero is unassigned";
}

TEST_F(FunctionTest, ABarInTheWayOfAnotherIsPlacedWhenThereIsRoom) {
  FakeInterruptLine line;
  FakeMsiSink sink(4);
  TestFunction other(space_, line, sink);
  WriteTo(other, 0x10, 0xe0000000, 4);
  WriteTo(other, 0x04, kCommandMemory, 2);
  Write(0x10, 0xe0000000, 4);
  Write(0x04, kCommandMemory, 2);
  EXPECT_FALSE(function_.bar_address(0).has_value());
  WriteTo(other, 0x10, 0xd0000000, 4);
  function_.RetryPlacement();
  EXPECT_THAT(function_.bar_address(0), Optional(Eq(0xe0000000)));
}

TEST_F(FunctionTest, ImpossibleBarsAreRefused) {
  EXPECT_FALSE(function_.AddBar({.index = 0, .window = {.size = 16, .name = {}}}).ok()) << "taken";
  EXPECT_FALSE(function_.AddBar({.index = 3, .window = {.size = 16, .name = {}}}).ok())
      << "upper half of BAR 2";
  EXPECT_FALSE(function_.AddBar({.index = 6, .window = {.size = 16, .name = {}}}).ok());
  EXPECT_FALSE(
      function_.AddBar({.index = 5, .kind = BarKind::kMemory64, .window = {.size = 16, .name = {}}})
          .ok());
  EXPECT_FALSE(function_.AddBar({.index = 1, .window = {.size = 24, .name = {}}}).ok());
  EXPECT_FALSE(function_.AddBar({.index = 1, .window = {.size = 8, .name = {}}}).ok());
  EXPECT_FALSE(
      function_.AddBar({.index = 1, .kind = BarKind::kIo, .window = {.size = 512, .name = {}}})
          .ok());
  EXPECT_TRUE(function_.AddBar({.index = 5, .window = {.size = 16, .name = {}}}).ok());
}

TEST_F(FunctionTest, TheExpansionRomAnswersWhereItIsEnabled) {
  std::vector<uint8_t> image(64 << 10, 0x44);
  ASSERT_TRUE(function_.AddExpansionRom(image).ok());
  EXPECT_FALSE(function_.AddExpansionRom(image).ok()) << "there is one";
  const uint32_t window = 4;  // Behind those of the three BARs.
  Write(kExpansionRom, 0xfffff800, 4);
  EXPECT_EQ(Read(kExpansionRom, 4), 0xffff0000) << "sizing";
  Write(kExpansionRom, 0xe0000000, 4);
  Write(0x04, kCommandMemory, 2);
  EXPECT_FALSE(space_.base(window).has_value()) << "not enabled";
  Write(kExpansionRom, 0xe0000001, 4);
  EXPECT_THAT(space_.base(window), Optional(Eq(0xe0000000)));
  Write(kExpansionRom, 0xd0000001, 4);
  EXPECT_THAT(space_.base(window), Optional(Eq(0xd0000000)));
  Write(0x04, 0, 2);
  EXPECT_FALSE(space_.base(window).has_value()) << "no decoding";
  Write(0x04, kCommandMemory, 2);
  Write(kExpansionRom, 0xffffffff, 4);
  EXPECT_FALSE(space_.base(window).has_value()) << "being sized";
  EXPECT_EQ(Read(kExpansionRom, 4), 0xffff0001);
  Write(kExpansionRom, 0xd0000001, 4);
  EXPECT_EQ(function_.bars().size(), 3u) << "none of the BARs";
  loop_->RunTask(function_.Reset());
  EXPECT_FALSE(space_.base(window).has_value());
  EXPECT_EQ(Read(kExpansionRom, 4), 0u);
}

TEST_F(FunctionTest, ImpossibleRomsAreRefused) {
  for (const size_t bytes : {size_t{0}, size_t{2048}, size_t{12288}, size_t{32} << 20}) {
    std::vector<uint8_t> image(bytes);
    EXPECT_FALSE(function_.AddExpansionRom(image).ok()) << bytes;
  }
}

TEST_F(FunctionTest, IntxFollowsTheRequestUnlessDisabled) {
  function_.SetIntx(true);
  EXPECT_TRUE(intx_.asserted());
  EXPECT_EQ(Read(0x06, 2) & kStatusInterrupt, kStatusInterrupt);
  Write(0x04, kCommandIntxDisable, 2);
  EXPECT_FALSE(intx_.asserted());
  EXPECT_EQ(Read(0x06, 2) & kStatusInterrupt, kStatusInterrupt);
  Write(0x04, 0, 2);
  EXPECT_TRUE(intx_.asserted());
  function_.SetIntx(false);
  EXPECT_FALSE(intx_.asserted());
  EXPECT_EQ(Read(0x06, 2) & kStatusInterrupt, 0u);
}

TEST_F(FunctionTest, MsixControlReachesTheTable) {
  EXPECT_FALSE(function_.msix().enabled());
  Write(0x42, Msix::kControlEnable, 2);
  EXPECT_TRUE(function_.msix().enabled());
  EXPECT_EQ(Read(0x42, 2), Msix::kControlEnable | 3u);
  Write(0x43, 0, 1);  // Byte-wide, as some firmware does.
  EXPECT_FALSE(function_.msix().enabled());
}

TEST_F(FunctionTest, HooksSeeAccessesAndMayParkTheVcpu) {
  EXPECT_EQ(Read(0x4e, 1), 0x77u);
  Write(0x50, 0x99, 1);
  EXPECT_EQ(Read(0x50, 1), 0x99u);
  const std::vector<uint8_t> data = {1};
  EXPECT_EQ(function_.WriteConfig(0x50, data), function_.parking_);
  EXPECT_EQ(function_.WriteConfig(0x3c, data), nullptr);
}

TEST_F(FunctionTest, ResetIsThePowerOnState) {
  std::vector<uint8_t> before(256);
  function_.ReadConfig(0, before);
  Write(0x10, 0xe0000000, 4);
  Write(0x04, kCommandMemory | kCommandBusMaster, 2);
  Write(0x42, Msix::kControlEnable, 2);
  function_.SetIntx(true);
  loop_->RunTask(function_.Reset());
  std::vector<uint8_t> after(256);
  function_.ReadConfig(0, after);
  EXPECT_EQ(before, after);
  EXPECT_FALSE(intx_.asserted());
  EXPECT_FALSE(function_.msix().enabled());
  EXPECT_EQ(Peek(space_.mmio(), 0xe0000000), 0xff);
}

TEST_F(FunctionTest, SavedAndRestoredIntoAFreshOne) {
  Write(0x10, 0xe0000000, 4);
  Write(0x04, kCommandMemory | kCommandBusMaster, 2);
  Write(0x3c, 11, 1);
  Write(0x42, Msix::kControlEnable, 2);
  const uint8_t entry[8] = {0, 0, 0xe0, 0xfe, 0, 0, 0, 0};
  const uint8_t rest[8] = {0x41, 0, 0, 0, 0, 0, 0, 0};
  space_.mmio().Write(0xe0000000 + kTable, entry);
  space_.mmio().Write(0xe0000000 + kTable + 8, rest);
  function_.SetIntx(true);
  const EncodedState state = function_.Save();

  FakeAddressSpace space;
  FakeInterruptLine intx;
  FakeMsiSink sink(4);
  TestFunction fresh(space, intx, sink);
  ASSERT_TRUE(fresh.Restore(state).ok());
  EXPECT_THAT(fresh.bar_address(0), Optional(Eq(0xe0000000)));
  EXPECT_EQ(Peek(space.mmio(), 0xe0000000), 0x11);
  EXPECT_TRUE(intx.asserted());
  EXPECT_EQ(sink.message(0), (MsiMessage{.address = 0xfee00000, .data = 0x41}));
  EXPECT_EQ(fresh.Save().bytes, state.bytes);
}

TEST_F(FunctionTest, ForeignAndDamagedStatesAreRefused) {
  EncodedState state = function_.Save();
  EncodedState other_type = state;
  other_type.type = "serial-16550";
  EXPECT_FALSE(function_.Restore(other_type).ok());
  EncodedState newer = state;
  newer.version = 99;
  EXPECT_FALSE(function_.Restore(newer).ok());
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(function_.Restore(cut).ok()) << length;
  }
  EXPECT_TRUE(function_.Restore(state).ok());
}

TEST_F(FunctionTest, DetachTakesTheWindowsAway) {
  Write(0x10, 0xe0000000, 4);
  Write(0x04, kCommandMemory, 2);
  function_.SetIntx(true);
  EXPECT_EQ(space_.window_count(), 3u);
  function_.Detach();
  EXPECT_EQ(space_.window_count(), 0u);
  EXPECT_FALSE(intx_.asserted());
  Write(0x10, 0xd0000000, 4);
  EXPECT_EQ(Peek(space_.mmio(), 0xd0000000), 0xff);
  function_.Detach();
}

TEST_F(FunctionTest, RandomAccessesNeverGoWrong) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = random() % 3 == 0 ? 0xff : static_cast<uint8_t>(random());
    const auto offset = static_cast<uint16_t>(random() % 4 == 0 ? random() : random() % 0x58);
    switch (random() % 4) {
      case 0:
        function_.ReadConfig(offset, data);
        break;
      case 1:
        function_.SetIntx(random() % 2 == 0);
        break;
      default:
        function_.WriteConfig(offset, data);
        break;
    }
  }
  EXPECT_EQ(Read(0x00, 4), 0x10421af4u);
}

}  // namespace
}  // namespace vireo::pci
