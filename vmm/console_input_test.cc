#include "vmm/console_input.h"

#include <string>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(ConsoleInputTest, GivesThePortWhatItTakesAndKeepsTheRest) {
  size_t room = 3;
  std::string got;
  ConsoleInput input([&](std::span<const uint8_t> bytes) {
    const size_t taken = std::min(room, bytes.size());
    got.append(bytes.begin(), bytes.begin() + taken);
    room -= taken;
    return taken;
  });
  EXPECT_EQ(input.Write("hello"), 5u);
  EXPECT_EQ(got, "hel");
  room = 100;
  input.Pump();
  EXPECT_EQ(got, "hello");
}

TEST(ConsoleInputTest, SaysHowMuchFits) {
  ConsoleInput input([](std::span<const uint8_t>) { return size_t{0}; });
  EXPECT_EQ(input.Write(std::string(ConsoleInput::kCapacity - 1, 'x')),
            ConsoleInput::kCapacity - 1);
  EXPECT_EQ(input.Write("ab"), 1u);
  EXPECT_EQ(input.Write("c"), 0u);
}

TEST(ConsoleInputTest, ClearForgetsWhatWasNotTaken) {
  bool open = false;
  std::string got;
  ConsoleInput input([&](std::span<const uint8_t> bytes) {
    if (!open) return size_t{0};
    got.append(bytes.begin(), bytes.end());
    return bytes.size();
  });
  input.Write("old");
  input.Clear();
  open = true;
  input.Write("new");
  EXPECT_EQ(got, "new");
}

}  // namespace
}  // namespace vireo
