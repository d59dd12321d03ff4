#include "devices/i8042.h"

#include <random>
#include <vector>

#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_interrupts.h"

namespace vireo {
namespace {

class Controller {
 public:
  static uint8_t In(BusDevice& port) {
    uint8_t data[1];
    port.Read(0, data);
    return data[0];
  }
  static void Out(BusDevice& port, uint8_t value) {
    const uint8_t data[1] = {value};
    port.Write(0, data);
  }
  uint8_t Status() { return In(i8042_.command_port()); }
  uint8_t Data() { return In(i8042_.data_port()); }
  void Command(uint8_t value) { Out(i8042_.command_port(), value); }
  void SendData(uint8_t value) { Out(i8042_.data_port(), value); }

  int resets_ = 0;
  FakeInterruptLine irq_;
  I8042 i8042_{irq_, [this] { ++resets_; }};
};

class I8042Test : public testing::Test, protected Controller {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
};

TEST_F(I8042Test, PassesItsSelfTest) {
  EXPECT_EQ(Status() & 0x01, 0);
  Command(0xaa);
  EXPECT_EQ(Status() & 0x01, 1);
  EXPECT_EQ(Data(), 0x55);
  EXPECT_EQ(Status() & 0x01, 0);
}

TEST_F(I8042Test, TheCommandByteIsKept) {
  Command(0x60);
  SendData(0x43);
  Command(0x20);
  EXPECT_EQ(Data(), 0x43);
  Command(0xad);
  Command(0xa7);
  Command(0x20);
  EXPECT_EQ(Data(), 0x73);
  Command(0xae);
  Command(0xa8);
  Command(0x20);
  EXPECT_EQ(Data(), 0x43);
  Command(0x65);
  SendData(0x99);
  Command(0x25);
  EXPECT_EQ(Data(), 0x99);
}

// What drivers ask has an answer at once: an empty output buffer would cost them half a second each
// time.
TEST_F(I8042Test, AbsentDevicesAreToldAtOnce) {
  Command(0xd3);  // Auxiliary loopback: comes back, but not from the auxiliary port.
  SendData(0x5a);
  EXPECT_EQ(Status() & 0x21, 0x01);
  EXPECT_EQ(Data(), 0x5a);
  Command(0xa9);
  EXPECT_EQ(Status() & 0x01, 1);
  EXPECT_NE(Data(), 0x00);
  Command(0xab);
  EXPECT_NE(Data(), 0x00);
  SendData(0xf2);  // Identify, to the keyboard.
  EXPECT_EQ(Status() & 0x61, 0x41) << "time-out";
  EXPECT_EQ(Data(), 0xfe);
  EXPECT_EQ(Status() & 0x41, 0);
  Command(0xd4);
  SendData(0xf2);  // And to the mouse.
  EXPECT_EQ(Status() & 0x61, 0x61);
  EXPECT_EQ(Data(), 0xfe);
}

TEST_F(I8042Test, AnswersInterruptWhenEnabled) {
  Command(0x60);
  SendData(0x01);
  SendData(0xf2);
  EXPECT_TRUE(irq_.asserted());
  Data();
  EXPECT_FALSE(irq_.asserted());
  Command(0x60);
  SendData(0x00);
  SendData(0xf2);
  EXPECT_FALSE(irq_.asserted());
}

TEST_F(I8042Test, ResetsOnThePulseOfBitZero) {
  Command(0xfe);
  EXPECT_EQ(resets_, 1);
  Command(0xff);
  EXPECT_EQ(resets_, 1);
  Command(0xd1);
  SendData(0xdd);
  EXPECT_EQ(resets_, 1);
  Command(0xd1);
  SendData(0xfe);
  EXPECT_EQ(resets_, 2);
  Out(i8042_.fast_a20_port(), 0x03);
  EXPECT_EQ(resets_, 3);
}

TEST_F(I8042Test, A20IsOneBitInTwoPlaces) {
  EXPECT_EQ(In(i8042_.fast_a20_port()), 0x02);
  Command(0xd1);
  SendData(0xdd);
  EXPECT_EQ(In(i8042_.fast_a20_port()), 0x00);
  Out(i8042_.fast_a20_port(), 0x02);
  Command(0xd0);
  EXPECT_EQ(Data(), 0xdf);
}

TEST_F(I8042Test, ResetIsThePowerOnState) {
  Command(0x60);
  SendData(0x01);
  SendData(0xf2);
  loop_->RunTask(i8042_.Reset());
  EXPECT_FALSE(irq_.asserted());
  EXPECT_EQ(Status(), 0x14);
  Command(0x20);
  EXPECT_EQ(Data(), 0x34);
}

TEST_F(I8042Test, SavedAndRestoredBetweenCommandAndData) {
  Command(0x60);
  SendData(0x01);
  SendData(0xf2);  // An answer is pending, and
  Command(0xd1);   // a command waits for its byte.
  loop_->RunTask(i8042_.Quiesce());
  const EncodedState state = i8042_.Save();

  Controller other;
  ASSERT_TRUE(other.i8042_.Restore(state).ok());
  other.i8042_.Resume();
  EXPECT_TRUE(other.irq_.asserted());
  EXPECT_EQ(other.Data(), 0xfe);
  other.SendData(0xfe);
  EXPECT_EQ(other.resets_, 1);
  EXPECT_EQ(other.i8042_.Save().type, state.type);

  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(i8042_.Restore(cut).ok()) << length;
  }
}

TEST_F(I8042Test, RandomAccessesNeverGoWrong) {
  std::mt19937 random(1);
  const std::vector<BusDevice*> ports = {&i8042_.data_port(), &i8042_.command_port(),
                                         &i8042_.fast_a20_port()};
  for (int i = 0; i < 100'000; ++i) {
    BusDevice& port = *ports[random() % ports.size()];
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    if (random() % 3 == 0) {
      port.Read(random() % 3, data);
    } else {
      port.Write(random() % 3, data);
    }
  }
}

}  // namespace
}  // namespace vireo
