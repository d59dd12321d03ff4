#include "storage/qcow2/slice_slabs.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

namespace vireo::qcow2 {
namespace {

constexpr size_t kSlice = 4096;
constexpr uint64_t kSlab = 64 * kSlice;

TEST(SliceSlabsTest, NothingIsTakenBeforeItIsUsed) {
  SliceSlabs slabs(kSlice);
  EXPECT_EQ(slabs.slab_bytes(), 0u);
  const SliceSlabs::Place place = slabs.Take();
  EXPECT_EQ(slabs.used_bytes(), kSlice);
  EXPECT_EQ(slabs.slab_bytes(), kSlab);
}

TEST(SliceSlabsTest, SlicesLieSideBySideWithNothingBetweenThem) {
  SliceSlabs slabs(kSlice);
  std::vector<SliceSlabs::Place> places;
  std::set<uint8_t*> addresses;
  for (size_t i = 0; i < 3 * 64; ++i) {
    places.push_back(slabs.Take());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(places.back().get()) % kSlice, 0u);
    std::memset(places.back().get(), 0xee, kSlice);
    addresses.insert(places.back().get());
  }
  EXPECT_EQ(addresses.size(), 3u * 64);
  EXPECT_EQ(slabs.slab_bytes(), slabs.used_bytes());
}

TEST(SliceSlabsTest, AFreePlaceIsTakenAgain) {
  SliceSlabs slabs(512);
  SliceSlabs::Place first = slabs.Take();
  const SliceSlabs::Place second = slabs.Take();
  uint8_t* const address = first.get();
  first.Release();
  EXPECT_FALSE(first.valid());
  EXPECT_EQ(slabs.Take().get(), address);
}

TEST(SliceSlabsTest, EmptySlabsGoBackToTheHost) {
  SliceSlabs slabs(kSlice);
  std::vector<SliceSlabs::Place> places(4 * 64);
  for (SliceSlabs::Place& place : places) place = slabs.Take();
  // One of each slab stays.
  for (size_t i = 0; i < places.size(); ++i) {
    if (i % 64 != 63) places[i].Release();
  }
  EXPECT_EQ(slabs.slab_bytes(), 4 * kSlab);
  EXPECT_EQ(slabs.used_bytes(), 4 * kSlice);
  for (SliceSlabs::Place& place : places) place.Release();
  EXPECT_EQ(slabs.used_bytes(), 0u);
  EXPECT_EQ(slabs.slab_bytes(), kSlab);  // For the next slice.
  // Those that are left still work.
  for (SliceSlabs::Place& place : places) place = slabs.Take();
  EXPECT_EQ(slabs.slab_bytes(), 4 * kSlab);
}

}  // namespace
}  // namespace vireo::qcow2
