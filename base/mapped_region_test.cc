#include "base/mapped_region.h"

#include <unistd.h>

#include <cstdint>
#include <utility>

#include "base/status.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(MappedRegionTest, AnonymousMemoryIsZeroAndWritable) {
  const absl::StatusOr<MappedRegion> region = MappedRegion::Anonymous(10000);
  ASSERT_TRUE(region.ok()) << region.status();
  ASSERT_EQ(region->bytes().size(), 10000u);
  EXPECT_EQ(region->bytes()[9999], 0);
  region->bytes()[9999] = 7;
  EXPECT_EQ(region->bytes()[9999], 7);
}

TEST(MappedRegionTest, AlignsItsAddress) {
  constexpr size_t kAlignment = 2 << 20;
  const absl::StatusOr<MappedRegion> region =
      MappedRegion::Anonymous(3 * 4096, {.core_dump = false, .alignment = kAlignment});
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->bytes().data()) % kAlignment, 0u);
  region->bytes().back() = 1;
}

TEST(MappedRegionTest, SharedFilesSeeEachOther) {
  const UniqueFd file(::memfd_create("shared", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 8192), 0);
  const absl::StatusOr<MappedRegion> one = MappedRegion::File(file, 8192, {});
  const absl::StatusOr<MappedRegion> other =
      MappedRegion::File(file, 4096, {.offset = 4096, .alignment = 2 << 20});
  ASSERT_TRUE(one.ok() && other.ok());
  one->bytes()[4096 + 5] = 9;
  EXPECT_EQ(other->bytes()[5], 9);
}

TEST(MappedRegionTest, MovingLeavesNothingBehind) {
  absl::StatusOr<MappedRegion> region = MappedRegion::Anonymous(4096);
  ASSERT_TRUE(region.ok()) << region.status();
  MappedRegion moved = *std::move(region);
  MappedRegion third;
  third = std::move(moved);
  EXPECT_TRUE(third.valid());
  EXPECT_FALSE(moved.valid());  // NOLINT(bugprone-use-after-move): what is left is specified.
}

TEST(MappedRegionTest, EmptyAndImpossibleSizesAreErrors) {
  EXPECT_EQ(MappedRegion::Anonymous(0).status().code(), absl::StatusCode::kInvalidArgument);
  const absl::Status status = MappedRegion::Anonymous(size_t{1} << 60).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(MappedRegion::Anonymous(SIZE_MAX - 4096, {.alignment = 1 << 21}).ok());
}

}  // namespace
}  // namespace vireo
