// Agreement with QEMU's tools, where they are installed: what one writes the other reads and finds
// sound.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/opener.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

struct Shape {
  const char* name;
  const char* options;  // qemu-img's.
  qcow2::CreateOptions ours;
  bool backing = false;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

constexpr uint64_t kBytes = (3 << 20) + 5 * 512;

bool HasQemu() {
  return ::access("/usr/bin/qemu-img", X_OK) == 0 && ::access("/usr/bin/qemu-io", X_OK) == 0;
}

class QemuTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasQemu()) GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    if (!GetParam().backing) return;
    std::vector<uint8_t> bytes(2 << 20);
    std::mt19937 random(1);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    std::fill_n(bytes.begin() + (1 << 20), 256 << 10, 0);
    std::ofstream out(directory_.File("base.raw"), std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  // Runs a shell command in the test's folder; its exit status.
  int Shell(const std::string& command) {
    const std::string line =
        absl::StrCat("cd ", directory_.path(), " && (", command, ") > output.txt 2>&1");
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  }
  std::string Output() {
    std::ifstream in(directory_.File("output.txt"));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<uint8_t> FileBytes(const std::string& name) {
    std::ifstream in(directory_.File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(bool read_only) {
    return loop_->RunTask(OpenImage(*loop_, opener_,
                                    {.path = directory_.File("disk.qcow2"),
                                     .format = ImageFormat::kQcow2,
                                     .read_only = read_only}));
  }
  static Task<absl::Status> CreateTask(EventLoop& loop, Opener& opener, std::string path,
                                       qcow2::CreateOptions options) {
    HostFile::Options file_options = {.path = std::move(path), .create = true};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(file_options));
    CO_RETURN_IF_ERROR(file.status());
    CO_RETURN_IF_ERROR(co_await qcow2::CreateImage(**file, std::move(options)));
    const absl::Status closed = co_await (*file)->Close();
    co_return closed;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
};

TEST_P(QemuTest, ReadsOurImagesAndFindsThemSound) {
  qcow2::CreateOptions options = GetParam().ours;
  options.size_bytes = kBytes;
  if (GetParam().backing) {
    options.backing_file = "base.raw";
    options.backing_format = "raw";
  }
  ASSERT_TRUE(
      loop_->RunTask(CreateTask(*loop_, opener_, directory_.File("disk.qcow2"), options)).ok());
  std::vector<uint8_t> model(kBytes);
  if (GetParam().backing) {
    const std::vector<uint8_t> base = FileBytes("base.raw");
    std::copy(base.begin(), base.end(), model.begin());
  }
  {
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
    ASSERT_TRUE(disk.ok()) << disk.status();
    std::mt19937 random(2);
    for (int i = 0; i < 60; ++i) {
      const uint64_t length = 512 * (1 + random() % (i % 5 == 0 ? 600 : 40));
      const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
      const uint8_t byte = i % 4 == 3 ? 0 : static_cast<uint8_t>(1 + random() % 255);
      std::vector<uint8_t> bytes(length, byte);
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      const absl::Status done =
          byte == 0 ? loop_->RunTask(
                          (*disk)->WriteZeroes(offset, length, {.may_unmap = random() % 2 == 0}))
                    : loop_->RunTask((*disk)->Write(offset, IoVecs(&part, 1), WriteFlags{}));
      ASSERT_TRUE(done.ok()) << done;
      std::copy(bytes.begin(), bytes.end(), model.begin() + offset);
    }
    const absl::Status closed = loop_->RunTask((*disk)->Close());
    ASSERT_TRUE(closed.ok()) << closed;
  }
  ASSERT_EQ(Shell("qemu-img check -f qcow2 disk.qcow2"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw"), 0) << Output();
  EXPECT_TRUE(FileBytes("theirs.raw") == model);
}

TEST_P(QemuTest, WritesImagesThatWeReadAndGoOnWith) {
  const std::string backing = GetParam().backing ? "-b base.raw -F raw" : "";
  ASSERT_EQ(Shell(absl::StrCat("qemu-img create -f qcow2 ", GetParam().options, " ", backing,
                               " disk.qcow2 ", kBytes)),
            0)
      << Output();
  std::string commands = "qemu-io";
  std::mt19937 random(3);
  for (int i = 0; i < 40; ++i) {
    const uint64_t length = 512 * (1 + random() % 200);
    const uint64_t offset = random() % ((kBytes - length) / 512 + 1) * 512;
    const char* const verb = i % 5 == 4 ? "write -z -u" : i % 5 == 3 ? "write -z" : "write";
    const std::string pattern = i % 5 >= 3 ? "" : absl::StrCat("-P ", 1 + i);
    absl::StrAppend(&commands, " -c '", verb, " ", pattern, " ", offset, " ", length, "'");
  }
  ASSERT_EQ(Shell(commands + " disk.qcow2"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw"), 0) << Output();
  std::vector<uint8_t> model = FileBytes("theirs.raw");

  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  std::vector<uint8_t> bytes(kBytes);
  const iovec whole = ToIoVec(std::span<uint8_t>(bytes));
  ASSERT_TRUE(loop_->RunTask((*disk)->Read(0, IoVecs(&whole, 1))).ok());
  EXPECT_TRUE(bytes == model);
  for (uint64_t offset = 1024; offset + 2048 < kBytes; offset += 37 * 1024) {
    std::fill_n(model.begin() + offset, 1536, 0x5a);
    const iovec part = {model.data() + offset, 1536};
    ASSERT_TRUE(loop_->RunTask((*disk)->Write(offset, IoVecs(&part, 1), WriteFlags{})).ok());
  }
  ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  ASSERT_EQ(Shell("qemu-img check -f qcow2 disk.qcow2"), 0) << Output();
  ASSERT_EQ(Shell("qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw"), 0) << Output();
  EXPECT_TRUE(FileBytes("theirs.raw") == model);
}

TEST_P(QemuTest, IsKeptOutWhileWeWrite) {
  ASSERT_EQ(Shell(absl::StrCat("qemu-img create -f qcow2 disk.qcow2 ", kBytes)), 0) << Output();
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_NE(Shell("qemu-io -f qcow2 -c 'write 0 512' disk.qcow2"), 0);
  EXPECT_NE(Shell("qemu-img info disk.qcow2"), 0);
  EXPECT_EQ(Shell("qemu-img info -U disk.qcow2"), 0) << Output();
  EXPECT_TRUE(absl::IsAborted(Open(false).status()));
  ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  EXPECT_EQ(Shell("qemu-io -f qcow2 -c 'write 0 512' disk.qcow2"), 0) << Output();
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, QemuTest,
    testing::Values(
        Shape{.name = "Default", .options = ""},
        Shape{.name = "Version2", .options = "-o compat=0.10", .ours = {.version = 2}},
        Shape{.name = "Clusters512", .options = "-o cluster_size=512", .ours = {.cluster_bits = 9}},
        Shape{.name = "Clusters512Refcounts64",
              .options = "-o cluster_size=512,refcount_bits=64",
              .ours = {.cluster_bits = 9, .refcount_order = 6}},
        Shape{.name = "Clusters4KRefcounts1",
              .options = "-o cluster_size=4k,refcount_bits=1",
              .ours = {.cluster_bits = 12, .refcount_order = 0}},
        Shape{.name = "Clusters2M", .options = "-o cluster_size=2M", .ours = {.cluster_bits = 21}},
        Shape{.name = "Overlay", .options = "", .backing = true},
        Shape{.name = "OverlayVersion2",
              .options = "-o compat=0.10,cluster_size=4k",
              .ours = {.version = 2, .cluster_bits = 12},
              .backing = true}),
    [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
