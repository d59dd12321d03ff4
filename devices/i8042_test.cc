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
  Command(0xd4);
  SendData(0xf2);  // Identify, to the mouse.
  EXPECT_EQ(Status() & 0x61, 0x61);
  EXPECT_EQ(Data(), 0xfe);
}

TEST_F(I8042Test, TheKeyboardIsFoundAndAnswersByteByByte) {
  Command(0xab);
  EXPECT_EQ(Data(), 0x00);
  SendData(0xf2);
  for (const uint8_t byte : {0xfa, 0xab, 0x83}) {
    EXPECT_EQ(Status() & 0x61, 0x01);
    EXPECT_EQ(Data(), byte);
  }
  EXPECT_EQ(Status() & 0x01, 0);
  EXPECT_EQ(Data(), 0x83) << "what was read last stays";
  SendData(0xff);
  EXPECT_EQ(Data(), 0xfa);
  EXPECT_EQ(Data(), 0xaa);
  EXPECT_EQ(Status() & 0x01, 0);
}

TEST_F(I8042Test, TranslatesWhatTheKeyboardSends) {
  Command(0x60);
  SendData(0x40);
  SendData(0xf2);
  EXPECT_EQ(Data(), 0xfa);
  EXPECT_EQ(Data(), 0xab);
  EXPECT_EQ(Data(), 0x41);
  for (const auto& [set, translated] : {std::pair(1, 0x43), {2, 0x41}, {3, 0x3f}}) {
    SendData(0xf0);
    EXPECT_EQ(Data(), 0xfa);
    SendData(static_cast<uint8_t>(set));
    EXPECT_EQ(Data(), 0xfa);
    SendData(0xf0);
    EXPECT_EQ(Data(), 0xfa);
    SendData(0);
    EXPECT_EQ(Data(), 0xfa);
    EXPECT_EQ(Data(), translated);
  }
}

// The keyboard keeps what it has to say while its clock is held; the answers of the controller do
// not wait for it.
TEST_F(I8042Test, ADisabledKeyboardWaits) {
  SendData(0xf2);
  Command(0xad);
  EXPECT_EQ(Data(), 0xfa) << "was sent before";
  EXPECT_EQ(Status() & 0x01, 0);
  Command(0xaa);
  EXPECT_EQ(Data(), 0x55);
  EXPECT_EQ(Status() & 0x01, 0);
  Command(0xae);
  EXPECT_EQ(Data(), 0xab);
  EXPECT_EQ(Data(), 0x83);
  Command(0xad);
  SendData(0xee);  // A byte to the keyboard enables it.
  EXPECT_EQ(Data(), 0xee);
  Command(0x20);
  EXPECT_EQ(Data() & 0x10, 0);
}

TEST_F(I8042Test, EveryByteOfTheKeyboardIsAnEdge) {
  Command(0x60);
  SendData(0x01);
  SendData(0xf2);
  EXPECT_EQ(irq_.TakeEdges(), 1);
  Data();
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(irq_.TakeEdges(), 1);
  Data();
  EXPECT_EQ(irq_.TakeEdges(), 1);
  Data();
  EXPECT_EQ(irq_.TakeEdges(), 0);
  EXPECT_FALSE(irq_.asserted());
}

TEST_F(I8042Test, AnswersInterruptWhenEnabled) {
  Command(0x60);
  SendData(0x01);
  SendData(0xee);
  EXPECT_TRUE(irq_.asserted());
  Data();
  EXPECT_FALSE(irq_.asserted());
  Command(0x60);
  SendData(0x00);
  SendData(0xee);
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
  Command(0xae);
  EXPECT_EQ(Status() & 0x01, 0) << "the keyboard has nothing more to say";
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
  for (const uint8_t byte : {0xfa, 0xab, 0x83}) EXPECT_EQ(other.Data(), byte);
  other.SendData(0xfe);
  EXPECT_EQ(other.resets_, 1);
  EXPECT_EQ(other.i8042_.Save().type, state.type);

  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(i8042_.Restore(cut).ok()) << length;
  }
}

TEST_F(I8042Test, StateOfTheTimeBeforeTheKeyboardIsTaken) {
  Command(0x60);
  SendData(0x01);
  EncodedState state = i8042_.Save();
  // Command byte, output port, pending command, status, output, and 32 bytes with their length.
  state.version = 1;
  state.bytes.resize(5 + 8 + 32);
  Controller other;
  ASSERT_TRUE(other.i8042_.Restore(state).ok());
  other.SendData(0xf2);
  EXPECT_EQ(other.Data(), 0xfa);
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
