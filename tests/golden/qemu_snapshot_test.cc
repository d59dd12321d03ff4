// Internal snapshots: agreement with QEMU's tools, where they are installed.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/async/event_loop.h"
#include "base/opener.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/qcow2/snapshot_edit.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

struct Shape {
  const char* name;
  const char* options;      // qemu-img's.
  bool compressed = false;  // Some of its clusters are.
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

bool HasQemu() {
  return ::access("/usr/bin/qemu-img", X_OK) == 0 && ::access("/usr/bin/qemu-io", X_OK) == 0;
}

class QemuSnapshotTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasQemu()) GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    ASSERT_EQ(
        Shell(absl::StrCat("qemu-img create -f qcow2 ", GetParam().options, " disk.qcow2 20M")), 0)
        << Output();
    ASSERT_EQ(Io("write -P 1 0 3M", "write -P 2 10M 300k", "write -z 1M 256k"), 0) << Output();
    ASSERT_EQ(Io("write -z -u 2M 64k", "discard 2560k 64k", "write -P 3 19M 1M"), 0) << Output();
    if (!GetParam().compressed) return;
    ASSERT_EQ(Io("write -c -P 4 16M 256k", "write -c -P 5 6M 128k", "flush"), 0) << Output();
  }

  int Shell(const std::string& command) {
    const std::string line =
        absl::StrCat("cd ", directory_.path(), " && (", command, ") > output.txt 2>&1");
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  }
  int Io(const std::string& a, const std::string& b, const std::string& c) {
    return Shell(
        absl::StrCat("qemu-io -f qcow2 -c '", a, "' -c '", b, "' -c '", c, "' disk.qcow2"));
  }
  std::string Output() {
    std::ifstream in(directory_.File("output.txt"));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Keep(const std::string& name) {
    ASSERT_EQ(Shell(absl::StrCat("qemu-img convert -f qcow2 -O raw disk.qcow2 ", name)), 0);
  }
  void ExpectContent(const std::string& name) {
    EXPECT_EQ(Shell(absl::StrCat("qemu-img compare -f qcow2 -F raw disk.qcow2 ", name)), 0)
        << Output();
  }
  void ExpectSound() { ASSERT_EQ(Shell("qemu-img check -f qcow2 disk.qcow2"), 0) << Output(); }

  enum class Operation { kCreate, kDelete, kApply };
  static Task<absl::Status> Perform(EventLoop& loop, Opener& opener, std::string path,
                                    Operation operation, std::string argument) {
    HostFile::Options options = {.path = std::move(path), .lock = LockMode::kExclusive};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(options));
    CO_RETURN_IF_ERROR(file.status());
    absl::Status status;
    if (operation == Operation::kCreate) {
      qcow2::NewSnapshot wanted = {.name = argument};
      const absl::StatusOr<std::string> id =
          co_await qcow2::CreateSnapshot(loop, **file, std::move(wanted));
      status = id.status();
    } else if (operation == Operation::kDelete) {
      status = co_await qcow2::DeleteSnapshot(loop, **file, argument);
    } else {
      status = co_await qcow2::ApplySnapshot(loop, **file, argument);
    }
    const absl::Status closed = co_await (*file)->Close();
    co_return status.ok() ? closed : status;
  }
  absl::Status Do(Operation operation, const std::string& argument) {
    return loop_->RunTask(
        Perform(*loop_, opener_, directory_.File("disk.qcow2"), operation, argument));
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
};

TEST_P(QemuSnapshotTest, QemuGoesOnWithOurs) {
  Keep("first.raw");
  ASSERT_TRUE(Do(Operation::kCreate, "first").ok());
  ExpectSound();
  ASSERT_EQ(Io("write -P 5 1M 3M", "write -P 6 10M 4k", "write -z 19M 64k"), 0) << Output();
  ExpectSound();
  Keep("second.raw");
  ASSERT_TRUE(Do(Operation::kCreate, "second").ok());
  ExpectSound();
  ASSERT_EQ(Io("write -P 7 0 20M", "flush", "flush"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img snapshot -a first disk.qcow2"), 0) << Output();
  ExpectSound();
  ExpectContent("first.raw");
  ASSERT_EQ(Shell("qemu-img snapshot -d first disk.qcow2"), 0) << Output();
  ExpectSound();
  ASSERT_EQ(Shell("qemu-img snapshot -a second disk.qcow2"), 0) << Output();
  ExpectContent("second.raw");
  ASSERT_EQ(Shell("qemu-img snapshot -d second disk.qcow2"), 0) << Output();
  ExpectSound();
}

TEST_P(QemuSnapshotTest, WeGoOnWithTheirs) {
  Keep("first.raw");
  ASSERT_EQ(Shell("qemu-img snapshot -c first disk.qcow2"), 0) << Output();
  ASSERT_EQ(Io("write -P 5 1M 3M", "write -P 6 10M 4k", "write -z 19M 64k"), 0) << Output();
  Keep("second.raw");
  ASSERT_EQ(Shell("qemu-img snapshot -c second disk.qcow2"), 0) << Output();
  ASSERT_EQ(Io("write -P 7 0 20M", "flush", "flush"), 0) << Output();
  ASSERT_TRUE(Do(Operation::kApply, "1").ok());
  ExpectSound();
  ExpectContent("first.raw");
  ASSERT_EQ(Io("write -P 8 0 1M", "flush", "flush"), 0) << Output();
  ASSERT_TRUE(Do(Operation::kDelete, "1").ok());
  ExpectSound();
  ASSERT_TRUE(Do(Operation::kApply, "2").ok());
  ExpectSound();
  ExpectContent("second.raw");
  ASSERT_TRUE(Do(Operation::kDelete, "2").ok());
  ExpectSound();
  ExpectContent("second.raw");
}

INSTANTIATE_TEST_SUITE_P(Shapes, QemuSnapshotTest,
                         testing::Values(Shape{"Default", ""}, Shape{"Version2", "-o compat=0.10"},
                                         Shape{"Clusters512", "-o cluster_size=512"},
                                         Shape{"Clusters4KRefcounts4",
                                               "-o cluster_size=4k,refcount_bits=4"},
                                         Shape{"Compressed", "", true},
                                         Shape{"CompressedZstd", "-o compression_type=zstd", true},
                                         Shape{"ExtendedL2", "-o extended_l2=on", true},
                                         Shape{"Refcounts64", "-o refcount_bits=64"},
                                         Shape{"Clusters2M", "-o cluster_size=2M"}),
                         [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
