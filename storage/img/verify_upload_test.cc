#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "storage/img/tool_fixture.h"

namespace vireo::img {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string Be(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(i < 8 ? value >> (8 * i) : 0);
  return text;
}

class VerifyUploadTest : public ToolTest {
 protected:
  // A sound image: header, refcount table, refcount block and L1 table, a cluster of 64 KiB each.
  void MakeImage(const std::string& size = "64M") {
    ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", size}).status, 0);
    std::filesystem::resize_file("disk.qcow2", 4 * 65536);
  }
  // A table of one snapshot in a cluster of its own.
  void AddSnapshot(uint64_t l1_offset, uint32_t l1_entries) {
    Poke("disk.qcow2", 4 * 65536,
         Be(l1_offset, 8) + Be(l1_entries, 4) + Be(1, 2) + Be(1, 2) + Be(0, 20) + Be(16, 4) +
             Be(0, 8) + Be(64 << 20, 8) + "1s" + std::string(6, '\0'));
    std::filesystem::resize_file("disk.qcow2", 5 * 65536);
    Poke("disk.qcow2", 0x20008, Be(1, 2));
    Poke("disk.qcow2", 60, Be(1, 4) + Be(4 * 65536, 8));
  }
  void AddDataFile(const std::string& name) {
    Poke("disk.qcow2", 72, Be(4, 8));
    std::string padded = name;
    padded.resize((name.size() + 7) / 8 * 8);
    Poke("disk.qcow2", 112, Be(0x44415441, 4) + Be(name.size(), 4) + padded + Be(0, 8));
  }
  // Refused, for this rule among others.
  void ExpectRefused(const std::string& rule, std::vector<std::string> options = {}) {
    std::vector<std::string> args = {"verify-upload"};
    args.insert(args.end(), options.begin(), options.end());
    args.push_back("disk.qcow2");
    const Ran ran = Run(args);
    EXPECT_EQ(ran.status, 1) << ran.out << ran.err;
    EXPECT_THAT(ran.out, HasSubstr("\n    " + rule + ": "));
  }
};

TEST_F(VerifyUploadTest, TakesWhatIsSound) {
  MakeImage();
  const Ran ran = Run({"verify-upload", "disk.qcow2"});
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
  EXPECT_EQ(ran.out, "disk.qcow2: accepted, a disk of 64 MiB (67108864 bytes)\n");
  EXPECT_EQ(Run({"verify-upload", "-q", "disk.qcow2"}).out, "");
  EXPECT_EQ(Run({"create", "-q", "plain.raw", "1M"}).status, 0);
  EXPECT_EQ(Run({"verify-upload", "-f", "raw", "plain.raw"}).status, 0);
}

TEST_F(VerifyUploadTest, NamesEveryRuleThatIsBroken) {
  MakeImage();
  AddDataFile("/etc/shadow");
  Poke("disk.qcow2", 32, Be(1, 4));
  const Ran ran = Run({"verify-upload", "--output=json", "--max-virtual-size=1M", "disk.qcow2"});
  EXPECT_EQ(ran.status, 1);
  EXPECT_THAT(ran.out, HasSubstr("\"verdict\": \"refused\""));
  EXPECT_THAT(ran.out, HasSubstr("\"rule\": \"data-file\""));
  EXPECT_THAT(ran.out, HasSubstr("\"rule\": \"encryption\""));
  EXPECT_THAT(ran.out, HasSubstr("\"rule\": \"virtual-size\""));
}

TEST_F(VerifyUploadTest, SaysWhenItCannotTell) {
  EXPECT_EQ(Run({"verify-upload", "nosuch"}).status, 2);
  EXPECT_EQ(Run({"verify-upload"}).status, 2);
  EXPECT_EQ(Run({"verify-upload", "-f", "vmdk", "x"}).status, 2);
  EXPECT_EQ(Run({"verify-upload", "--max-ratio=0", "x"}).status, 2);
  EXPECT_EQ(Run({"verify-upload", "--max-virtual-size=much", "x"}).status, 2);
  EXPECT_EQ(Run({"verify-upload", "--output=xml", "x"}).status, 2);
  EXPECT_EQ(Run({"verify-upload", "--nope", "x"}).status, 2);
}

TEST_F(VerifyUploadTest, LimitsAreTheCallers) {
  MakeImage();
  AddSnapshot(0x30000, 1);
  Poke("disk.qcow2", 0x20006, Be(2, 2));  // The L1 table, now of both.
  ExpectRefused("snapshots");
  EXPECT_EQ(Run({"verify-upload", "--allow-snapshots", "disk.qcow2"}).status, 0)
      << Run({"verify-upload", "--allow-snapshots", "disk.qcow2"}).out;
  ExpectRefused("virtual-size", {"--allow-snapshots", "--max-virtual-size=63M"});
}

TEST_F(VerifyUploadTest, RefusesWhatWasNotClosedOrIsBroken) {
  MakeImage();
  Poke("disk.qcow2", 72, Be(1, 8));
  ExpectRefused("clean");
  Poke("disk.qcow2", 72, Be(2, 8));
  ExpectRefused("clean");
  Poke("disk.qcow2", 72, Be(0, 8));
  Poke("disk.qcow2", 0x20006, Be(0, 2));  // The L1 table, not counted.
  ExpectRefused("check");
}

TEST_F(VerifyUploadTest, RefusesUnknownFeaturesAndTails) {
  MakeImage();
  for (const int word : {72, 80, 88}) {
    Poke("disk.qcow2", word, Be(uint64_t{1} << 40, 8));
    ExpectRefused("features");
    Poke("disk.qcow2", word, Be(0, 8));
  }
  std::filesystem::resize_file("disk.qcow2", 1 << 30);
  ExpectRefused("file-size");
}

// --- The public record (identifiers of published vulnerabilities) ---

TEST_F(VerifyUploadTest, Cve2008_2004_RawIsNeverReadAsAnythingElse) {
  MakeImage();
  ExpectRefused("format", {"-f", "raw"});
}

TEST_F(VerifyUploadTest, Cve2013_1922_StatedRawStaysRaw) {
  MakeImage();
  Poke("disk.qcow2", 8, Be(0x210, 8) + Be(11, 4));
  Poke("disk.qcow2", 0x210, "/etc/shadow");
  ASSERT_EQ(Run({"convert", "-f", "raw", "-O", "raw", "disk.qcow2", "copy"}).status, 0);
  EXPECT_TRUE(ReadFile("copy") == ReadFile("disk.qcow2"));
}

TEST_F(VerifyUploadTest, Cve2014_0142_NoClusterBits) {
  MakeImage();
  Poke("disk.qcow2", 20, Be(0, 4));
  ExpectRefused("header");
}

TEST_F(VerifyUploadTest, Cve2014_0143_SizeOfASnapshotsL1Overflows) {
  MakeImage();
  AddSnapshot(0x30000, 0xffffffff);
  ExpectRefused("header", {"--allow-snapshots"});
  EXPECT_EQ(Run({"convert", "-l", "1", "-O", "raw", "disk.qcow2", "out"}).status, 1);
  EXPECT_FALSE(std::filesystem::exists("out"));
}

TEST_F(VerifyUploadTest, Cve2014_0144_NumbersOfTheHeaderWithoutBounds) {
  struct Field {
    uint64_t offset;
    std::string bytes;
  };
  const std::vector<Field> fields = {{100, Be(0xfffffff8, 4)},           // header_length
                                     {56, Be(0x7fffffff, 4)},            // Refcount table.
                                     {48, Be(0xfffffffffffff000, 8)},    // Its offset.
                                     {60, Be(0xffffffff, 4)},            // Snapshots.
                                     {36, Be(0xffffffff, 4)},            // L1 entries.
                                     {40, Be(0x7fffffffffff0000, 8)},    // Its offset.
                                     {8, Be(0x210, 8) + Be(70000, 4)}};  // Backing file name.
  for (const Field& field : fields) {
    MakeImage();
    Poke("disk.qcow2", field.offset, field.bytes);
    ExpectRefused("header");
  }
}

TEST_F(VerifyUploadTest, Cve2014_0145_SnapshotWithALargerL1) {
  MakeImage();
  AddSnapshot(0x30000, 1 << 20);
  ExpectRefused("header", {"--allow-snapshots"});
}

TEST_F(VerifyUploadTest, Cve2014_0146_SnapshotTableThatIsNotThere) {
  MakeImage();
  Poke("disk.qcow2", 60, Be(3, 4) + Be(1 << 30, 8));
  ExpectRefused("header", {"--allow-snapshots"});
}

TEST_F(VerifyUploadTest, Cve2014_0147_RefcountBlocksMadeWithASnapshot) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64",
                 "disk.qcow2", "1M"})
                .status,
            0);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(Run({"snapshot", "-c", "s" + std::to_string(i), "disk.qcow2"}).status, 0);
  }
  EXPECT_EQ(Run({"check", "disk.qcow2"}).status, 0);
}

TEST_F(VerifyUploadTest, Cve2014_0148_ChainThatReturnsToItself) {
  MakeImage();
  Poke("disk.qcow2", 112, Be(0xe2792aca, 4) + Be(5, 4) + "qcow2" + Be(0, 3) + Be(0, 8));
  Poke("disk.qcow2", 8, Be(0x210, 8) + Be(10, 4));
  Poke("disk.qcow2", 0x210, "disk.qcow2");
  ExpectRefused("backing-file");
  EXPECT_EQ(Run({"map", "disk.qcow2"}).status, 1);
  EXPECT_EQ(Run({"convert", "-O", "raw", "disk.qcow2", "out"}).status, 1);
}

TEST_F(VerifyUploadTest, Cve2014_0222_VersionOne) {
  MakeImage();
  Poke("disk.qcow2", 4, Be(1, 4));
  ExpectRefused("format");
  Poke("disk.qcow2", 4, Be(4, 4));
  EXPECT_EQ(Run({"verify-upload", "disk.qcow2"}).status, 1);
}

TEST_F(VerifyUploadTest, Cve2015_5163_BackingFile) {
  for (const std::string name : {"/etc/shadow", "nbd:host:10809", "json:{\"driver\":\"nbd\"}"}) {
    MakeImage();
    Poke("disk.qcow2", 8, Be(0x210, 8) + Be(name.size(), 4));
    Poke("disk.qcow2", 0x210, name);
    ExpectRefused("backing-file");
  }
}

TEST_F(VerifyUploadTest, Cve2022_47951_ExtentsOfAnotherFormat) {
  WriteFile("disk.qcow2", "# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"/etc/shadow\" 0\n" +
                              std::string(1000, '\n'));
  ExpectRefused("format");
  ExpectRefused("format", {"-f", "raw"});
}

TEST_F(VerifyUploadTest, Cve2024_32498_DataFile) {
  MakeImage();
  AddDataFile("/etc/shadow");
  ExpectRefused("data-file");
  ExpectRefused("format", {"-f", "raw"});  // CVE-2024-40767: the same, disguised.
}

TEST_F(VerifyUploadTest, Cve2024_4467_InfoOpensNoDataFile) {
  MakeImage();
  AddDataFile("json:{\"driver\":\"quorum\"}");
  ExpectRefused("data-file");
  const Ran info = Run({"info", "disk.qcow2"});
  EXPECT_EQ(info.status, 0) << info.err;
  EXPECT_THAT(info.out, HasSubstr("data file: json:{\"driver\":\"quorum\"}"));
  EXPECT_EQ(Run({"map", "disk.qcow2"}).status, 1);
}

TEST_F(VerifyUploadTest, Cve2024_44082_OtherContainersAreNoTemplates) {
  const std::vector<std::string> starts = {"KDMV", "conectix", "vhdxfile", std::string("QED\0", 4),
                                           "LUKS\xba\xbe"};
  for (const std::string& start : starts) {
    WriteFile("disk.qcow2", start + std::string(4096, 'x'));
    ExpectRefused("format");
    ExpectRefused("format", {"-f", "raw"});
  }
  WriteFile("disk.qcow2", std::string(4096, 'x') + "conectix" + std::string(504, '\0'));
  ExpectRefused("format", {"-f", "raw"});  // A VHD of fixed size.
}

TEST_F(VerifyUploadTest, Cve2024_45219_UploadedTemplates) {
  MakeImage();
  Poke("disk.qcow2", 32, Be(1, 4));
  EXPECT_EQ(Run({"verify-upload", "disk.qcow2"}).status, 1);
  MakeImage("3T");  // CVE-2024-50386: downloaded ones.
  ExpectRefused("virtual-size");
}

TEST_F(VerifyUploadTest, Cve2026_24708_NothingIsDoneToARawDiskByItsLooks) {
  MakeImage();
  const std::string before = ReadFile("disk.qcow2");
  EXPECT_EQ(Run({"convert", "-n", "-f", "raw", "-O", "raw", "disk.qcow2", "disk.qcow2"}).status, 1);
  EXPECT_THAT(Run({"info", "-f", "raw", "disk.qcow2"}).out,
              HasSubstr("file format: raw\nvirtual size: 256 KiB"));
  EXPECT_TRUE(ReadFile("disk.qcow2") == before);
}

TEST_F(VerifyUploadTest, Ghsa_jmr4_g2hv_mjj6_FormatIsStatedNotDetected) {
  WriteFile("disk.qcow2", std::string(65536, 'x'));
  ExpectRefused("format");
  EXPECT_EQ(Run({"verify-upload", "-f", "raw", "disk.qcow2"}).status, 0);
}

TEST_F(VerifyUploadTest, BombsAreRefused) {
  // 1024 guest clusters that share one.
  MakeImage();
  std::filesystem::resize_file("disk.qcow2", 6 * 65536);
  Poke("disk.qcow2", 0x30000, Be(uint64_t{1} << 63 | 0x40000, 8));
  for (int i = 0; i < 1024; ++i) Poke("disk.qcow2", 0x40000 + i * 8, Be(0x50000, 8));
  Poke("disk.qcow2", 0x20008, Be(1, 2) + Be(1024, 2));
  ExpectRefused("ratio");
  const Ran allowed = Run({"verify-upload", "--max-ratio=1000", "disk.qcow2"});
  EXPECT_EQ(allowed.status, 0) << allowed.out;
  EXPECT_THAT(allowed.out, Not(HasSubstr("ratio")));
  EXPECT_THAT(allowed.out, StartsWith("disk.qcow2: accepted"));
}

}  // namespace
}  // namespace vireo::img
