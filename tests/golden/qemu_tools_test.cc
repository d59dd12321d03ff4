// vireo-img and qemu-img at work on each other's images, over the axes of the format: what one has
// made, filled, compressed, snapshotted and given bitmaps, the other checks, compares and converts.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

// One row: an image of this kind.
struct Row {
  const char* name;
  const char* options = "";  // For -o.
  const char* backing = "";  // For -b and -F.
  bool compressed = true;
  bool snapshots = true;
  bool bitmaps = true;
  bool map = true;  // Both call the same parts zeros: QEMU looks for no holes in data files.
};

std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }

// Not a multiple of any cluster size.
constexpr uint64_t kBytes = (5 << 20) + 3 * 512;

class QemuToolsTest : public testing::TestWithParam<Row> {
 protected:
  void SetUp() override {
    if (::access("/usr/bin/qemu-img", X_OK) != 0 || ::access("/usr/bin/qemu-io", X_OK) != 0) {
      GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    }
    const char* const sources = std::getenv("TEST_SRCDIR");
    ASSERT_NE(sources, nullptr);
    ours_ = absl::StrCat(sources, "/vireo/cmd/vireo_img");
    // Text, noise and holes.
    std::mt19937 random(1);
    std::string bytes(kBytes, '\0');
    for (size_t at = 0; at < bytes.size(); at += 64 << 10) {
      const uint32_t kind = random() % 3;
      for (size_t i = at; kind > 0 && i < std::min(at + (64 << 10), bytes.size()); ++i) {
        bytes[i] = static_cast<char>(kind == 1 ? random() : "the quick brown fox "[i % 20]);
      }
    }
    std::ofstream(directory_.File("source.raw"), std::ios::binary) << bytes;
    std::ofstream(directory_.File("base.raw"), std::ios::binary) << bytes.substr(2 << 20);
    Run("qemu-img convert -f raw -O qcow2 base.raw base.qcow2");
  }

  // In the test's folder; `vireo-img` is ours. Answers the exit status.
  int Status(std::string command) {
    for (size_t at = command.find("vireo-img"); at != std::string::npos;
         at = command.find("vireo-img", at + ours_.size())) {
      command.replace(at, 9, ours_);
    }
    const int status = std::system(
        absl::StrCat("cd ", directory_.path(), " && (", command, ") > output.txt 2>&1").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  }
  void Run(const std::string& command) {
    EXPECT_EQ(Status(command), 0) << command << "\n" << Output();
  }
  std::string Output() {
    std::ifstream in(directory_.File("output.txt"));
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::string Options(const std::string& more = "") const {
    const std::string all = absl::StrCat(
        GetParam().options, *GetParam().options != '\0' && !more.empty() ? "," : "", more);
    return all.empty() ? "" : absl::StrCat(" -o ", all, " ");
  }

  // Random writes of all kinds through qemu-io.
  void Scribble(uint32_t seed) {
    std::mt19937 random(seed);
    std::string command = "qemu-io -d unmap -f qcow2";
    for (int i = 0; i < 25; ++i) {
      const uint64_t length = 512 * (1 + random() % 300);
      const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
      const char* const verbs[] = {"write -P 7", "write -P 99", "write -z", "write -z -u",
                                   "discard"};
      absl::StrAppend(&command, " -c '", verbs[random() % 5], " ", offset, " ", length, "'");
    }
    Run(command + " disk.qcow2");
  }
  void SameContent() {
    Run("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw");
    Run("vireo-img convert -f qcow2 -O raw disk.qcow2 ours.raw");
    Run("cmp theirs.raw ours.raw");
    Run("vireo-img compare -f qcow2 -F raw disk.qcow2 theirs.raw");
    Run("qemu-img compare -f qcow2 -F raw disk.qcow2 ours.raw");
  }
  void SameSnapshot(const std::string& name) {
    Run("qemu-img convert -f qcow2 -l " + name + " -O raw disk.qcow2 theirs." + name);
    Run("cp disk.qcow2 copy.qcow2; vireo-img snapshot -a " + name + " copy.qcow2");
    Run("vireo-img compare -f qcow2 -F raw copy.qcow2 theirs." + name);
    Run("qemu-img compare -f qcow2 -F raw copy.qcow2 theirs." + name);
  }
  void BothFindItSound() {
    Run("qemu-img check -f qcow2 disk.qcow2");
    Run("vireo-img check -f qcow2 disk.qcow2");
  }
  // What both say about it is the same, to the letter. Where QEMU says "offset" of a part that is
  // not allocated, in a cluster that has host space, we do not: the table alone is compared then.
  void BothDescribeIt() {
    Same("info --output=json -f qcow2 disk.qcow2 | grep -v actual-size");
    Same("info -f qcow2 disk.qcow2 | grep -v 'disk size'");
    Same("snapshot -l disk.qcow2");
    if (!GetParam().map) return;
    const bool extended = absl::StrContains(GetParam().options, "extended_l2");
    Same(extended ? "map -f qcow2 disk.qcow2" : "map --output=json -f qcow2 disk.qcow2");
  }
  void Same(const std::string& command) {
    Run("qemu-img " + command + " >theirs.txt; vireo-img " + command +
        " >ours.txt; diff theirs.txt ours.txt");
  }

  std::string ours_;
  TempDir directory_;
};

TEST_P(QemuToolsTest, WhatQemuMadeWeGoOnWith) {
  const Row& row = GetParam();
  Run(absl::StrCat("qemu-img create -f qcow2 ", row.backing, Options(), " disk.qcow2 ", kBytes));
  if (row.compressed) {
    Run("qemu-io -f qcow2 -c 'write -c -P 5 0 2M' -c 'write -P 6 1M 300k' disk.qcow2");
  }
  Scribble(1);
  BothFindItSound();
  SameContent();
  BothDescribeIt();
  if (row.bitmaps) {
    Run("qemu-img bitmap --add -g 4096 disk.qcow2 theirs");
    Scribble(2);
    Run("vireo-img bitmap --add disk.qcow2 ours");
    Run("vireo-img bitmap --merge theirs disk.qcow2 ours");
    BothFindItSound();
    BothDescribeIt();
    Run("qemu-img bitmap --remove disk.qcow2 ours && vireo-img bitmap --remove disk.qcow2 theirs");
  }
  if (row.snapshots) {
    Run("qemu-img snapshot -c first disk.qcow2");
    Scribble(3);
    Run("vireo-img snapshot -c second disk.qcow2");
    Scribble(4);
    BothFindItSound();
    SameSnapshot("first");
    SameSnapshot("second");
    Run("vireo-img snapshot -a first disk.qcow2");
    Run("qemu-img compare -f qcow2 -F raw disk.qcow2 theirs.first");
    Run("vireo-img snapshot -d first disk.qcow2");
    Scribble(5);
    Run("qemu-img snapshot -a second disk.qcow2");
    Run("vireo-img compare -f qcow2 -F raw disk.qcow2 theirs.second");
    Run("vireo-img snapshot -d second disk.qcow2");
  }
  BothFindItSound();
  SameContent();
}

TEST_P(QemuToolsTest, WhatWeMadeQemuGoesOnWith) {
  const Row& row = GetParam();
  Run(absl::StrCat("vireo-img create -f qcow2 ", row.backing, Options(), " disk.qcow2 ", kBytes));
  BothFindItSound();
  BothDescribeIt();
  Scribble(6);
  BothFindItSound();
  SameContent();
  if (row.snapshots) {
    Run("vireo-img snapshot -c first disk.qcow2");
    Scribble(7);
    SameSnapshot("first");
    Run("qemu-img snapshot -a first disk.qcow2 && qemu-img snapshot -d first disk.qcow2");
    Run("vireo-img compare -f qcow2 -F raw disk.qcow2 theirs.first");
  }
  BothFindItSound();
}

TEST_P(QemuToolsTest, WhatOneConvertsTheOtherReads) {
  const Row& row = GetParam();
  const std::string more = *row.backing != '\0' ? "" : Options();
  Run("vireo-img convert -f raw -O qcow2 " + more + " source.raw disk.qcow2");
  BothFindItSound();
  Run("qemu-img compare -f raw -F qcow2 source.raw disk.qcow2");
  // What a raw data file is for.
  const bool raw_data = absl::StrContains(row.options, "data_file_raw=on");
  if (raw_data) Run("cmp source.raw disk.data");
  Scribble(8);
  BothFindItSound();
  SameContent();
  Run(absl::StrCat("rm disk.qcow2; qemu-img convert ", row.compressed ? "-c" : "",
                   " -f raw -O qcow2 ", more, " source.raw disk.qcow2"));
  Run("vireo-img compare -f raw -F qcow2 source.raw disk.qcow2");
  SameContent();
  // QEMU makes it whole clusters.
  if (raw_data) Run(absl::StrCat("cmp -n ", kBytes, " source.raw disk.data"));
  BothDescribeIt();
}

INSTANTIATE_TEST_SUITE_P(
    Format, QemuToolsTest,
    testing::Values(
        Row{.name = "Default"}, Row{.name = "Version2", .options = "compat=0.10", .bitmaps = false},
        Row{.name = "Clusters512", .options = "cluster_size=512"},
        Row{.name = "Clusters512Refcounts64", .options = "cluster_size=512,refcount_bits=64"},
        Row{.name = "Clusters4KRefcounts1",
            .options = "cluster_size=4k,refcount_bits=1",
            .snapshots = false},
        Row{.name = "Clusters16KRefcounts8", .options = "cluster_size=16k,refcount_bits=8"},
        Row{.name = "Clusters2M", .options = "cluster_size=2M"},
        Row{.name = "Zstd", .options = "compression_type=zstd"},
        Row{.name = "ZstdClusters2MExtendedL2",
            .options = "compression_type=zstd,cluster_size=2M,extended_l2=on"},
        Row{.name = "LazyRefcounts", .options = "lazy_refcounts=on"},
        Row{.name = "ExtendedL2", .options = "extended_l2=on"},
        Row{.name = "ExtendedL2Clusters16KRefcounts32",
            .options = "extended_l2=on,cluster_size=16k,refcount_bits=32"},
        Row{.name = "DataFile",
            .options = "data_file=disk.data",
            .compressed = false,
            .snapshots = false,
            .map = false},
        Row{.name = "DataFileExtendedL2",
            .options = "data_file=disk.data,extended_l2=on,cluster_size=32k",
            .compressed = false,
            .snapshots = false,
            .map = false},
        Row{.name = "RawDataFile",
            .options = "data_file=disk.data,data_file_raw=on",
            .compressed = false,
            .snapshots = false,
            .map = false},
        Row{.name = "DataFileOverlay",
            .options = "data_file=disk.data,cluster_size=4k",
            .backing = "-b base.qcow2 -F qcow2",
            .compressed = false,
            .snapshots = false,
            .map = false},
        Row{.name = "OverlayOfRaw", .backing = "-b base.raw -F raw"},
        Row{.name = "OverlayOfQcow2", .backing = "-b base.qcow2 -F qcow2"},
        Row{.name = "ExtendedL2Overlay",
            .options = "extended_l2=on,cluster_size=128k",
            .backing = "-b base.qcow2 -F qcow2"},
        Row{.name = "OverlayVersion2",
            .options = "compat=0.10,cluster_size=8k",
            .backing = "-b base.raw -F raw",
            .bitmaps = false}),
    [](const testing::TestParamInfo<Row>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
