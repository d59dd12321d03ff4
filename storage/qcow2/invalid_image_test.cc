// Images that contradict themselves, one wrong field each: what opening, checking, reading and
// writing answer. Nothing of it may crash, hang or write where it should not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/endian.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/snapshot_edit.h"
#include "tests/support/memory_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

constexpr uint64_t kCluster = 64 << 10;
constexpr uint64_t kPast = uint64_t{1} << 40;  // Aligned, and far behind the end of the file.

// A sound image with data in its first two guest clusters, and where things are in it.
struct Victim {
  std::vector<uint8_t> bytes;
  uint64_t l1 = 0;
  uint64_t l2 = 0;
  uint64_t block = 0;
  uint64_t data = 0;       // Host offset of the first cluster.
  uint64_t snapshots = 0;  // Of the snapshot table.

  uint64_t Get64(uint64_t offset) const {
    Be64 value;
    std::memcpy(&value, bytes.data() + offset, sizeof(value));
    return value;
  }
  void Put64(uint64_t offset, uint64_t value) {
    const Be64 wire(value);
    std::memcpy(bytes.data() + offset, &wire, sizeof(wire));
  }
  void Put32(uint64_t offset, uint32_t value) {
    const Be32 wire(value);
    std::memcpy(bytes.data() + offset, &wire, sizeof(wire));
  }
  void Put16(uint64_t offset, uint16_t value) {
    const Be16 wire(value);
    std::memcpy(bytes.data() + offset, &wire, sizeof(wire));
  }
  void Count(uint64_t host_offset, uint16_t value) {
    Put16(block + host_offset / kCluster * 2, value);
  }
  // The only header extension.
  void Extension(uint32_t type, uint32_t length, const std::string& data = "") {
    std::fill_n(bytes.begin() + 112, 1024, 0);
    Put32(112, type);
    Put32(116, length);
    std::copy(data.begin(), data.end(), bytes.begin() + 120);
  }
  void Bitmaps(uint32_t length, uint32_t count, uint32_t reserved, uint64_t offset) {
    Extension(0x23852875, length);
    Put32(120, count);
    Put32(124, reserved);
    Put64(128, kCluster);
    Put64(136, offset);
    Put64(88, 1);
  }
};

enum class Opens { kNever, kReadOnly, kAlways };
enum class Finds { kClean, kLeaks, kErrors, kRefuses, kAnything };
enum class Does { kWork, kFail, kFailAndMark };  // Mark: the image is corrupt from then on.

struct InvalidImage {
  const char* name;
  std::function<void(Victim&)> damage;
  Opens opens = Opens::kNever;
  Finds check = Finds::kRefuses;
  Does read = Does::kWork;  // Of the first cluster, as far as it opens.
  Does write = Does::kWork;
  uint32_t version = 3;
  bool snapshot = false;
};

std::ostream& operator<<(std::ostream& out, const InvalidImage& image) { return out << image.name; }

Victim MakeVictim(const InvalidImage& image) {
  Qcow2Disk disk(CreateOptions{.size_bytes = 4 << 20, .version = image.version});
  VIREO_CHECK(disk.Open().ok());
  VIREO_CHECK(disk.Write(0, kCluster, 1).ok());
  VIREO_CHECK(disk.Write(kCluster, kCluster, 2).ok());
  VIREO_CHECK(disk.Close().ok());
  if (image.snapshot) {
    MemoryFile file(disk.loop(), disk.medium());
    VIREO_CHECK(disk.loop().RunTask(CreateSnapshot(disk.loop(), file, {.name = "s"})).ok());
  }
  Victim victim = {.bytes = disk.TakeBytes()};
  victim.l1 = victim.Get64(40);
  victim.l2 = victim.Get64(victim.l1) & kEntryOffsetMask;
  victim.block = victim.Get64(victim.Get64(48));
  victim.data = victim.Get64(victim.l2) & kEntryOffsetMask;
  victim.snapshots = victim.Get64(64);
  return victim;
}

class InvalidImageTest : public testing::TestWithParam<InvalidImage> {
 protected:
  std::vector<uint8_t> Damaged() {
    Victim victim = MakeVictim(GetParam());
    GetParam().damage(victim);
    return victim.bytes;
  }
  static Image::Options Writable() { return {.commit_age = absl::InfiniteDuration()}; }
};

TEST_P(InvalidImageTest, OpensAsFarAsItMay) {
  const std::vector<uint8_t> bytes = Damaged();
  Qcow2Disk reader(bytes);
  EXPECT_EQ(reader.Open({.read_only = true}).ok(), GetParam().opens != Opens::kNever);
  EXPECT_TRUE(reader.TakeBytes() == bytes) << "reading has changed it";
  Qcow2Disk writer(bytes);
  const absl::Status opened = writer.Open(Writable());
  EXPECT_EQ(opened.ok(), GetParam().opens == Opens::kAlways) << opened;
  if (!opened.ok()) {
    EXPECT_TRUE(writer.TakeBytes() == bytes) << "a refusal has changed it";
    EXPECT_FALSE(opened.message().empty());
  }
}

TEST_P(InvalidImageTest, IsFoundByACheck) {
  Qcow2Disk disk(Damaged());
  const absl::StatusOr<CheckResult> result = disk.Check();
  const Finds found = !result.ok()                                          ? Finds::kRefuses
                      : result->corruptions > 0 || result->check_errors > 0 ? Finds::kErrors
                      : result->leaks > 0                                   ? Finds::kLeaks
                                                                            : Finds::kClean;
  if (GetParam().check != Finds::kAnything) {
    EXPECT_EQ(static_cast<int>(found), static_cast<int>(GetParam().check)) << result.status();
  }
  // Whatever it repairs, it does not make worse.
  const absl::StatusOr<CheckResult> repaired = disk.Check(Repair::kAll);
  if (repaired.ok() && repaired->corruptions == 0) {
    const absl::StatusOr<CheckResult> again = disk.Check();
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->corruptions, 0u);
  }
}

TEST_P(InvalidImageTest, ReadsOrSaysWhyNot) {
  Qcow2Disk disk(Damaged());
  if (!disk.Open({.read_only = true}).ok()) return;
  const auto read = disk.Read(0, kCluster);
  EXPECT_EQ(read.ok(), GetParam().read == Does::kWork) << read.status();
}

TEST_P(InvalidImageTest, WritesOrHarmsNothing) {
  Qcow2Disk disk(Damaged());
  if (!disk.Open(Writable()).ok()) return;
  const absl::Status written = disk.Write(1024, 512, 9);
  EXPECT_EQ(written.ok(), GetParam().write == Does::kWork) << written;
  if (written.ok()) {
    EXPECT_TRUE(disk.Holds(1024, 512, 9));
  }
  (void)disk.Close();
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->corrupt(), GetParam().write == Does::kFailAndMark);
}

// The third column of the header: offsets of its fields (qcow2 spec, "Header").
std::vector<InvalidImage> Headers() {
  return {
      {"MagicWrong", [](Victim& v) { v.bytes[3] = 0xfa; }},
      {"Version1", [](Victim& v) { v.Put32(4, 1); }},
      {"Version4", [](Victim& v) { v.Put32(4, 4); }},
      {"ClusterBits8", [](Victim& v) { v.Put32(20, 8); }},
      {"ClusterBits22", [](Victim& v) { v.Put32(20, 22); }},
      {"BackingNamePastTheCluster",
       [](Victim& v) {
         v.Put64(8, kCluster + 8);
         v.Put32(16, 4);
       }},
      {"BackingNameTooLong",
       [](Victim& v) {
         v.Put64(8, 1024);
         v.Put32(16, 1024);
       }},
      {"BackingNameCrossesTheEnd",
       [](Victim& v) {
         v.Put64(8, kCluster - 2);
         v.Put32(16, 4);
       }},
      {"BackingNameInsideTheHeader",
       [](Victim& v) {
         v.Put64(8, 64);
         v.Put32(16, 4);
       }},
      {"BackingNameEmpty", [](Victim& v) { v.Put64(8, 1024); }},
      {"L1OverTheLimit", [](Victim& v) { v.Put32(36, (4 << 20) + 1); }},
      {"L1TooSmall", [](Victim& v) { v.Put32(36, 0); }},
      {"L1Unaligned", [](Victim& v) { v.Put64(40, v.l1 + 512); }},
      {"L1Absurd", [](Victim& v) { v.Put64(40, ~uint64_t{0} << 16); }},
      {"RefcountTableUnaligned", [](Victim& v) { v.Put64(48, kCluster + 8); }},
      {"RefcountTableTooLong", [](Victim& v) { v.Put32(56, 129); }},
      {"RefcountTableOverflows", [](Victim& v) { v.Put64(48, ~uint64_t{0} << 16); }},
      {"RefcountTableEmpty", [](Victim& v) { v.Put32(56, 0); }, Opens::kNever, Finds::kAnything},
      {"RefcountOrder7", [](Victim& v) { v.Put32(96, 7); }},
      {"HeaderLength100", [](Victim& v) { v.Put32(100, 100); }},
      {"HeaderLengthOverTheCluster", [](Victim& v) { v.Put32(100, kCluster + 8); }},
      {"HeaderLengthAbsurd", [](Victim& v) { v.Put32(100, 0xfffffff8); }},
      {"HeaderLength105", [](Victim& v) { v.Put32(100, 105); }},
      {"ExtensionPastTheArea", [](Victim& v) { v.Extension(0x12345678, kCluster); }},
      {"BackingFormatTooLong", [](Victim& v) { v.Extension(0xe2792aca, 16, "0123456789abcdef"); }},
      {"UnknownIncompatibleBit", [](Victim& v) { v.Put64(72, 0x20); }},
      {"UnknownCompatibleBit", [](Victim& v) { v.Put64(80, 0x80); }, Opens::kAlways, Finds::kClean},
      {"UnknownAutoclearBit", [](Victim& v) { v.Put64(88, 0x80); }, Opens::kAlways, Finds::kClean},
      {"Dirty", [](Victim& v) { v.Put64(72, 1); }, Opens::kAlways, Finds::kClean},
      {"Corrupt", [](Victim& v) { v.Put64(72, 2); }, Opens::kReadOnly, Finds::kAnything},
      {"DataFileWithoutName", [](Victim& v) { v.Put64(72, 4); }, Opens::kNever, Finds::kAnything},
      {"RawDataWithoutDataFile", [](Victim& v) { v.Put64(88, 2); }},
      {"CompressionBitWithZlib", [](Victim& v) { v.Put64(72, 8); }},
      {"CompressionTypeWithoutBit", [](Victim& v) { v.bytes[104] = 1; }},
      {"CompressionType7",
       [](Victim& v) {
         v.bytes[104] = 7;
         v.Put64(72, 8);
       }},
      {"BitmapsBitWithoutExtension", [](Victim& v) { v.Put64(88, 1); }, Opens::kAlways,
       Finds::kClean},
      {"CryptMethod3", [](Victim& v) { v.Put32(32, 3); }},
      {"LuksWithoutExtension", [](Victim& v) { v.Put32(32, 2); }},
      {"LuksExtensionWithoutLuks",
       [](Victim& v) {
         v.Extension(0x0537be77, 16);
         v.Put64(120, v.data);
         v.Put64(128, 4096);
       }},
      {"SizeNegative", [](Victim& v) { v.Put64(24, uint64_t{1} << 63); }},
      {"SizeOverTheL1", [](Victim& v) { v.Put64(24, uint64_t{1} << 40); }},
      {"SnapshotsOverTheLimit", [](Victim& v) { v.Put32(60, 65537); }, Opens::kNever,
       Finds::kAnything, Does::kWork, Does::kWork, 3, true},
      {"SnapshotTableUnaligned", [](Victim& v) { v.Put64(64, v.snapshots + 8); }, Opens::kNever,
       Finds::kAnything, Does::kWork, Does::kWork, 3, true},
      {"FileEndsInsideTheHeader", [](Victim& v) { v.bytes.resize(71); }},
      {"FileEndsInsideTheL1", [](Victim& v) { v.bytes.resize(v.l1); }, Opens::kNever,
       Finds::kAnything},
      {"TablesOverlap", [](Victim& v) { v.Put64(40, v.Get64(48)); }, Opens::kNever,
       Finds::kAnything},
  };
}

std::vector<InvalidImage> Snapshots() {
  const auto snapshot = [](const char* name, std::function<void(Victim&)> damage, Opens opens,
                           Finds check) {
    return InvalidImage{.name = name,
                        .damage = std::move(damage),
                        .opens = opens,
                        .check = check,
                        .snapshot = true};
  };
  return {
      snapshot(
          "ExtraDataTooLong", [](Victim& v) { v.Put32(v.snapshots + 36, 1025); }, Opens::kReadOnly,
          Finds::kAnything),
      snapshot(
          "SnapshotL1Absurd", [](Victim& v) { v.Put32(v.snapshots + 8, 0x7fffffff); },
          Opens::kReadOnly, Finds::kErrors),
      snapshot(
          "SnapshotL1Unaligned", [](Victim& v) { v.Put64(v.snapshots, v.l1 + 512); },
          Opens::kReadOnly, Finds::kErrors),
      snapshot(
          "SnapshotTablePastTheEnd", [](Victim& v) { v.Put64(64, kPast); }, Opens::kReadOnly,
          Finds::kAnything),
  };
}

std::vector<InvalidImage> Mappings() {
  const auto mapping = [](const char* name, std::function<void(Victim&)> damage, Finds check,
                          Does read, Does write) {
    return InvalidImage{.name = name,
                        .damage = std::move(damage),
                        .opens = Opens::kAlways,
                        .check = check,
                        .read = read,
                        .write = write};
  };
  constexpr Does kWork = Does::kWork;
  constexpr Does kFail = Does::kFail;
  constexpr Does kMark = Does::kFailAndMark;
  return {
      mapping(
          "L1EntryUnaligned", [](Victim& v) { v.Put64(v.l1, kEntryCopied | (v.l2 + 512)); },
          Finds::kErrors, kFail, kMark),
      mapping(
          "L1EntryPastTheEnd", [](Victim& v) { v.Put64(v.l1, kEntryCopied | kPast); },
          Finds::kErrors, kFail, kMark),
      mapping(
          "L1ReservedBits", [](Victim& v) { v.Put64(v.l1, kEntryCopied | v.l2 | 1); },
          Finds::kErrors, kWork, kWork),
      mapping(
          "L2ReservedBits", [](Victim& v) { v.Put64(v.l2, kEntryCopied | v.data | 2); },
          Finds::kErrors, kWork, kWork),
      mapping(
          "CopiedIsMissing", [](Victim& v) { v.Put64(v.l2, v.data); }, Finds::kErrors, kWork,
          kWork),
      mapping(
          "TwoEntriesForOneCluster", [](Victim& v) { v.Put64(v.l2 + 8, kEntryCopied | v.data); },
          Finds::kErrors, kWork, kWork),
      mapping(
          "L2EntryUnaligned", [](Victim& v) { v.Put64(v.l2, kEntryCopied | (v.data + 512)); },
          Finds::kErrors, kFail, kMark),
      mapping(
          "L2EntryPastTheEnd", [](Victim& v) { v.Put64(v.l2, kEntryCopied | kPast); },
          Finds::kErrors, kFail, kMark),
      mapping(
          "L2EntryToARefcountBlock", [](Victim& v) { v.Put64(v.l2, kEntryCopied | v.block); },
          Finds::kErrors, kFail, kMark),
      mapping(
          "L2EntryToTheL1", [](Victim& v) { v.Put64(v.l2, kEntryCopied | v.l1); }, Finds::kErrors,
          kFail, kMark),
      mapping(
          "L2EntryToTheHeader", [](Victim& v) { v.Put64(v.l2, kEntryCopied | 1); },
          Finds::kAnything, kWork, kWork),  // Offset 0 is no cluster; the zero flag holds.
      mapping(
          "CompressedPastTheEnd", [](Victim& v) { v.Put64(v.l2, kEntryCompressed | kPast); },
          Finds::kErrors, kFail, kMark),
      mapping(
          "CompressedGarbage",
          [](Victim& v) {
            std::fill_n(v.bytes.begin() + v.data, 512, 0xff);
            v.Put64(v.l2, kEntryCompressed | v.data);
          },
          Finds::kAnything, kFail, kFail),
      mapping(
          "RefcountOfAUsedClusterIsZero", [](Victim& v) { v.Count(v.data, 0); }, Finds::kErrors,
          kWork, kWork),
      mapping(
          "RefcountTooHigh", [](Victim& v) { v.Count(v.data, 5); }, Finds::kErrors, kWork, kWork),
      mapping(
          "FileEndsBeforeTheData", [](Victim& v) { v.bytes.resize(v.data); }, Finds::kErrors, kFail,
          kMark),
      mapping(
          "L1EntryToTheL1", [](Victim& v) { v.Put64(v.l1, kEntryCopied | v.l1); }, Finds::kErrors,
          kFail, kMark),
      mapping(
          "L1EntryToTheRefcountTable", [](Victim& v) { v.Put64(v.l1, kEntryCopied | v.Get64(48)); },
          Finds::kErrors, kFail, kMark),
      {.name = "ZeroFlagInVersion2",
       .damage = [](Victim& v) { v.Put64(v.l2, kEntryCopied | v.data | 1); },
       .opens = Opens::kAlways,
       .check = Finds::kAnything,
       .read = kFail,
       .write = kFail,
       .version = 2},
  };
}

std::vector<InvalidImage> Bitmaps() {
  const auto bitmaps = [](const char* name, std::function<void(Victim&)> damage) {
    return InvalidImage{.name = name,
                        .damage = std::move(damage),
                        .opens = Opens::kReadOnly,
                        .check = Finds::kAnything};
  };
  return {
      bitmaps("BitmapsLength", [](Victim& v) { v.Bitmaps(16, 1, 0, v.data); }),
      bitmaps("BitmapsNone", [](Victim& v) { v.Bitmaps(24, 0, 0, v.data); }),
      bitmaps("BitmapsTooMany", [](Victim& v) { v.Bitmaps(24, 65536, 0, v.data); }),
      bitmaps("BitmapsReserved", [](Victim& v) { v.Bitmaps(24, 1, 1, v.data); }),
      bitmaps("BitmapsUnaligned", [](Victim& v) { v.Bitmaps(24, 1, 0, v.data + 8); }),
  };
}

std::string NameOf(const testing::TestParamInfo<InvalidImage>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Headers, InvalidImageTest, testing::ValuesIn(Headers()), NameOf);
INSTANTIATE_TEST_SUITE_P(Snapshots, InvalidImageTest, testing::ValuesIn(Snapshots()), NameOf);
INSTANTIATE_TEST_SUITE_P(Mappings, InvalidImageTest, testing::ValuesIn(Mappings()), NameOf);
INSTANTIATE_TEST_SUITE_P(Bitmaps, InvalidImageTest, testing::ValuesIn(Bitmaps()), NameOf);

// --- Refcount structures: nothing but allocation needs them ---

struct BadRefcounts {
  const char* name;
  std::function<void(Victim&)> damage;
  bool opens = true;
};

std::ostream& operator<<(std::ostream& out, const BadRefcounts& bad) { return out << bad.name; }

class BadRefcountsTest : public testing::TestWithParam<BadRefcounts> {};

TEST_P(BadRefcountsTest, NothingIsOverwrittenAndARepairMakesThemAnew) {
  Victim victim = MakeVictim({});
  GetParam().damage(victim);
  Qcow2Disk disk(victim.bytes);
  disk.medium().max_bytes = 64 << 20;
  EXPECT_EQ(disk.Open({.read_only = true}).ok(), GetParam().opens);
  if (disk.Open({.commit_age = absl::InfiniteDuration()}).ok()) {
    (void)disk.Write(10 * kCluster, kCluster, 3);
    (void)disk.Flush();
    EXPECT_TRUE(disk.Holds(0, kCluster, 1));
    EXPECT_TRUE(disk.Holds(kCluster, kCluster, 2));
    (void)disk.Close();
  }
  EXPECT_GT(disk.Check()->corruptions, 0u);
  EXPECT_TRUE(disk.Check(Repair::kAll).ok());
  EXPECT_EQ(disk.Check()->corruptions, 0u);
  ASSERT_TRUE(disk.Open({.commit_age = absl::InfiniteDuration()}).ok());
  EXPECT_TRUE(disk.Holds(0, kCluster, 1));
  EXPECT_TRUE(disk.Write(20 * kCluster, kCluster, 4).ok());
  EXPECT_TRUE(disk.Holds(kCluster, kCluster, 2));
}

INSTANTIATE_TEST_SUITE_P(
    Tables, BadRefcountsTest,
    testing::Values(BadRefcounts{"EntryUnaligned",
                                 [](Victim& v) { v.Put64(v.Get64(48), v.block + 512); }},
                    BadRefcounts{"EntryPastTheEnd", [](Victim& v) { v.Put64(v.Get64(48), kPast); }},
                    BadRefcounts{"EntryMissing", [](Victim& v) { v.Put64(v.Get64(48), 0); }},
                    BadRefcounts{"EntryToTheTable",
                                 [](Victim& v) { v.Put64(v.Get64(48), v.Get64(48)); }, false}),
    [](const auto& info) { return info.param.name; });

// --- Bits that come and go ---

TEST(FeatureBitsTest, UnknownCompatibleBitsStayUnknownAutoclearBitsGo) {
  Victim victim = MakeVictim({});
  victim.Put64(80, 0x80);
  victim.Put64(88, 0x80);
  Qcow2Disk disk(victim.bytes);
  ASSERT_TRUE(disk.Open().ok());
  EXPECT_EQ(disk.Load64(88), 0x80u);
  ASSERT_TRUE(disk.Write(0, 512, 3).ok());
  EXPECT_EQ(disk.Load64(80), 0x80u);
  EXPECT_EQ(disk.Load64(88), 0u);
}

TEST(FeatureBitsTest, ARefusalNamesTheFeature) {
  Victim victim = MakeVictim({});
  victim.Put64(72, 0x20);
  std::string name(48, '\0');
  name[1] = 5;
  name.replace(2, 8, "tachyons");
  victim.Extension(0x6803f857, 48, name);
  Qcow2Disk disk(victim.bytes);
  const absl::Status opened = disk.Open();
  EXPECT_TRUE(absl::IsUnimplemented(opened));
  EXPECT_THAT(std::string(opened.message()), testing::HasSubstr("tachyons"));
}

}  // namespace
}  // namespace vireo::qcow2
