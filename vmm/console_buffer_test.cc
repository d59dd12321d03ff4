#include "vmm/console_buffer.h"

#include <memory>
#include <string>

#include "base/async/event_loop.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

class Recorder final : public ConsoleReader {
 public:
  void OnOutput(std::string_view bytes) override { text += bytes; }
  void OnInputRoom() override { ++rooms; }
  void OnClosed() override { closed = true; }
  std::string text;
  int rooms = 0;
  bool closed = false;
};

class ConsoleBufferTest : public testing::Test {
 protected:
  void Print(ConsoleBuffer& buffer, std::string_view text) {
    buffer.Append({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create({});
};

TEST_F(ConsoleBufferTest, AReaderGetsWhatFollows) {
  ConsoleBuffer buffer(*loop_, 64);
  auto reader = std::make_shared<Recorder>();
  buffer.AddReader(reader);
  Print(buffer, "one ");
  loop_->RunUntilIdle();
  Print(buffer, "two");
  loop_->RunUntilIdle();
  EXPECT_EQ(reader->text, "one two");
}

TEST_F(ConsoleBufferTest, ALateReaderGetsTheHistoryThatIsKept) {
  ConsoleBuffer buffer(*loop_, 8);
  Print(buffer, "0123456789abc");
  auto reader = std::make_shared<Recorder>();
  buffer.AddReader(reader);
  loop_->RunUntilIdle();
  EXPECT_EQ(reader->text, "56789abc");
}

TEST_F(ConsoleBufferTest, OutputLargerThanTheRingIsHandedOnInFull) {
  ConsoleBuffer buffer(*loop_, 8);
  auto reader = std::make_shared<Recorder>();
  buffer.AddReader(reader);
  for (int i = 0; i < 100; ++i) {
    Print(buffer, "abcde");
    loop_->RunUntilIdle();
  }
  EXPECT_EQ(reader->text.size(), 500u);
}

TEST_F(ConsoleBufferTest, AReaderThatHangsLosesBytesAndHoldsNobodyUpForEver) {
  ConsoleBuffer buffer(*loop_, 8);
  auto reader = std::make_shared<Recorder>();
  buffer.AddReader(reader);
  Print(buffer, "0123456789abcdefghij");  // The loop does not run meanwhile.
  loop_->RunUntilIdle();
  EXPECT_EQ(reader->text, "cdefghij");
}

TEST_F(ConsoleBufferTest, EveryReaderHearsOfRoomForInput) {
  ConsoleBuffer buffer(*loop_, 64);
  auto one = std::make_shared<Recorder>(), two = std::make_shared<Recorder>();
  buffer.AddReader(one);
  buffer.AddReader(two);
  buffer.TellOfInputRoom();
  loop_->RunUntilIdle();
  EXPECT_EQ(one->rooms, 1);
  EXPECT_EQ(two->rooms, 1);
}

TEST_F(ConsoleBufferTest, ARemovedReaderGetsNoMore) {
  ConsoleBuffer buffer(*loop_, 64);
  auto reader = std::make_shared<Recorder>();
  buffer.AddReader(reader);
  Print(buffer, "seen");
  loop_->RunUntilIdle();
  buffer.RemoveReader(reader.get());
  Print(buffer, "unseen");
  loop_->RunUntilIdle();
  EXPECT_EQ(reader->text, "seen");
  EXPECT_FALSE(reader->closed);
}

TEST_F(ConsoleBufferTest, ClosingHandsOnTheRestAndTellsLateReadersToo) {
  ConsoleBuffer buffer(*loop_, 64);
  auto early = std::make_shared<Recorder>();
  buffer.AddReader(early);
  Print(buffer, "bye");
  buffer.Close();
  auto late = std::make_shared<Recorder>();
  buffer.AddReader(late);
  loop_->RunUntilIdle();
  EXPECT_EQ(early->text, "bye");
  EXPECT_TRUE(early->closed);
  EXPECT_EQ(late->text, "bye");
  EXPECT_TRUE(late->closed);
}

}  // namespace
}  // namespace vireo
