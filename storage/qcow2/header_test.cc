#include "storage/qcow2/header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "storage/qcow2/format.h"

namespace vireo::qcow2 {
namespace {

using testing::HasSubstr;

constexpr uint64_t kFileBytes = 1 << 20;
constexpr uint64_t kCluster = 4096;

// A header with everything in it, of an image of 4 KiB clusters.
Header GoodHeader() {
  Header header;
  header.layout = {.version = 3, .cluster_bits = 12};
  header.size_bytes = 8 << 20;
  header.l1_entries = 4;
  header.l1_offset = 3 * kCluster;
  header.refcount_table_offset = kCluster;
  header.refcount_table_clusters = 1;
  header.backing_file = "base.raw";
  header.backing_format = "raw";
  header.has_feature_names = true;
  return header;
}

std::vector<uint8_t> GoodBytes() { return *SerializeHeader(GoodHeader()); }

template <typename Wire, typename Value>
void Put(std::vector<uint8_t>& bytes, uint64_t offset, Value value) {
  const Wire wire(value);
  std::memcpy(bytes.data() + offset, &wire, sizeof(wire));
}

TEST(HeaderTest, SurvivesTheWayToBytesAndBack) {
  Header header = GoodHeader();
  header.compatible = kCompatibleLazyRefcounts | uint64_t{1} << 40;
  header.autoclear = uint64_t{1} << 50;
  header.layout.refcount_order = 2;
  header.header_length = 120;
  header.unknown_fields = {1, 2, 3, 4, 5, 6, 7, 8};
  header.unknown_extensions = {{0x12345678, {9, 8, 7}}};
  const auto bytes = SerializeHeader(header);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto parsed = ParseHeader("image", *bytes, kFileBytes, Access::kReadWrite);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->size_bytes, header.size_bytes);
  EXPECT_EQ(parsed->compatible, header.compatible);
  EXPECT_EQ(parsed->autoclear, header.autoclear);
  EXPECT_EQ(parsed->layout.refcount_bits(), 4u);
  EXPECT_EQ(parsed->backing_file, "base.raw");
  EXPECT_EQ(parsed->backing_format, "raw");
  EXPECT_EQ(parsed->unknown_fields, header.unknown_fields);
  ASSERT_EQ(parsed->unknown_extensions.size(), 1u);
  EXPECT_EQ(parsed->unknown_extensions[0].data, header.unknown_extensions[0].data);
  EXPECT_EQ(*SerializeHeader(*parsed), *bytes);
}

TEST(HeaderTest, SaysWhereTheLuksHeaderIs) {
  Header header = GoodHeader();
  header.crypt_method = kCryptLuks;
  header.encryption = EncryptionExtension{.offset = 8 * kCluster, .bytes = 10000};
  const auto bytes = SerializeHeader(header);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto parsed = ParseHeader("image", *bytes, kFileBytes, Access::kReadWrite);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_TRUE(parsed->encryption.has_value());
  EXPECT_EQ(parsed->encryption->offset, 8 * kCluster);
  EXPECT_EQ(parsed->encryption->bytes, 10000u);
}

class BadLuksPointerTest : public testing::TestWithParam<EncryptionExtension> {};

TEST_P(BadLuksPointerTest, IsRefused) {
  Header header = GoodHeader();
  header.crypt_method = kCryptLuks;
  header.encryption = GetParam();
  const auto parsed =
      ParseHeader("image", *SerializeHeader(header), kFileBytes, Access::kReadWrite);
  EXPECT_TRUE(absl::IsDataLoss(parsed.status())) << parsed.status();
}

INSTANTIATE_TEST_SUITE_P(
    All, BadLuksPointerTest,
    testing::Values(EncryptionExtension{.offset = 8 * kCluster + 512, .bytes = 10000},
                    EncryptionExtension{.offset = 8 * kCluster, .bytes = 0},
                    EncryptionExtension{.offset = 8 * kCluster, .bytes = uint64_t{1} << 40},
                    EncryptionExtension{.offset = 0, .bytes = 10000},  // The header.
                    EncryptionExtension{.offset = ~uint64_t{0} << 12, .bytes = 10000},
                    EncryptionExtension{.offset = 3 * kCluster, .bytes = 10000}));  // The L1 table.

TEST(HeaderTest, ReadsTheExampleOfTheFormatsAppendix) {
  const std::vector<uint8_t> bytes = GoodBytes();
  // Backing format and feature names as extensions, the name behind them.
  EXPECT_EQ(std::string(bytes.begin() + 0x78, bytes.begin() + 0x7b), "raw");
  EXPECT_EQ(std::string(bytes.begin() + 0x210, bytes.begin() + 0x218), "base.raw");
}

TEST(HeaderTest, Version2HasItsOwnLengthAndWidth) {
  Header header = GoodHeader();
  header.layout.version = 2;
  header.header_length = 72;
  header.has_feature_names = false;
  const auto bytes = SerializeHeader(header);
  ASSERT_TRUE(bytes.ok());
  const auto parsed = ParseHeader("image", *bytes, kFileBytes, Access::kReadWrite);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layout.refcount_bits(), 16u);
  EXPECT_EQ(parsed->incompatible, 0u);
  EXPECT_EQ(parsed->backing_format, "raw");
}

TEST(HeaderTest, AnOddSizeIsRoundedDown) {
  std::vector<uint8_t> bytes = GoodBytes();
  Put<Be64>(bytes, 24, uint64_t{5000});
  EXPECT_EQ(ParseHeader("image", bytes, kFileBytes, Access::kReadOnly)->size_bytes, 4608u);
}

TEST(HeaderTest, ShortHeadersLackTheFieldsBehindThem) {
  std::vector<uint8_t> bytes = GoodBytes();
  Put<Be64>(bytes, 8, uint64_t{0});  // No backing file, no extensions.
  Put<Be32>(bytes, 100, uint32_t{104});
  std::fill(bytes.begin() + 104, bytes.end(), 0);
  const auto parsed = ParseHeader("image", bytes, kFileBytes, Access::kReadWrite);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->compression_type, 0);
}

TEST(HeaderTest, CorruptImagesOpenForReadingAndRepairOnly) {
  std::vector<uint8_t> bytes = GoodBytes();
  Put<Be64>(bytes, 72, kIncompatibleCorrupt);
  EXPECT_TRUE(ParseHeader("image", bytes, kFileBytes, Access::kReadOnly).ok());
  EXPECT_TRUE(ParseHeader("image", bytes, kFileBytes, Access::kRepair).ok());
  const auto refused = ParseHeader("image", bytes, kFileBytes, Access::kReadWrite);
  EXPECT_TRUE(absl::IsDataLoss(refused.status()));
  EXPECT_THAT(refused.status().message(), HasSubstr("marked corrupt"));
}

TEST(HeaderTest, TooMuchForOneClusterIsRefused) {
  Header header = GoodHeader();
  header.layout.cluster_bits = 9;
  EXPECT_TRUE(absl::IsResourceExhausted(SerializeHeader(header).status()));
}

TEST(HeaderTest, FeaturesBeyondUsAreShownButNotOpened) {
  std::vector<uint8_t> bytes = GoodBytes();
  Put<Be32>(bytes, 20, uint32_t{16});
  bytes.resize(65536);
  Put<Be64>(bytes, 40, uint64_t{3 * 65536});
  Put<Be64>(bytes, 48, uint64_t{65536});
  Put<Be32>(bytes, 32, uint32_t{1});
  EXPECT_TRUE(ParseHeader("image", bytes, kFileBytes, Access::kInspect).ok());
  const auto refused = ParseHeader("image", bytes, kFileBytes, Access::kReadOnly);
  EXPECT_TRUE(absl::IsUnimplemented(refused.status()));
  EXPECT_THAT(refused.status().message(), HasSubstr("AES"));
}

struct BadHeader {
  const char* name;
  std::function<void(std::vector<uint8_t>&)> damage;
  absl::StatusCode code = absl::StatusCode::kDataLoss;
  const char* message = "";
};

std::ostream& operator<<(std::ostream& out, const BadHeader& bad) { return out << bad.name; }

class BadHeaderTest : public testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefused) {
  std::vector<uint8_t> bytes = GoodBytes();
  ASSERT_TRUE(ParseHeader("image", bytes, kFileBytes, Access::kReadWrite).ok());
  GetParam().damage(bytes);
  const auto parsed = ParseHeader("image", bytes, kFileBytes, Access::kReadWrite);
  EXPECT_EQ(parsed.status().code(), GetParam().code) << parsed.status();
  EXPECT_THAT(parsed.status().message(), HasSubstr("image: "));
  EXPECT_THAT(parsed.status().message(), HasSubstr(GetParam().message));
}

template <typename Wire, typename Value>
std::function<void(std::vector<uint8_t>&)> Set(uint64_t offset, Value value) {
  return [offset, value](std::vector<uint8_t>& bytes) { Put<Wire>(bytes, offset, value); };
}

// Puts an extension of `length` bytes, that says `says`, first.
std::function<void(std::vector<uint8_t>&)> Extension(uint32_t type, uint32_t says) {
  return [type, says](std::vector<uint8_t>& bytes) {
    Put<Be32>(bytes, 112, type);
    Put<Be32>(bytes, 116, says);
  };
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadHeaderTest,
    testing::Values(
        BadHeader{"NoBytes", [](auto& b) { b.clear(); }, absl::StatusCode::kInvalidArgument,
                  "not a QCOW2 image"},
        BadHeader{"Magic", Set<Be32>(0, 0x514649fau), absl::StatusCode::kInvalidArgument,
                  "not a QCOW2 image"},
        BadHeader{"Version1", Set<Be32>(4, 1u), absl::StatusCode::kUnimplemented, "version is 1"},
        BadHeader{"Version4", Set<Be32>(4, 4u), absl::StatusCode::kUnimplemented, "version is 4"},
        BadHeader{"ClusterBits8", Set<Be32>(20, 8u), absl::StatusCode::kDataLoss,
                  "cluster_bits is 8"},
        BadHeader{"ClusterBits22", Set<Be32>(20, 22u), absl::StatusCode::kDataLoss,
                  "cluster_bits is 22"},
        BadHeader{"Short", [](auto& b) { b.resize(100); }},
        BadHeader{"HeaderLength100", Set<Be32>(100, 100u), absl::StatusCode::kDataLoss,
                  "header_length is 100"},
        BadHeader{"HeaderLength105", Set<Be32>(100, 105u)},
        BadHeader{"HeaderLengthPastCluster", Set<Be32>(100, 0xfffffff8u)},
        BadHeader{"BackingInsideHeader", Set<Be64>(8, uint64_t{80}), absl::StatusCode::kDataLoss,
                  "backing_file_offset"},
        BadHeader{"BackingPastCluster", Set<Be64>(8, uint64_t{4097})},
        BadHeader{"BackingEmpty", Set<Be32>(16, 0u)},
        BadHeader{"BackingTooLong", Set<Be32>(16, 1024u)},
        BadHeader{"BackingCrossesCluster", Set<Be64>(8, uint64_t{4092})},
        BadHeader{"BackingWithZeroByte", [](auto& b) { b[0x211] = 0; }},
        BadHeader{"UnknownIncompatible", Set<Be64>(72, uint64_t{1} << 60),
                  absl::StatusCode::kUnimplemented, "bit 60"},
        BadHeader{"CompressionBitAlone", Set<Be64>(72, kIncompatibleCompression)},
        BadHeader{"CompressionTypeAlone", [](auto& b) { b[104] = 1; }},
        BadHeader{"CompressionType7",
                  [](auto& b) {
                    b[104] = 7;
                    Put<Be64>(b, 72, kIncompatibleCompression);
                  }},
        BadHeader{"ExtendedL2OfSmallClusters", Set<Be64>(72, kIncompatibleExtendedL2)},
        BadHeader{"RawDataWithoutDataFile", Set<Be64>(88, kAutoclearRawDataFile)},
        BadHeader{"RefcountOrder7", Set<Be32>(96, 7u), absl::StatusCode::kDataLoss,
                  "refcount_order is 7"},
        BadHeader{"Aes", Set<Be32>(32, 1u), absl::StatusCode::kUnimplemented, "AES"},
        BadHeader{"LuksWithoutExtension", Set<Be32>(32, 2u)},
        BadHeader{"LuksExtensionTooShort", Extension(kExtensionEncryption, 15)},
        BadHeader{"CryptMethod3", Set<Be32>(32, 3u)},
        BadHeader{"LuksExtensionWithoutLuks", Extension(kExtensionEncryption, 16)},
        BadHeader{"NoRefcountTable", Set<Be32>(56, 0u)},
        BadHeader{"RefcountTableTooLarge", Set<Be32>(56, 2049u)},
        BadHeader{"RefcountTableUnaligned", Set<Be64>(48, uint64_t{4608})},
        BadHeader{"RefcountTableOnHeader", Set<Be64>(48, uint64_t{0})},
        BadHeader{"RefcountTablePastEnd", Set<Be64>(48, kFileBytes)},
        BadHeader{"RefcountTableAbsurd", Set<Be64>(48, uint64_t{1} << 60)},
        BadHeader{"TooManySnapshots", Set<Be32>(60, 65537u)},
        BadHeader{"SnapshotsUnaligned",
                  [](auto& b) {
                    Put<Be32>(b, 60, 1u);
                    Put<Be64>(b, 64, uint64_t{5 * 4096 + 8});
                  }},
        BadHeader{"L1TooLarge", Set<Be32>(36, 4194305u)},
        BadHeader{"L1TooSmall", Set<Be32>(36, 3u), absl::StatusCode::kDataLoss, "needs 4"},
        BadHeader{"L1Unaligned", Set<Be64>(40, uint64_t{3 * 4096 + 512})},
        BadHeader{"L1PastEnd", Set<Be64>(40, kFileBytes - 4096 + 4096)},
        BadHeader{"L1Absurd", Set<Be64>(40, uint64_t{1} << 62)},
        BadHeader{"SizeAbsurd", Set<Be64>(24, uint64_t{1} << 63)},
        BadHeader{"SizePastL1", Set<Be64>(24, uint64_t{9} << 20)},
        BadHeader{"L1OnRefcountTable", Set<Be64>(40, uint64_t{4096}), absl::StatusCode::kDataLoss,
                  "overlaps"},
        BadHeader{"ExtensionPastArea", Extension(0x1234, 5000)},
        BadHeader{"ExtensionTwice",
                  [](auto& b) {
                    Put<Be32>(b, 112, 0x77u);
                    Put<Be32>(b, 116, 0u);
                    Put<Be32>(b, 120, 0x77u);
                    Put<Be32>(b, 124, 0u);
                  }},
        BadHeader{"BackingFormatTooLong", Extension(kExtensionBackingFormat, 16)},
        BadHeader{"BitmapsOfWrongLength", Extension(kExtensionBitmaps, 16)}),
    [](const testing::TestParamInfo<BadHeader>& info) { return info.param.name; });

TEST(HeaderTest, AFeatureIsNamedFromTheImagesOwnTable) {
  std::vector<uint8_t> bytes = GoodBytes();
  Put<Be64>(bytes, 72, uint64_t{1} << 33);
  RawFeatureName name = {.kind = 0, .bit = 33, .name = "quantum clusters"};
  std::memcpy(bytes.data() + 0x88, &name, sizeof(name));
  const auto parsed = ParseHeader("image", bytes, kFileBytes, Access::kReadOnly);
  EXPECT_THAT(parsed.status().message(), HasSubstr("quantum clusters (bit 33)"));
}

TEST(HeaderTest, AnExtensionHeaderMayNotCrossItsArea) {
  Header header = GoodHeader();
  header.has_feature_names = false;
  std::vector<uint8_t> bytes = *SerializeHeader(header);
  // The area ends where the backing file name begins: four bytes are left for the next extension.
  Put<Be32>(bytes, 112, 0x77u);
  Put<Be32>(bytes, 116, 4u);
  Put<Be64>(bytes, 8, uint64_t{132});
  EXPECT_TRUE(
      absl::IsDataLoss(ParseHeader("image", bytes, kFileBytes, Access::kReadOnly).status()));
}

}  // namespace
}  // namespace vireo::qcow2
