#include "vmm/console_input.h"

#include <string>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(ConsoleInputTest, GivesThePortWhatItTakesAndKeepsTheRest) {
  size_t room = 3;
  std::string got;
  ConsoleInput input(
      [&](std::span<const uint8_t> bytes) {
        const size_t taken = std::min(room, bytes.size());
        got.append(bytes.begin(), bytes.begin() + taken);
        room -= taken;
        return taken;
      },
      [] { FAIL(); });
  EXPECT_EQ(input.Write("hello"), 5u);
  EXPECT_EQ(got, "hel");
  room = 100;
  input.Pump();
  EXPECT_EQ(got, "hello");
}

TEST(ConsoleInputTest, SaysHowMuchFits) {
  ConsoleInput input([](std::span<const uint8_t>) { return size_t{0}; }, [] { FAIL(); });
  EXPECT_EQ(input.Write(std::string(ConsoleInput::kCapacity - 1, 'x')),
            ConsoleInput::kCapacity - 1);
  EXPECT_EQ(input.Write("ab"), 1u);
  EXPECT_EQ(input.Write("c"), 0u);
}

TEST(ConsoleInputTest, ClearForgetsWhatWasNotTaken) {
  bool open = false;
  std::string got;
  ConsoleInput input(
      [&](std::span<const uint8_t> bytes) {
        if (!open) return size_t{0};
        got.append(bytes.begin(), bytes.end());
        return bytes.size();
      },
      [] { FAIL(); });
  input.Write("old");
  input.Clear();
  open = true;
  input.Write("new");
  EXPECT_EQ(got, "new");
}

TEST(ConsoleInputTest, TellsOfRoomOnceHalfIsFreeIfSomethingWasRefused) {
  size_t room = 0;
  int told = 0;
  ConsoleInput input(
      [&](std::span<const uint8_t> bytes) {
        const size_t taken = std::min(room, bytes.size());
        room -= taken;
        return taken;
      },
      [&] { ++told; });
  const std::string full(ConsoleInput::kCapacity, 'x');
  input.Write(full);
  room = SIZE_MAX;
  input.Pump();
  EXPECT_EQ(told, 0) << "nobody was refused";

  room = 0;
  input.Write(full + "x");
  room = ConsoleInput::kCapacity / 2 - 1;
  input.Pump();
  EXPECT_EQ(told, 0);
  room = 1;
  input.Pump();
  EXPECT_EQ(told, 1);
  input.Pump();
  EXPECT_EQ(told, 1);
}

TEST(ConsoleInputTest, TellsOfRoomWhenCleared) {
  int told = 0;
  ConsoleInput input([](std::span<const uint8_t>) { return size_t{0}; }, [&] { ++told; });
  input.Write(std::string(ConsoleInput::kCapacity + 1, 'x'));
  input.Clear();
  EXPECT_EQ(told, 1);
}

}  // namespace
}  // namespace vireo
