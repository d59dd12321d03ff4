#include "devices/serial_16550.h"

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/async/event_loop.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_interrupts.h"

namespace vireo {
namespace {

// Registers by the names drivers use.
constexpr uint64_t kData = 0;
constexpr uint64_t kIer = 1;
constexpr uint64_t kIir = 2;
constexpr uint64_t kFcr = 2;
constexpr uint64_t kLcr = 3;
constexpr uint64_t kMcr = 4;
constexpr uint64_t kLsr = 5;
constexpr uint64_t kMsr = 6;
constexpr uint64_t kScratch = 7;

class Port {
 public:
  uint8_t In(uint64_t offset) {
    uint8_t data[1];
    serial_.Read(offset, data);
    return data[0];
  }
  void Out(uint64_t offset, uint8_t value) {
    const uint8_t data[1] = {value};
    serial_.Write(offset, data);
  }
  size_t Type(const std::string& text) {
    return serial_.Receive({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

  std::string sent_;
  std::atomic<int> rooms_{0};
  FakeInterruptLine irq_;
  Serial16550 serial_{
      irq_,
      {.transmitted =
           [this](std::span<const uint8_t> bytes) { sent_.append(bytes.begin(), bytes.end()); },
       .room = [this] { ++rooms_; }}};
};

class SerialTest : public testing::Test, protected Port {
 protected:
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
};

TEST_F(SerialTest, SendsWhatIsWritten) {
  for (const char c : std::string("hello")) {
    EXPECT_EQ(In(kLsr), 0x60);
    Out(kData, c);
  }
  EXPECT_EQ(sent_, "hello");
  EXPECT_FALSE(irq_.asserted());
}

TEST_F(SerialTest, TheDivisorIsBehindDlab) {
  Out(kLcr, 0x83);
  Out(0, 0x01);
  Out(1, 0x02);
  EXPECT_EQ(In(0), 0x01);
  EXPECT_EQ(In(1), 0x02);
  Out(kLcr, 0x03);
  EXPECT_EQ(In(kIer), 0);
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(In(kLcr), 0x03);
}

// As Linux's 8250 driver looks for a port and finds out its kind.
TEST_F(SerialTest, DriversRecogniseA16550A) {
  Out(kIer, 0);
  EXPECT_EQ(In(kIer) & 0x0f, 0);
  Out(kIer, 0x0f);
  EXPECT_EQ(In(kIer), 0x0f);
  Out(kIer, 0);
  // Loopback: RTS and OUT2 come back as CTS and DCD.
  Out(kMcr, 0x10 | 0x0a);
  EXPECT_EQ(In(kMsr) & 0xf0, 0x90);
  Out(kMcr, 0);
  // FIFOs: both IIR bits; no 64-byte FIFO, whose bit is set with DLAB; a scratch register.
  Out(kLcr, 0xbf);
  EXPECT_EQ(In(kLcr), 0xbf);
  Out(kLcr, 0);
  Out(kFcr, 0x01);
  EXPECT_EQ(In(kIir) & 0xe0, 0xc0);
  Out(kLcr, 0x80);
  Out(kFcr, 0x21);
  EXPECT_EQ(In(kIir) & 0xe0, 0xc0);
  Out(kLcr, 0);
  Out(kScratch, 0x5a);
  EXPECT_EQ(In(kScratch), 0x5a);
}

TEST_F(SerialTest, EnablingTheTransmitInterruptRaisesItAtOnce) {
  Out(kIer, 0x02);
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(kIir), 0x02);
  EXPECT_FALSE(irq_.asserted()) << "reading IIR acknowledges";
  EXPECT_EQ(In(kIir), 0x01);
  // Off and on again, as the driver's start-up test does.
  Out(kIer, 0);
  Out(kIer, 0x02);
  EXPECT_EQ(In(kIir), 0x02);
}

TEST_F(SerialTest, EachByteSentRaisesTheTransmitInterruptAgain) {
  Out(kIer, 0x02);
  In(kIir);
  irq_.TakeEdges();
  Out(kData, 'a');
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(irq_.TakeEdges(), 1);
  EXPECT_EQ(In(kIir), 0x02);
  EXPECT_EQ(In(kIir), 0x01);
}

TEST_F(SerialTest, ReceivedBytesInterruptAndAreReadInOrder) {
  Out(kFcr, 0x01);  // Trigger level 1.
  Out(kIer, 0x01);
  EXPECT_EQ(Type("ab"), 2u);
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(kIir), 0xc4);
  EXPECT_EQ(In(kLsr), 0x61);
  EXPECT_EQ(In(kData), 'a');
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(kData), 'b');
  EXPECT_FALSE(irq_.asserted());
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(In(kData), 0);
}

TEST_F(SerialTest, BelowTheTriggerLevelTheCauseIsATimeout) {
  Out(kFcr, 0x81);  // Level 8.
  Out(kIer, 0x01);
  Type("1234567");
  EXPECT_EQ(In(kIir), 0xcc);
  Type("8");
  EXPECT_EQ(In(kIir), 0xc4);
}

TEST_F(SerialTest, ReceiveOutranksTransmit) {
  Out(kIer, 0x03);
  Type("x");
  EXPECT_EQ(In(kIir), 0x04);
  In(kData);
  EXPECT_EQ(In(kIir), 0x02);
  EXPECT_EQ(In(kIir), 0x01);
}

TEST_F(SerialTest, InputWaitsForRoomAndIsNeverLost) {
  Out(kFcr, 0x01);
  const std::string text = "The quick brown fox jumps over the lazy dog";
  size_t offered = Type(text);
  EXPECT_EQ(offered, 16u);
  EXPECT_EQ(rooms_, 0);
  std::string got;
  while (got.size() < text.size()) {
    ASSERT_EQ(In(kLsr) & 0x03, 0x01) << "data, no overrun";
    got += static_cast<char>(In(kData));
    const bool room = rooms_.exchange(0) > 0;
    EXPECT_EQ(room, offered < text.size());
    if (room) offered += Type(text.substr(offered));
  }
  EXPECT_EQ(got, text);
}

TEST_F(SerialTest, WithoutFifosOneByteAtATime) {
  EXPECT_EQ(Type("ab"), 1u);
  EXPECT_EQ(In(kData), 'a');
  EXPECT_EQ(rooms_, 1);
  EXPECT_EQ(Type("b"), 1u);
}

TEST_F(SerialTest, ClearingTheFifoMakesRoom) {
  Out(kFcr, 0x01);
  Type("0123456789abcdefXY");
  Out(kFcr, 0x03);
  EXPECT_EQ(In(kLsr) & 1, 0);
  EXPECT_EQ(rooms_, 1);
}

TEST_F(SerialTest, LoopbackStaysInside) {
  Out(kFcr, 0x01);
  Out(kMcr, 0x10);
  Out(kData, 'z');
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(In(kData), 'z');
  EXPECT_EQ(Type("outside"), 0u);
  for (int i = 0; i < 17; ++i) Out(kData, 'y');
  EXPECT_EQ(In(kLsr) & 0x02, 0x02) << "overrun";
  EXPECT_EQ(In(kLsr) & 0x02, 0) << "read once";
  Out(kFcr, 0x03);
  EXPECT_EQ(rooms_, 0);
  Out(kMcr, 0);
  EXPECT_EQ(rooms_, 1);
}

TEST_F(SerialTest, OverrunIsALineStatusInterrupt) {
  Out(kMcr, 0x10);
  Out(kIer, 0x04);
  Out(kData, '1');
  Out(kData, '2');
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(kIir), 0x06);
  In(kLsr);
  EXPECT_FALSE(irq_.asserted());
}

TEST_F(SerialTest, ModemChangesInterruptAndReadOnce) {
  EXPECT_EQ(In(kMsr), 0xb0);
  Out(kIer, 0x08);
  Out(kMcr, 0x10);  // All inputs drop.
  EXPECT_TRUE(irq_.asserted());
  EXPECT_EQ(In(kIir), 0x00);
  EXPECT_EQ(In(kMsr), 0x0b);
  EXPECT_FALSE(irq_.asserted());
  EXPECT_EQ(In(kMsr), 0x00);
  Out(kMcr, 0x14);  // RI rises: no event. Falls: one.
  EXPECT_EQ(In(kMsr), 0x40);
  Out(kMcr, 0x10);
  EXPECT_EQ(In(kMsr), 0x04);
}

TEST_F(SerialTest, QuietPortsTakeNoInput) {
  loop_->RunTask(serial_.Quiesce());
  EXPECT_EQ(Type("a"), 0u);
  serial_.Resume();
  EXPECT_EQ(rooms_, 1);
  EXPECT_EQ(Type("a"), 1u);
}

TEST_F(SerialTest, ResetEmptiesAndIdles) {
  Out(kFcr, 0x01);
  Out(kIer, 0x03);
  Out(kLcr, 0x83);
  Type("0123456789abcdefXY");
  loop_->RunTask(serial_.Reset());
  EXPECT_FALSE(irq_.asserted());
  EXPECT_EQ(In(kLcr), 0);
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(In(kIir), 0x01);
  EXPECT_EQ(rooms_, 1);
}

TEST_F(SerialTest, SavedAndRestoredMidOperation) {
  Out(kFcr, 0x81);
  Out(kLcr, 0x80);
  Out(0, 0x01);
  Out(kLcr, 0x03);
  Out(kMcr, 0x0b);
  Out(kScratch, 0x42);
  Type("0123456789");
  for (int i = 0; i < 5; ++i) In(kData);
  Type("abcdefghij");  // Wrapped around in the FIFO.
  Out(kIer, 0x03);
  loop_->RunTask(serial_.Quiesce());
  const EncodedState state = serial_.Save();

  Port other;
  ASSERT_TRUE(other.serial_.Restore(state).ok());
  EXPECT_TRUE(other.irq_.asserted());
  std::string got;
  while ((other.In(kLsr) & 1) != 0) got += static_cast<char>(other.In(kData));
  EXPECT_EQ(got, "56789abcdefghij");
  EXPECT_EQ(other.In(kIir), 0xc2);
  EXPECT_EQ(other.In(kLcr), 0x03);
  EXPECT_EQ(other.In(kMcr), 0x0b);
  EXPECT_EQ(other.In(kScratch), 0x42);
  EXPECT_EQ(other.sent_, "");
}

TEST_F(SerialTest, DamagedStatesAreRefused) {
  Type("abc");
  const EncodedState state = serial_.Save();
  for (size_t length = 0; length < state.bytes.size(); ++length) {
    EncodedState cut = state;
    cut.bytes.resize(length);
    EXPECT_FALSE(serial_.Restore(cut).ok()) << length;
  }
  EncodedState other = state;
  other.type = "i8042";
  EXPECT_FALSE(serial_.Restore(other).ok());
}

TEST_F(SerialTest, BusyTypingWhileTheGuestReadsAndWrites) {
  Out(kFcr, 0x01);
  Out(kIer, 0x03);
  constexpr size_t kBytes = 20'000;
  std::thread typist([&] {
    size_t typed = 0;
    while (typed < kBytes) {
      std::vector<uint8_t> chunk(std::min<size_t>(37, kBytes - typed));
      for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = static_cast<uint8_t>(typed + i);
      const int rooms = rooms_;
      const size_t taken = serial_.Receive(chunk);
      typed += taken;
      // Refused bytes: the callback must come, or this never ends.
      if (taken < chunk.size()) {
        while (rooms_ == rooms) std::this_thread::yield();
      }
    }
  });
  size_t got = 0;
  while (got < kBytes) {
    if ((In(kLsr) & 1) == 0) {
      std::this_thread::yield();
      continue;
    }
    const uint8_t byte = In(kData);
    ASSERT_EQ(byte, static_cast<uint8_t>(got));
    ++got;
    if (got % 64 == 0) Out(kData, 'x');
  }
  typist.join();
  EXPECT_EQ(sent_.size(), kBytes / 64);
}

TEST_F(SerialTest, RandomAccessesNeverGoWrong) {
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    std::vector<uint8_t> data(random() % 9);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    const uint64_t offset = random() % 9;
    switch (random() % 4) {
      case 0:
        serial_.Read(offset, data);
        break;
      case 1:
        serial_.Receive(data);
        break;
      default:
        serial_.Write(offset, data);
        break;
    }
  }
}

}  // namespace
}  // namespace vireo
