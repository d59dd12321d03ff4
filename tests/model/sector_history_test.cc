#include "tests/model/sector_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vireo {
namespace {

using Effect = SectorHistory::Effect;

TEST(SectorHistoryTest, AReadSeesTheLastWriteOnly) {
  SectorHistory history({5});
  history.End(0, history.Begin(0, 7, 1), 2);
  EXPECT_TRUE(history.AllowsRead(0, 7, 3, 4));
  EXPECT_FALSE(history.AllowsRead(0, 5, 3, 4));
  EXPECT_FALSE(history.AllowsRead(0, 0, 3, 4));
}

TEST(SectorHistoryTest, AReadBesideAWriteSeesEither) {
  SectorHistory history({5});
  const size_t write = history.Begin(0, 7, 2);
  EXPECT_TRUE(history.AllowsRead(0, 5, 1, 3));
  EXPECT_TRUE(history.AllowsRead(0, 7, 1, 3));
  history.End(0, write, 4);
  EXPECT_TRUE(history.AllowsRead(0, 5, 1, 5));
  EXPECT_FALSE(history.AllowsRead(0, 5, 4, 5));
}

TEST(SectorHistoryTest, WritesSideBySideLeaveAnyOfThem) {
  SectorHistory history({5});
  const size_t first = history.Begin(0, 7, 1);
  const size_t second = history.Begin(0, 8, 2);
  history.End(0, second, 3);
  history.End(0, first, 4);
  EXPECT_TRUE(history.AllowsRead(0, 7, 5, 6));
  EXPECT_TRUE(history.AllowsRead(0, 8, 5, 6));
  EXPECT_FALSE(history.AllowsRead(0, 5, 5, 6));
}

TEST(SectorHistoryTest, AFailedWriteMayHaveHappened) {
  SectorHistory history({5});
  history.Begin(0, 7, 1);
  EXPECT_TRUE(history.AllowsRead(0, 5, 5, 6));
  EXPECT_TRUE(history.AllowsRead(0, 7, 5, 6));
}

TEST(SectorHistoryTest, ADiscardMayChangeNothing) {
  SectorHistory history({5});
  history.End(0, history.Begin(0, 0, 1, Effect::kOptional), 2);
  EXPECT_TRUE(history.AllowsRead(0, 5, 3, 4));
  EXPECT_TRUE(history.AllowsRead(0, 0, 3, 4));
}

TEST(SectorHistoryTest, APowerCutBringsBackWhatWasNotFlushedOver) {
  SectorHistory history({5});
  history.End(0, history.Begin(0, 7, 1), 2);
  EXPECT_TRUE(history.AllowsAfterCut(0, 5, 3));
  EXPECT_TRUE(history.AllowsAfterCut(0, 7, 3));
  history.Flushed(4, 6);
  EXPECT_TRUE(history.AllowsAfterCut(0, 5, 5));  // The flush was under way.
  EXPECT_FALSE(history.AllowsAfterCut(0, 5, 6));
  EXPECT_TRUE(history.AllowsAfterCut(0, 7, 6));
}

TEST(SectorHistoryTest, AFlushDoesNotHoldWhatEndedAfterItBegan) {
  SectorHistory history({5});
  const size_t write = history.Begin(0, 7, 1);
  history.End(0, write, 4);
  history.Flushed(3, 6);
  EXPECT_TRUE(history.AllowsAfterCut(0, 5, 8));
}

TEST(SectorHistoryTest, AForcedWriteNeedsNoFlush) {
  SectorHistory history({5});
  history.End(0, history.Begin(0, 7, 1), 2, /*durably=*/true);
  EXPECT_TRUE(history.AllowsAfterCut(0, 5, 1));
  EXPECT_FALSE(history.AllowsAfterCut(0, 5, 2));
}

TEST(SectorHistoryTest, WhatHasNotBegunIsNotThere) {
  SectorHistory history({5});
  history.End(0, history.Begin(0, 7, 4), 6);
  EXPECT_FALSE(history.AllowsAfterCut(0, 7, 3));
  EXPECT_FALSE(history.AllowsRead(0, 7, 1, 3));
}

TEST(SectorHistoryTest, NewSectorsHoldZeros) {
  SectorHistory history({5});
  history.Grow(3);
  EXPECT_EQ(history.sectors(), 3u);
  EXPECT_TRUE(history.AllowsRead(2, 0, 1, 2));
}

TEST(SectorHistoryTest, KnowsWhetherAChangeHasBegun) {
  SectorHistory history({1, 2});
  history.Begin(0, 7, 10);
  EXPECT_FALSE(history.HasBegun(0, 9));
  EXPECT_TRUE(history.HasBegun(0, 10));
  EXPECT_FALSE(history.HasBegun(1, 100));
}

}  // namespace
}  // namespace vireo
