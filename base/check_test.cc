#include "base/check.h"

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(CheckDeathTest, NamesFileConditionAndInvariant) {
  EXPECT_DEATH(VIREO_CHECK(1 + 1 == 3, "sums are right"),
               "check_test.cc:[0-9]+: 1 \\+ 1 == 3: sums are right");
  EXPECT_DEATH(VIREO_CHECK(false), "check_test.cc:[0-9]+: false\n");
}

TEST(CheckTest, EvaluatesItsConditionOnce) {
  int evaluated = 0;
  VIREO_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace vireo
