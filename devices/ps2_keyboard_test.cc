#include "devices/ps2_keyboard.h"

#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<uint8_t> Taken(Ps2Keyboard& keyboard) {
  std::vector<uint8_t> bytes;
  while (keyboard.HasOutput()) bytes.push_back(keyboard.Take());
  return bytes;
}

class Ps2KeyboardTest : public testing::Test {
 protected:
  std::vector<uint8_t> Ask(std::initializer_list<uint8_t> bytes) {
    for (const uint8_t byte : bytes) keyboard_.Write(byte);
    return Taken(keyboard_);
  }
  // What the other knows after it got what this one saved.
  Ps2Keyboard Moved() {
    StateWriter writer;
    keyboard_.Save(writer);
    const std::vector<uint8_t> bytes = writer.Finish();
    StateReader reader(bytes);
    Ps2Keyboard other;
    other.Restore(reader);
    EXPECT_TRUE(reader.Finish().ok()) << reader.Finish();
    return other;
  }

  Ps2Keyboard keyboard_;
};

TEST_F(Ps2KeyboardTest, SaysNothingUnasked) { EXPECT_THAT(Taken(keyboard_), IsEmpty()); }

TEST_F(Ps2KeyboardTest, AnswersEveryCommand) {
  EXPECT_THAT(Ask({0xee}), ElementsAre(0xee));
  EXPECT_THAT(Ask({0xf2}), ElementsAre(0xfa, 0xab, 0x83));
  EXPECT_THAT(Ask({0xff}), ElementsAre(0xfa, 0xaa));
  for (const uint8_t command : {0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa}) {
    EXPECT_THAT(Ask({command}), ElementsAre(0xfa)) << int{command};
  }
  for (const uint8_t wrong : {0x00, 0x80, 0xec, 0xef, 0xf1}) {
    EXPECT_THAT(Ask({wrong}), ElementsAre(0xfe)) << int{wrong};
  }
}

TEST_F(Ps2KeyboardTest, LightsAreSetInTwoSteps) {
  EXPECT_THAT(Ask({0xed}), ElementsAre(0xfa));
  EXPECT_EQ(keyboard_.leds(), 0);
  EXPECT_THAT(Ask({0x06}), ElementsAre(0xfa));
  EXPECT_EQ(keyboard_.leds(), 6);
  EXPECT_THAT(Ask({0x06}), ElementsAre(0xfe)) << "no command";
  Ask({0xff});
  EXPECT_EQ(keyboard_.leds(), 0);
}

TEST_F(Ps2KeyboardTest, ACommandInPlaceOfAValueIsACommand) {
  EXPECT_THAT(Ask({0xed}), ElementsAre(0xfa));
  EXPECT_THAT(Ask({0xf2}), ElementsAre(0xfa, 0xab, 0x83));
  EXPECT_THAT(Ask({0x07}), ElementsAre(0xfe));
  EXPECT_EQ(keyboard_.leds(), 0);
}

TEST_F(Ps2KeyboardTest, ScanCodeSetIsKeptUntilDefaultsOrReset) {
  EXPECT_THAT(Ask({0xf0, 0x00}), ElementsAre(0xfa, 2));
  Ask({0xf0});
  EXPECT_THAT(Ask({0x03}), ElementsAre(0xfa));
  EXPECT_THAT(Ask({0xf0, 0x00}), ElementsAre(0xfa, 3));
  Ask({0xf0});
  EXPECT_THAT(Ask({0x04}), ElementsAre(0xfe)) << "there is no set 4";
  EXPECT_THAT(Ask({0xf0, 0x00}), ElementsAre(0xfa, 3));
  Ask({0xf6});
  EXPECT_THAT(Ask({0xf0, 0x00}), ElementsAre(0xfa, 2));
}

TEST_F(Ps2KeyboardTest, AListOfKeysEndsWithTheNextCommand) {
  EXPECT_THAT(Ask({0xfb}), ElementsAre(0xfa));
  for (const uint8_t key : {0x1c, 0x32, 0x84}) EXPECT_THAT(Ask({key}), ElementsAre(0xfa));
  EXPECT_THAT(Ask({0xf4}), ElementsAre(0xfa));
  EXPECT_THAT(Ask({0x1c}), ElementsAre(0xfe));
}

TEST_F(Ps2KeyboardTest, DisabledByF5UntilF4OrReset) {
  EXPECT_TRUE(keyboard_.scanning());
  Ask({0xf5});
  EXPECT_FALSE(keyboard_.scanning());
  Ask({0xf4});
  EXPECT_TRUE(keyboard_.scanning());
  Ask({0xf5});
  Ask({0xff});
  EXPECT_TRUE(keyboard_.scanning());
}

TEST_F(Ps2KeyboardTest, ANewCommandCutsOffTheAnswerBefore) {
  keyboard_.Write(0xf2);
  EXPECT_EQ(keyboard_.Take(), 0xfa);
  EXPECT_THAT(Ask({0xee}), ElementsAre(0xee));
}

TEST_F(Ps2KeyboardTest, SaysItsLastByteAgain) {
  Ask({0xf2});
  EXPECT_THAT(Ask({0xfe}), ElementsAre(0x83));
  EXPECT_THAT(Ask({0xfe}), ElementsAre(0x83));
}

TEST_F(Ps2KeyboardTest, GoesOnElsewhereInTheMiddleOfAnAnswer) {
  Ask({0xf5});
  keyboard_.Write(0xf2);
  EXPECT_EQ(keyboard_.Take(), 0xfa);
  Ps2Keyboard other = Moved();
  EXPECT_FALSE(other.scanning());
  EXPECT_THAT(Taken(other), ElementsAre(0xab, 0x83));
}

TEST_F(Ps2KeyboardTest, GoesOnElsewhereBetweenCommandAndValue) {
  Ask({0xed});
  Ps2Keyboard other = Moved();
  other.Write(0x04);
  EXPECT_THAT(Taken(other), ElementsAre(0xfa));
  EXPECT_EQ(other.leds(), 4);
}

TEST_F(Ps2KeyboardTest, RefusesStateThatCannotBe) {
  struct Case {
    std::vector<uint8_t> answer;
    uint8_t sent, pending, set;
    bool good;
  };
  for (const Case& c : {Case{{0xfa, 0xab}, 1, 0xed, 2, true}, Case{{0xfa}, 2, 0, 2, false},
                        Case{{1, 2, 3, 4}, 0, 0, 2, false}, Case{{}, 0, 0xf2, 2, false},
                        Case{{}, 0, 0, 0, false}, Case{{}, 0, 0, 4, false}}) {
    StateWriter writer;
    writer.Bytes(c.answer);
    writer.U8(c.sent);
    writer.U8(0xfa);
    writer.U8(c.pending);
    writer.U8(c.set);
    writer.U8(0x2b);
    writer.U8(0);
    writer.Bool(true);
    const std::vector<uint8_t> bytes = writer.Finish();
    StateReader reader(bytes);
    Ps2Keyboard keyboard;
    keyboard.Restore(reader);
    EXPECT_EQ(reader.Finish().ok(), c.good);
  }
}

// Whatever a host writes gets an answer, of three bytes at most.
TEST_F(Ps2KeyboardTest, EveryByteHasAnAnswer) {
  std::mt19937 random(1);
  for (int i = 0; i < 100'000; ++i) {
    keyboard_.Write(static_cast<uint8_t>(random()));
    const size_t bytes = Taken(keyboard_).size();
    EXPECT_GE(bytes, 1U);
    EXPECT_LE(bytes, 3U);
  }
}

}  // namespace
}  // namespace vireo
