#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "storage/img/tool_fixture.h"

namespace vireo::img {
namespace {

using testing::HasSubstr;

struct Shape {
  const char* name;
  const char* options;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

class ConvertTest : public ToolTest, public testing::WithParamInterface<Shape> {
 protected:
  // Noise, text, zeros short and long; the last cluster is a part of one.
  void MakeSource(uint64_t bytes) {
    std::string content(bytes, '\0');
    std::mt19937 random(5);
    for (uint64_t at = 0; at + 65536 <= bytes; at += 65536) {
      const uint32_t kind = random() % 4;
      if (kind == 0) continue;
      const uint64_t length = kind == 1 ? 700 : 65536;
      for (uint64_t i = 0; i < length; ++i) {
        content[at + i] = static_cast<char>(kind == 2 ? "some text "[i % 10] : random());
      }
    }
    content[bytes - 1] = 'x';
    WriteFile("source.raw", content);
  }
  void ExpectSound(const std::string& name) {
    const Ran check = Run({"check", name});
    EXPECT_EQ(check.status, 0) << check.out << check.err;
    const Ran compare = Run({"compare", "-f", "raw", "-F", "qcow2", "source.raw", name});
    EXPECT_EQ(compare.status, 0) << compare.out << compare.err;
  }
};

TEST_P(ConvertTest, GoesThereAndBack) {
  MakeSource((9 << 20) + 7 * 512);
  const std::string options = GetParam().options;
  const Ran there = Run({"convert", "-f", "raw", "-O", "qcow2", "-o", options, "source.raw", "x"});
  ASSERT_EQ(there.status, 0) << there.err;
  ExpectSound("x");
  ASSERT_EQ(Run({"convert", "-f", "qcow2", "-O", "raw", "-m", "3", "-W", "x", "back"}).status, 0);
  EXPECT_TRUE(ReadFile("back") == ReadFile("source.raw"));
}

TEST_P(ConvertTest, Compresses) {
  MakeSource((9 << 20) + 7 * 512);
  const std::string options = GetParam().options;
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"-m", "1"}, {"-m", "16", "-W"}, {"-S", "0"}}) {
    std::vector<std::string> args = {"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options};
    args.insert(args.end(), flags.begin(), flags.end());
    args.insert(args.end(), {"source.raw", "x"});
    const Ran there = Run(args);
    ASSERT_EQ(there.status, 0) << there.err;
    ExpectSound("x");
  }
  // Over a backing file that differs everywhere, so zeros have to be said.
  WriteFile("backing.raw", std::string(10 << 20, 'b'));
  const Ran over = Run({"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "-B",
                        "backing.raw", "-F", "raw", "source.raw", "y"});
  ASSERT_EQ(over.status, 0) << over.err;
  ExpectSound("y");
}

TEST_P(ConvertTest, CompressesIntoAnImageThatIsThere) {
  MakeSource((9 << 20) + 7 * 512);
  const std::string options = GetParam().options;
  // As long as the source, longer, and full of something else.
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "-o", options, "x", "9440768"}).status, 0);
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "-o", options, "y", "12M"}).status, 0);
  WriteFile("other.raw", std::string(12 << 20, 'o'));
  ASSERT_EQ(Run({"convert", "-f", "raw", "-O", "qcow2", "-o", options, "other.raw", "z"}).status,
            0);
  for (const std::string target : {"x", "y", "z"}) {
    const Ran ran =
        Run({"convert", "-c", "-n", "-W", "-f", "raw", "-O", "qcow2", "source.raw", target});
    ASSERT_EQ(ran.status, 0) << ran.err;
    EXPECT_THAT(Run({"map", "--output=json", target}).out, HasSubstr("\"data\": true}"));
  }
  ExpectSound("x");
  ExpectSound("y");
  ASSERT_EQ(Run({"convert", "-f", "qcow2", "-O", "raw", "z", "back"}).status, 0);
  EXPECT_TRUE(ReadFile("back") == ReadFile("source.raw") + std::string((3 << 20) - 7 * 512, 'o'));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ConvertTest,
    testing::Values(Shape{"Default", "cluster_size=64k"}, Shape{"Version2", "compat=0.10"},
                    Shape{"Clusters512", "cluster_size=512"},
                    Shape{"Clusters512Refcounts64", "cluster_size=512,refcount_bits=64"},
                    Shape{"Clusters4kRefcounts1", "cluster_size=4k,refcount_bits=1"},
                    Shape{"Clusters2M", "cluster_size=2M"}, Shape{"Zstd", "compression_type=zstd"},
                    Shape{"ExtendedL2", "extended_l2=on,cluster_size=16k"}),
    [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

class ConvertFlagsTest : public ToolTest {};

TEST_F(ConvertFlagsTest, AFailedRunLeavesNoHalfFile) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "1M"}).status, 0);
  std::filesystem::resize_file("disk.qcow2", 8 * 65536);
  // Guest data past the end of the file: reading fails.
  Poke("disk.qcow2", 0x30000, std::string("\x80\0\0\0\0\4\0\0", 8));
  Poke("disk.qcow2", 0x40000, std::string("\x80\0\0\1\0\0\0\0", 8));
  for (const std::string format : {"raw", "qcow2"}) {
    const Ran ran = Run({"convert", "-O", format, "disk.qcow2", "x"});
    EXPECT_EQ(ran.status, 1);
    EXPECT_THAT(ran.err, HasSubstr("error while reading"));
    EXPECT_FALSE(std::filesystem::exists("x"));
  }
  EXPECT_EQ(Run({"convert", "-c", "-O", "qcow2", "disk.qcow2", "x"}).status, 1);
  EXPECT_FALSE(std::filesystem::exists("x"));
}

TEST_F(ConvertFlagsTest, OnlyQcow2IsCompressed) {
  WriteFile("source.raw", std::string(1 << 20, 's'));
  WriteFile("x", std::string(1 << 20, 'x'));
  const Ran ran = Run({"convert", "-c", "-n", "-f", "raw", "-O", "raw", "source.raw", "x"});
  EXPECT_EQ(ran.status, 1);
  EXPECT_EQ(ran.err, "vireo-img: Compression not supported for this file format\n");
}

TEST_F(ConvertFlagsTest, SalvageGoesOnWhereTheSourceCannotBeRead) {
  ASSERT_EQ(Run({"create", "-q", "-f", "qcow2", "disk.qcow2", "1M"}).status, 0);
  std::filesystem::resize_file("disk.qcow2", 8 * 65536);
  Poke("disk.qcow2", 0x30000, std::string("\x80\0\0\0\0\4\0\0", 8));
  Poke("disk.qcow2", 0x40000, std::string("\x80\0\0\1\0\0\0\0\x80\0\0\0\0\5\0\0", 16));
  Poke("disk.qcow2", 0x50000, "hello");
  const Ran ran = Run({"convert", "--salvage", "-O", "raw", "disk.qcow2", "x"});
  EXPECT_EQ(ran.status, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("vireo-img: warning: error while reading"));
  EXPECT_EQ(ReadFile("x").substr(65536, 5), "hello");
}

}  // namespace
}  // namespace vireo::img
