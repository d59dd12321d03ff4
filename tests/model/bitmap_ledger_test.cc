#include "tests/model/bitmap_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vireo {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

// Eight sectors, two to a granule; the second granule is dirty.
BitmapState Before() {
  return {.name = "one",
          .granularity_bits = 10,
          .dirty = {false, false, true, true, false, false, false, false}};
}

BitmapState With(std::vector<bool> dirty) {
  BitmapState bitmap = Before();
  bitmap.dirty = std::move(dirty);
  return bitmap;
}

BitmapState InUse() {
  BitmapState bitmap = With({});
  bitmap.in_use = true;
  return bitmap;
}

// Sector 4 was changed, sector 6 touched.
BitmapChanges Changes() {
  return {.changed = {false, false, false, false, true, false, false, false},
          .touched = {false, false, false, false, true, false, true, false}};
}

TEST(BitmapLedgerTest, WhatIsChangedIsDirtyAndNothingMoreThanWasTouched) {
  EXPECT_THAT(CompareBitmaps({Before()}, {With({0, 0, 1, 1, 1, 1, 0, 0})}, Changes()), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {With({0, 0, 1, 1, 1, 1, 1, 1})}, Changes()), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {Before()}, Changes()), HasSubstr("sector 4 is clean"));
  EXPECT_THAT(CompareBitmaps({Before()}, {With({0, 0, 0, 0, 1, 1, 0, 0})}, Changes()),
              HasSubstr("sector 2 is clean"));
  EXPECT_THAT(CompareBitmaps({Before()}, {With({1, 1, 1, 1, 1, 1, 0, 0})}, Changes()),
              HasSubstr("sector 0 is dirty"));
}

TEST(BitmapLedgerTest, ADisabledOneStaysAsItIs) {
  BitmapState off = Before();
  off.enabled = false;
  EXPECT_THAT(CompareBitmaps({off}, {off}, Changes()), IsEmpty());
  BitmapState more = With({0, 0, 1, 1, 1, 1, 0, 0});
  more.enabled = false;
  EXPECT_THAT(CompareBitmaps({off}, {more}, Changes()), HasSubstr("sector 4 is dirty"));
}

TEST(BitmapLedgerTest, WhatIsLostStaysLost) {
  EXPECT_THAT(CompareBitmaps({InUse()}, {Before()}, {}), HasSubstr("trusted again"));
  EXPECT_THAT(CompareBitmaps({InUse()}, {InUse()}, {}), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {InUse()}, {}), HasSubstr("is lost"));
  EXPECT_THAT(CompareBitmaps({Before()}, {InUse()}, {.may_be_in_use = true}), IsEmpty());
}

TEST(BitmapLedgerTest, NoneComesOrGoesByItself) {
  EXPECT_THAT(CompareBitmaps({Before()}, {}, {}), HasSubstr("is gone"));
  EXPECT_THAT(CompareBitmaps({}, {Before()}, {}), HasSubstr("nobody has made"));
}

TEST(BitmapLedgerTest, AnEditIsDoneOrNotAndBitsMayBeInUseMeanwhile) {
  BitmapChanges changes;
  changes.edit = {.from = Before(), .to = With({0, 0, 0, 0, 0, 0, 0, 0})};
  EXPECT_THAT(CompareBitmaps({Before()}, {Before()}, changes), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {*changes.edit->to}, changes), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {InUse()}, changes), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {With({1, 1, 0, 0, 0, 0, 0, 0})}, changes),
              HasSubstr("neither"));
  changes.edit->done = true;
  EXPECT_THAT(CompareBitmaps({Before()}, {Before()}, changes), HasSubstr("neither"));
  EXPECT_THAT(CompareBitmaps({Before()}, {*changes.edit->to}, changes), IsEmpty());
}

TEST(BitmapLedgerTest, OneIsMadeOrRemovedAsAWhole) {
  BitmapChanges made;
  made.edit = {.from = {}, .to = Before()};
  EXPECT_THAT(CompareBitmaps({}, {}, made), IsEmpty());
  EXPECT_THAT(CompareBitmaps({}, {Before()}, made), IsEmpty());
  EXPECT_THAT(CompareBitmaps({}, {InUse()}, made), HasSubstr("neither"));
  BitmapChanges removed;
  removed.edit = {.from = Before(), .to = {}};
  removed.edit->done = true;
  EXPECT_THAT(CompareBitmaps({Before()}, {}, removed), IsEmpty());
  EXPECT_THAT(CompareBitmaps({Before()}, {Before()}, removed), HasSubstr("neither"));
}

}  // namespace
}  // namespace vireo
