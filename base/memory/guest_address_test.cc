#include "base/memory/guest_address.h"

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(GuestAddressTest, AddsUnlessItWraps) {
  EXPECT_EQ(GuestAddress(0x1000).Plus(0x20), GuestAddress(0x1020));
  EXPECT_EQ(GuestAddress(UINT64_MAX).Plus(0), GuestAddress(UINT64_MAX));
  EXPECT_EQ(GuestAddress(UINT64_MAX).Plus(1), std::nullopt);
}

TEST(GuestAddressTest, Compares) {
  EXPECT_LT(GuestAddress(1), GuestAddress(2));
  EXPECT_EQ(GuestAddress(), GuestAddress(0));
}

}  // namespace
}  // namespace vireo
