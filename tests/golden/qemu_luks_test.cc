// Encrypted images that vireo-img has made, and both tools at work on them: written, checked,
// compared, converted, with snapshots and bitmaps. (Of QEMU's own making: luks_test.)

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <ostream>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

struct Row {
  const char* name;
  const char* options;
  const char* backing = "";
  bool data_file = false;  // Which can have no snapshots.
};

std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }

constexpr uint64_t kBytes = (3 << 20) + 3 * 512;

// Stand in for both tools' names and arguments.
constexpr char kSecret[] = " --object secret,id=key,data=sesame ";
constexpr char kDisk[] = " driver=qcow2,file.filename=disk.qcow2,encrypt.key-secret=key ";

class QemuLuksTest : public testing::TestWithParam<Row> {
 protected:
  void SetUp() override {
    if (::access("/usr/bin/qemu-img", X_OK) != 0 || ::access("/usr/bin/qemu-io", X_OK) != 0) {
      GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    }
    const char* const sources = std::getenv("TEST_SRCDIR");
    ASSERT_NE(sources, nullptr);
    ours_ = absl::StrCat(sources, "/vireo/cmd/vireo_img");
    std::mt19937 random(1);
    std::string bytes(kBytes, '\0');
    for (size_t at = 0; at < bytes.size(); at += 64 << 10) {
      if (random() % 3 == 0) continue;
      const size_t end = std::min(at + (64 << 10), bytes.size());
      std::generate(bytes.begin() + static_cast<ptrdiff_t>(at),
                    bytes.begin() + static_cast<ptrdiff_t>(end),
                    [&random] { return static_cast<char>(random()); });
    }
    std::ofstream(directory_.File("source.raw"), std::ios::binary) << bytes;
    std::ofstream(directory_.File("base.raw"), std::ios::binary) << bytes.substr(1 << 20);
  }

  void Run(std::string command) {
    for (size_t at = command.find("vireo-img"); at != std::string::npos;
         at = command.find("vireo-img", at + ours_.size())) {
      command.replace(at, 9, ours_);
    }
    const int status = std::system(
        absl::StrCat("cd ", directory_.path(), " && (", command, ") > output.txt 2>&1").c_str());
    std::ifstream in(directory_.File("output.txt"));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << command << "\n"
        << std::string(std::istreambuf_iterator<char>(in), {});
  }
  // `arguments` of `verb` in both tools; the image is the first operand.
  void Both(const std::string& verb, const std::string& arguments = "") {
    for (const char* const tool : {"qemu-img ", "vireo-img "}) {
      Run(absl::StrCat(tool, verb, kSecret, "--image-opts ", kDisk, arguments));
    }
  }

  std::string Options() const {
    return absl::StrCat(" -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
                        *GetParam().options != '\0' ? "," : "", GetParam().options, " ");
  }
  void Scribble(uint32_t seed) {
    std::mt19937 random(seed);
    std::string command = absl::StrCat("qemu-io -d unmap", kSecret, "--image-opts", kDisk);
    for (int i = 0; i < 20; ++i) {
      const uint64_t length = 512 * (1 + random() % 300);
      const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
      const char* const verbs[] = {"write -P 7", "write -P 99", "write -z", "write -z -u",
                                   "discard"};
      absl::StrAppend(&command, " -c '", verbs[random() % 5], " ", offset, " ", length, "'");
    }
    Run(command);
  }
  void SameContent() {
    Run(absl::StrCat("qemu-img convert", kSecret, "--image-opts -O raw", kDisk, "theirs.raw"));
    Run(absl::StrCat("vireo-img convert", kSecret, "--image-opts -O raw", kDisk, "ours.raw"));
    Run("cmp theirs.raw ours.raw");
    Both("compare", "driver=raw,file.filename=theirs.raw");
  }

  std::string ours_;
  TempDir directory_;
};

TEST_P(QemuLuksTest, BothWorkOnIt) {
  const Row& row = GetParam();
  Run(absl::StrCat("vireo-img create -f qcow2", kSecret, row.backing, Options(), "disk.qcow2 ",
                   kBytes));
  Both("check");
  Scribble(1);
  Both("check");
  SameContent();
  Run("qemu-img info --output=json disk.qcow2 | grep -v actual-size >theirs.txt;"
      "vireo-img info --output=json disk.qcow2 | grep -v actual-size >ours.txt;"
      "diff theirs.txt ours.txt");
  Run(absl::StrCat("qemu-img bitmap", kSecret, "--add --image-opts", kDisk, "theirs"));
  Scribble(2);
  Run(absl::StrCat("vireo-img bitmap", kSecret, "--add --image-opts", kDisk, "ours"));
  Both("check");
  Run(absl::StrCat("qemu-img bitmap", kSecret, "--remove --image-opts", kDisk, "ours"));
  Run(absl::StrCat("vireo-img bitmap", kSecret, "--remove --image-opts", kDisk, "theirs"));
  if (!row.data_file) {
    Run(absl::StrCat("qemu-img snapshot", kSecret, "-c first --image-opts", kDisk));
    SameContent();
    Run("cp theirs.raw first.raw");
    Scribble(3);
    Run(absl::StrCat("vireo-img snapshot", kSecret, "-c second --image-opts", kDisk));
    Scribble(4);
    Both("check");
    Run(absl::StrCat("vireo-img snapshot", kSecret, "-a first --image-opts", kDisk));
    Both("compare", "driver=raw,file.filename=first.raw");
    Run(absl::StrCat("qemu-img snapshot", kSecret, "-a second --image-opts", kDisk));
    Run(absl::StrCat("vireo-img snapshot", kSecret, "-d second --image-opts", kDisk));
    Run(absl::StrCat("qemu-img snapshot", kSecret, "-d first --image-opts", kDisk));
  }
  Both("check");
  SameContent();
}

TEST_P(QemuLuksTest, WhatIsConvertedToItTheOtherReads) {
  Run(absl::StrCat("vireo-img convert", kSecret, "-f raw -O qcow2", Options(),
                   "source.raw disk.qcow2"));
  Both("check");
  Both("compare", "driver=raw,file.filename=source.raw");
  Scribble(5);
  Both("check");
  SameContent();
}

INSTANTIATE_TEST_SUITE_P(Format, QemuLuksTest,
                         testing::Values(Row{"Default", ""}, Row{"Clusters4K", "cluster_size=4k"},
                                         Row{"ExtendedL2", "extended_l2=on"},
                                         Row{"OverlayOfRaw", "", "-b base.raw -F raw"},
                                         Row{"DataFile", "data_file=disk.data", "", true}),
                         [](const testing::TestParamInfo<Row>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
