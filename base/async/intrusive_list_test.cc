#include "base/async/intrusive_list.h"

#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

struct Item : ListNode<Item> {
  explicit Item(int value) : value(value) {}
  int value;
};

std::vector<int> Drain(IntrusiveList<Item>& list) {
  std::vector<int> values;
  while (Item* const item = list.PopFront()) values.push_back(item->value);
  return values;
}

TEST(IntrusiveListTest, KeepsTheOrder) {
  Item one(1), two(2), three(3);
  IntrusiveList<Item> list;
  EXPECT_TRUE(list.empty());
  list.PushBack(one);
  list.PushBack(two);
  list.PushBack(three);
  EXPECT_EQ(Drain(list), (std::vector<int>{1, 2, 3}));
  EXPECT_TRUE(list.empty());
}

TEST(IntrusiveListTest, RemovesFromAnywhereAndTakesBack) {
  Item one(1), two(2), three(3);
  IntrusiveList<Item> list;
  list.PushBack(one);
  list.PushBack(two);
  list.PushBack(three);
  IntrusiveList<Item>::Remove(two);
  EXPECT_FALSE(IntrusiveList<Item>::IsLinked(two));
  list.PushBack(two);
  IntrusiveList<Item>::Remove(one);
  EXPECT_EQ(Drain(list), (std::vector<int>{3, 2}));
}

TEST(IntrusiveListDeathTest, AListOutlivesItsElements) {
  EXPECT_DEATH(
      {
        Item item(1);
        IntrusiveList<Item> list;
        list.PushBack(item);
      },
      "outlives its elements");
}

}  // namespace
}  // namespace vireo
