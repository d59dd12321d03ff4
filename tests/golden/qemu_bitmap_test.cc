// Persistent dirty bitmaps: what QEMU's tools store we read, and the other way round, where they
// are installed.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/async/event_loop.h"
#include "base/opener.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/bitmap_store.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

struct Shape {
  const char* name;
  const char* options;      // qemu-img's.
  const char* granularity;  // Of the bitmap.
  uint64_t granule;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

constexpr uint64_t kDisk = (70 << 20) + 512;

class QemuBitmapTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (::access("/usr/bin/qemu-img", X_OK) != 0 || ::access("/usr/bin/qemu-io", X_OK) != 0) {
      GTEST_SKIP() << "qemu-img and qemu-io are not installed";
    }
    ASSERT_EQ(
        Shell(absl::StrCat("qemu-img create -f qcow2 ", GetParam().options, " disk.qcow2 ", kDisk)),
        0)
        << Output();
    ASSERT_EQ(
        Shell(absl::StrCat("qemu-img bitmap --add -g ", GetParam().granularity, " disk.qcow2 b")),
        0)
        << Output();
  }

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

  static Task<absl::StatusOr<qcow2::DirtyBitmap>> LoadTask(EventLoop& loop, Opener& opener,
                                                           std::string path, std::string name) {
    HostFile::Options options = {.path = std::move(path), .lock = LockMode::kExclusive};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(options));
    CO_RETURN_IF_ERROR(file.status());
    absl::StatusOr<std::unique_ptr<qcow2::BitmapStore>> store =
        co_await qcow2::BitmapStore::Open(loop, **file);
    CO_RETURN_IF_ERROR(store.status());
    absl::StatusOr<qcow2::DirtyBitmap> bits = co_await (*store)->Load(std::move(name));
    CO_RETURN_IF_ERROR(co_await (*file)->Close());
    co_return bits;
  }
  // Ranges of dirty bytes.
  std::vector<std::pair<uint64_t, uint64_t>> Dirty(const std::string& name) {
    const absl::StatusOr<qcow2::DirtyBitmap> bits =
        loop_->RunTask(LoadTask(*loop_, opener_, directory_.File("disk.qcow2"), name));
    EXPECT_TRUE(bits.ok()) << bits.status();
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    if (!bits.ok()) return ranges;
    for (auto at = bits->NextDirty(0); at.has_value(); at = bits->NextDirty(ranges.back().second)) {
      ranges.emplace_back(*at, bits->NextClean(*at));
    }
    return ranges;
  }
  // The ranges that [begin, end) of each touch, in granules.
  std::vector<std::pair<uint64_t, uint64_t>> Granules(
      std::vector<std::pair<uint64_t, uint64_t>> ranges) {
    const uint64_t granule = GetParam().granule;
    for (auto& [begin, end] : ranges) {
      begin = begin / granule * granule;
      end = std::min(kDisk, (end + granule - 1) / granule * granule);
    }
    return ranges;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
};

TEST_P(QemuBitmapTest, WeReadWhatTheyTracked) {
  ASSERT_EQ(Shell(absl::StrCat("qemu-io -f qcow2 -c 'write 1M 64k' -c 'write -z 20M 2M' -c "
                               "'discard 40M 64k' -c 'write ",
                               kDisk - 512, " 512' disk.qcow2")),
            0)
      << Output();
  EXPECT_EQ(Dirty("b"), Granules({{1 << 20, (1 << 20) + (64 << 10)},
                                  {20 << 20, 22 << 20},
                                  {40 << 20, (40 << 20) + (64 << 10)},
                                  {kDisk - 512, kDisk}}));
}

TEST_P(QemuBitmapTest, TheyGoOnWithWhatWeTracked) {
  {
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = loop_->RunTask(OpenImage(
        *loop_, opener_, {.path = directory_.File("disk.qcow2"), .format = ImageFormat::kQcow2}));
    ASSERT_TRUE(disk.ok()) << disk.status();
    std::vector<uint8_t> bytes(64 << 10, 1);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    ASSERT_TRUE(loop_->RunTask((*disk)->Write(1 << 20, IoVecs(&part, 1), WriteFlags{})).ok());
    ASSERT_TRUE(loop_->RunTask((*disk)->WriteZeroes(20 << 20, 2 << 20, ZeroFlags{})).ok());
    const iovec tail = {bytes.data(), 512};
    ASSERT_TRUE(loop_->RunTask((*disk)->Write(kDisk - 512, IoVecs(&tail, 1), WriteFlags{})).ok());
    const absl::Status closed = loop_->RunTask((*disk)->Close());
    ASSERT_TRUE(closed.ok()) << closed;
  }
  ASSERT_EQ(Shell("qemu-img check -f qcow2 disk.qcow2"), 0) << Output();
  // A merge reads every bit.
  ASSERT_EQ(Shell(absl::StrCat("qemu-img bitmap --add -g ", GetParam().granularity,
                               " --merge b disk.qcow2 copy && qemu-io -f qcow2 -c 'write 30M 64k' "
                               "disk.qcow2 && qemu-img check -f qcow2 disk.qcow2")),
            0)
      << Output();
  const auto want = Granules({{1 << 20, (1 << 20) + (64 << 10)},
                              {20 << 20, 22 << 20},
                              {30 << 20, (30 << 20) + (64 << 10)},
                              {kDisk - 512, kDisk}});
  EXPECT_EQ(Dirty("copy"), want);
  EXPECT_EQ(Dirty("b"), want);
}

INSTANTIATE_TEST_SUITE_P(Shapes, QemuBitmapTest,
                         testing::Values(Shape{"Default", "", "64k", 64 << 10},
                                         Shape{"Fine", "-o cluster_size=512", "512", 512},
                                         Shape{"Coarse", "-o cluster_size=2M", "1M", 1 << 20},
                                         Shape{"ExtendedL2", "-o extended_l2=on", "4k", 4096}),
                         [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
