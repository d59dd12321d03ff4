#include "storage/qcow2/create.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>

#include "storage/qcow2/format.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

TEST(CreateTest, LaysOutTheDefaultImageAsEveryoneDoes) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 64 << 20});
  EXPECT_EQ(disk.medium().bytes.size(), 3 * 65536 + 8u);
  const auto header = disk.ReadTheHeader(Access::kReadWrite);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->refcount_table_offset, 0x10000u);
  EXPECT_EQ(header->l1_offset, 0x30000u);
  EXPECT_EQ(header->header_length, 112u);
  EXPECT_EQ(disk.Load64(0x10000), 0x20000u);
}

struct CreateCase {
  const char* name;
  CreateOptions options;
};

std::ostream& operator<<(std::ostream& out, const CreateCase& c) { return out << c.name; }

class CreateShapesTest : public testing::TestWithParam<CreateCase> {};

TEST_P(CreateShapesTest, IsSoundEmptyAndTakesWrites) {
  Qcow2Disk disk(GetParam().options);
  ASSERT_TRUE(disk.Check()->clean());
  ASSERT_TRUE(disk.Open().ok());
  const uint64_t size = disk.disk().geometry().size_bytes;
  EXPECT_EQ(size, (GetParam().options.size_bytes + 511) / 512 * 512);
  if (size > 0) {
    EXPECT_TRUE(disk.Holds(size - 512, 512, 0));
    EXPECT_TRUE(disk.Write(size - 512, 512, 1).ok());
  }
  ASSERT_TRUE(disk.Close().ok());
  EXPECT_TRUE(disk.Check()->clean());
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CreateShapesTest,
    testing::Values(
        CreateCase{"Empty", {.size_bytes = 0}}, CreateCase{"OddSize", {.size_bytes = 1000}},
        CreateCase{"OneTebibyte", {.size_bytes = uint64_t{1} << 40}},
        CreateCase{"Version2", {.size_bytes = 1 << 20, .version = 2}},
        // The L1 table alone needs more than one refcount block describes.
        CreateCase{"ManyBlocks",
                   {.size_bytes = uint64_t{2} << 30, .cluster_bits = 9, .refcount_order = 6}},
        CreateCase{"LargestTable", {.size_bytes = uint64_t{100} << 30, .cluster_bits = 9}},
        CreateCase{"LargeClusters", {.size_bytes = uint64_t{1} << 40, .cluster_bits = 21}},
        CreateCase{"OneBit", {.size_bytes = 1 << 30, .refcount_order = 0}},
        CreateCase{"Lazy", {.size_bytes = 1 << 30, .lazy_refcounts = true}},
        CreateCase{"Zstd", {.size_bytes = 1 << 30, .zstd = true}}),
    [](const testing::TestParamInfo<CreateCase>& info) { return info.param.name; });

class CreateRefusalTest : public testing::TestWithParam<CreateCase> {};

TEST_P(CreateRefusalTest, SaysWhy) {
  const absl::Status status = ValidateCreateOptions(GetParam().options);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(status.message().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Bad, CreateRefusalTest,
    testing::Values(
        CreateCase{"ClusterBits8", {.cluster_bits = 8}},
        CreateCase{"ClusterBits22", {.cluster_bits = 22}}, CreateCase{"Version4", {.version = 4}},
        CreateCase{"Refcounts128", {.refcount_order = 7}},
        CreateCase{"Version2Widths", {.version = 2, .refcount_order = 3}},
        CreateCase{"Version2Lazy", {.version = 2, .lazy_refcounts = true}},
        CreateCase{"Version2Zstd", {.version = 2, .zstd = true}},
        CreateCase{"TooLarge", {.size_bytes = uint64_t{1} << 63}},
        CreateCase{"TooLargeForClusters", {.size_bytes = uint64_t{1} << 40, .cluster_bits = 9}},
        CreateCase{"BackingWithoutFormat", {.backing_file = "base"}},
        CreateCase{"BackingWithoutName", {.backing_file = "", .backing_format = "raw"}},
        CreateCase{
            "NoRoomInHeader",
            {.cluster_bits = 9, .backing_file = std::string(500, 'x'), .backing_format = "raw"}}),
    [](const testing::TestParamInfo<CreateCase>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo::qcow2
