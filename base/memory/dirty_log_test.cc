#include "base/memory/dirty_log.h"

#include <atomic>
#include <bit>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace vireo {
namespace {

constexpr uint64_t kPage = DirtyLog::kPageSize;

// The numbers of the set bits.
std::vector<uint64_t> Pages(const std::vector<uint64_t>& bitmap) {
  std::vector<uint64_t> pages;
  for (uint64_t page = 0; page < bitmap.size() * 64; ++page) {
    if ((bitmap[page / 64] >> (page % 64) & 1) != 0) pages.push_back(page);
  }
  return pages;
}

class DirtyLogTest : public testing::Test {
 protected:
  // 100 pages at 0, and 10 that touch nothing at 1 MiB.
  DirtyLog log_{{{GuestAddress(0), 100 * kPage}, {GuestAddress(1 << 20), 10 * kPage}}};
};

TEST_F(DirtyLogTest, IsOffUntilStarted) {
  EXPECT_FALSE(log_.enabled());
  log_.Mark(GuestAddress(0), kPage);
  EXPECT_TRUE(log_.FetchAndClear(0).empty());
  ASSERT_TRUE(log_.Start().ok());
  EXPECT_TRUE(log_.enabled());
  EXPECT_EQ(log_.FetchAndClear(0), (std::vector<uint64_t>{0, 0}));
}

TEST_F(DirtyLogTest, MarksEveryPageThatARangeTouches) {
  ASSERT_TRUE(log_.Start().ok());
  log_.Mark(GuestAddress(5 * kPage), 1);
  log_.Mark(GuestAddress(64 * kPage - 1), 2);
  log_.Mark(GuestAddress(70 * kPage + 100), 2 * kPage);
  log_.Mark(GuestAddress(80 * kPage), kPage);
  log_.Mark(GuestAddress(90 * kPage), 0);
  log_.Mark(GuestAddress((1 << 20) + 3 * kPage), 1);
  EXPECT_EQ(Pages(log_.FetchAndClear(0)), (std::vector<uint64_t>{5, 63, 64, 70, 71, 72, 80}));
  EXPECT_EQ(Pages(log_.FetchAndClear(1)), (std::vector<uint64_t>{3}));
}

TEST_F(DirtyLogTest, FetchingClears) {
  ASSERT_TRUE(log_.Start().ok());
  log_.Mark(GuestAddress(0), kPage);
  EXPECT_EQ(Pages(log_.FetchAndClear(0)), (std::vector<uint64_t>{0}));
  EXPECT_TRUE(Pages(log_.FetchAndClear(0)).empty());
}

TEST_F(DirtyLogTest, WhatLiesOutsideIsLeftOut) {
  ASSERT_TRUE(log_.Start().ok());
  log_.Mark(GuestAddress(99 * kPage), 1 << 20);  // Over the hole into the second range.
  log_.Mark(GuestAddress(UINT64_MAX - 10), 100);
  log_.Mark(GuestAddress(uint64_t{1} << 40), kPage);
  EXPECT_EQ(Pages(log_.FetchAndClear(0)), (std::vector<uint64_t>{99}));
  EXPECT_EQ(Pages(log_.FetchAndClear(1)).size(), 10u);
}

TEST_F(DirtyLogTest, ANewStartBeginsClean) {
  ASSERT_TRUE(log_.Start().ok());
  log_.Mark(GuestAddress(0), kPage);
  log_.Stop();
  log_.Mark(GuestAddress(kPage), kPage);
  ASSERT_TRUE(log_.Start().ok());
  EXPECT_TRUE(Pages(log_.FetchAndClear(0)).empty());
}

TEST_F(DirtyLogTest, NoMarkOfAnotherThreadIsLost) {
  ASSERT_TRUE(log_.Start().ok());
  std::atomic<bool> done = false;
  std::thread marker([this, &done] {
    for (uint64_t page = 0; page < 100; ++page) log_.Mark(GuestAddress(page * kPage), 1);
    done = true;
  });
  std::vector<uint64_t> all = {0, 0};
  bool last = false;
  while (!last) {
    last = done;
    const std::vector<uint64_t> some = log_.FetchAndClear(0);
    all[0] |= some[0];
    all[1] |= some[1];
  }
  marker.join();
  EXPECT_EQ(std::popcount(all[0]) + std::popcount(all[1]), 100);
}

}  // namespace
}  // namespace vireo
