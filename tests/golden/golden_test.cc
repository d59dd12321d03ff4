// Images that QEMU made (make_images.sh) hold what was written to them.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/async/event_loop.h"
#include "base/check.h"
#include "base/opener.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/check.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

constexpr uint64_t kKiB = 1024;

struct Stretch {
  uint64_t offset;
  uint64_t length;
  uint8_t byte;
};

struct GoldenImage {
  const char* name;
  uint64_t size = 300 * kKiB;
  std::vector<Stretch> content;  // Later ones lie over earlier ones; the rest is zeros.
  uint64_t corruptions = 0;      // That a check finds before anybody writes.
};

std::ostream& operator<<(std::ostream& out, const GoldenImage& image) { return out << image.name; }

// All images unpacked into a folder of their own, so that they find their backing files.
class Unpacked {
 public:
  Unpacked() {
    for (const char* name :
         {"plain", "version2", "refcounts_of_1_bit", "refcounts_of_64_bits", "zlib", "zstd",
          "overlay_of_zlib", "longer_overlay", "snapshot", "dirty", "extended_l2", "data_file"}) {
      const std::string packed = std::string("tests/golden/") + name + ".qcow2.gz";
      gzFile in = gzopen(packed.c_str(), "rb");
      VIREO_CHECK(in != nullptr, packed);
      std::ofstream out(Path(name), std::ios::binary);
      std::vector<char> bytes(1 << 16);
      for (int got = gzread(in, bytes.data(), bytes.size()); got > 0;
           got = gzread(in, bytes.data(), bytes.size())) {
        out.write(bytes.data(), got);
      }
      gzclose(in);
      out.close();
      VIREO_CHECK(out.good());
    }
  }
  std::string Path(const std::string& name) const { return directory_.File(name + ".qcow2"); }

 private:
  TempDir directory_;
};

class GoldenTest : public testing::TestWithParam<GoldenImage> {
 protected:
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(const std::string& name, bool read_only) {
    return loop_->RunTask(OpenImage(
        *loop_, opener_,
        {.path = images_.Path(name), .format = ImageFormat::kQcow2, .read_only = read_only}));
  }
  static Task<absl::StatusOr<qcow2::CheckResult>> CheckTask(EventLoop& loop, Opener& opener,
                                                            std::string path) {
    HostFile::Options options = {.path = std::move(path), .read_only = true};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(options));
    CO_RETURN_IF_ERROR(file.status());
    const absl::StatusOr<qcow2::CheckResult> result =
        co_await qcow2::CheckImage(**file, qcow2::Repair::kNone);
    CO_RETURN_IF_ERROR(co_await (*file)->Close());
    co_return result;
  }
  qcow2::CheckResult Check(const std::string& name) {
    const auto result = loop_->RunTask(CheckTask(*loop_, opener_, images_.Path(name)));
    VIREO_CHECK(result.ok(), result.status().ToString());
    return *result;
  }
  void ExpectContent(BlockBackend& disk, const std::vector<uint8_t>& wanted) {
    std::vector<uint8_t> bytes(disk.geometry().size_bytes);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(disk.Read(0, IoVecs(&part, 1)));
    ASSERT_TRUE(read.ok()) << read;
    ASSERT_EQ(bytes.size(), wanted.size());
    const auto differ = std::mismatch(bytes.begin(), bytes.end(), wanted.begin());
    EXPECT_TRUE(differ.first == bytes.end()) << "at " << differ.first - bytes.begin();
  }
  static std::vector<uint8_t> ContentOf(const GoldenImage& image) {
    std::vector<uint8_t> bytes(image.size);
    for (const Stretch& stretch : image.content) {
      std::fill_n(bytes.begin() + stretch.offset, stretch.length, stretch.byte);
    }
    return bytes;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  Unpacked images_;
};

TEST_P(GoldenTest, ReadsWhatQemuWrote) {
  EXPECT_EQ(Check(GetParam().name).corruptions, GetParam().corruptions);
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(GetParam().name, true);
  ASSERT_TRUE(disk.ok()) << disk.status();
  ExpectContent(**disk, ContentOf(GetParam()));
  EXPECT_TRUE(loop_->RunTask((*disk)->Close()).ok());
}

TEST_P(GoldenTest, TakesWritesAndStaysSound) {
  std::vector<uint8_t> wanted = ContentOf(GetParam());
  {
    absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(GetParam().name, false);
    ASSERT_TRUE(disk.ok()) << disk.status();
    // Over data, zeros, compressed and shared clusters, each time a part of a cluster.
    for (uint64_t offset = 512; offset + 1024 < wanted.size(); offset += 9 * kKiB) {
      std::vector<uint8_t> bytes(1024, static_cast<uint8_t>(offset / kKiB));
      const iovec part = ToIoVec(std::span<uint8_t>(bytes));
      const absl::Status written =
          loop_->RunTask((*disk)->Write(offset, IoVecs(&part, 1), WriteFlags{}));
      ASSERT_TRUE(written.ok()) << written;
      std::copy(bytes.begin(), bytes.end(), wanted.begin() + offset);
    }
    ExpectContent(**disk, wanted);
    const absl::Status closed = loop_->RunTask((*disk)->Close());
    ASSERT_TRUE(closed.ok()) << closed;
  }
  EXPECT_TRUE(Check(GetParam().name).clean());
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(GetParam().name, true);
  ASSERT_TRUE(disk.ok()) << disk.status();
  ExpectContent(**disk, wanted);
  EXPECT_TRUE(loop_->RunTask((*disk)->Close()).ok());
}

const std::vector<Stretch> kPlain = {
    {0, 10 * kKiB, 1}, {100 * kKiB, 3 * kKiB, 2}, {299 * kKiB, kKiB, 3}};
const std::vector<Stretch> kSevens = {{50 * kKiB, 64 * kKiB, 7}};

std::vector<Stretch> Over(std::vector<Stretch> below, std::vector<Stretch> above) {
  below.insert(below.end(), above.begin(), above.end());
  return below;
}

INSTANTIATE_TEST_SUITE_P(
    Images, GoldenTest,
    testing::Values(
        GoldenImage{.name = "plain", .content = kPlain},
        GoldenImage{.name = "version2", .content = kSevens},
        GoldenImage{.name = "refcounts_of_1_bit", .content = kSevens},
        GoldenImage{.name = "refcounts_of_64_bits", .content = kSevens},
        GoldenImage{.name = "zlib", .content = kPlain},
        GoldenImage{.name = "zstd", .content = kPlain},
        GoldenImage{.name = "overlay_of_zlib",
                    .content = Over(kPlain, {{5 * kKiB, kKiB, 9}, {150 * kKiB, 40 * kKiB, 8}})},
        GoldenImage{.name = "longer_overlay",
                    .size = 400 * kKiB,
                    .content = Over(kPlain, {{298 * kKiB, kKiB, 6}})},
        GoldenImage{.name = "extended_l2", .size = 1024 * kKiB},
        GoldenImage{.name = "snapshot", .content = {{0, 64 * kKiB, 1}, {8 * kKiB, 8 * kKiB, 5}}},
        // The L2 table and sixteen clusters that the killed writer had not counted, and as many
        // flags that claim a count of one.
        GoldenImage{.name = "dirty", .content = kSevens, .corruptions = 34}),
    [](const testing::TestParamInfo<GoldenImage>& info) { return info.param.name; });

using GoldenRefusalTest = GoldenTest;

TEST_P(GoldenRefusalTest, IsRefusedUnlessItsDataFileIsStated) {
  const absl::StatusOr<std::unique_ptr<BlockBackend>> disk = Open(GetParam().name, true);
  EXPECT_TRUE(absl::IsInvalidArgument(disk.status())) << disk.status();
}

INSTANTIATE_TEST_SUITE_P(DataFiles, GoldenRefusalTest,
                         testing::Values(GoldenImage{.name = "data_file"}),
                         [](const testing::TestParamInfo<GoldenImage>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace vireo
