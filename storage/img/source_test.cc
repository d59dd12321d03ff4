#include "storage/img/source.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "storage/host_file.h"
#include "storage/image_lock.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo::img {
namespace {

using testing::HasSubstr;

class SourceTest : public testing::Test {
 protected:
  SourceTest() : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(directory_.path());
    std::ofstream("disk.raw") << std::string(4096, 'r');
  }
  ~SourceTest() override { std::filesystem::current_path(before_); }

  absl::StatusOr<Source> Open(SourceOptions options) {
    return loop_->RunTask(OpenSource(*loop_, opener_, std::move(options)));
  }
  std::string OpenError(SourceOptions options) {
    absl::StatusOr<Source> source = Open(std::move(options));
    return source.ok() ? "it opened" : std::string(source.status().message());
  }
  void Close(Source& source) { EXPECT_TRUE(loop_->RunTask(source.disk->Close()).ok()); }
  void MakeQcow2(const std::string& name, qcow2::CreateOptions options) {
    auto file = loop_->RunTask(HostFile::Open(*loop_, opener_, {.path = name, .create = true}));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(loop_->RunTask(qcow2::CreateImage(**file, options)).ok());
    ASSERT_TRUE(loop_->RunTask((*file)->Close()).ok());
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const std::filesystem::path before_;
};

TEST_F(SourceTest, FindsTheFormatOfTheNamedFile) {
  MakeQcow2("disk.qcow2", {.size_bytes = 1 << 20});
  absl::StatusOr<Source> qcow2 = Open({.name = "disk.qcow2"});
  ASSERT_TRUE(qcow2.ok()) << qcow2.status();
  EXPECT_EQ(qcow2->format, ImageFormat::kQcow2);
  EXPECT_NE(qcow2->image, nullptr);
  EXPECT_EQ(qcow2->disk->geometry().size_bytes, 1u << 20);
  Close(*qcow2);
  absl::StatusOr<Source> raw = Open({.name = "disk.qcow2", .format = "raw"});
  ASSERT_TRUE(raw.ok()) << raw.status();
  EXPECT_EQ(raw->format, ImageFormat::kRaw);
  EXPECT_EQ(raw->image, nullptr);
  Close(*raw);
}

TEST_F(SourceTest, LeavesTheBackingFileAloneWhenAsked) {
  MakeQcow2("clone.qcow2",
            {.size_bytes = 4096, .backing_file = "gone.raw", .backing_format = "raw"});
  EXPECT_THAT(OpenError({.name = "clone.qcow2"}), HasSubstr("gone.raw"));
  absl::StatusOr<Source> alone = Open({.name = "clone.qcow2", .no_backing = true});
  ASSERT_TRUE(alone.ok()) << alone.status();
  Close(*alone);
}

TEST_F(SourceTest, SaysWhatIsWrong) {
  EXPECT_EQ(OpenError({.name = "nope"}),
            "Could not open 'nope': Could not open 'nope': No such file or directory");
  EXPECT_EQ(OpenError({.name = "disk.raw", .format = "vmdk"}),
            "Could not open 'disk.raw': Unknown driver 'vmdk'");
  std::ofstream("disk.vmdk") << "KDMV" << std::string(1020, '\0');
  EXPECT_EQ(OpenError({.name = "disk.vmdk"}), "Could not open 'disk.vmdk': Unknown driver 'vmdk'");
}

TEST_F(SourceTest, RespectsLocksUnlessToldToShare) {
  const UniqueFd writer(::open("disk.raw", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(LockImage(writer.get(), "disk.raw", LockMode::kExclusive).ok());
  EXPECT_THAT(OpenError({.name = "disk.raw"}), HasSubstr("Could not open 'disk.raw': "));
  absl::StatusOr<Source> shared = Open({.name = "disk.raw", .share = true});
  ASSERT_TRUE(shared.ok()) << shared.status();
  Close(*shared);
}

TEST_F(SourceTest, KnowsTheCacheModes) {
  EXPECT_TRUE(ParseCacheMode("none")->direct);
  EXPECT_TRUE(ParseCacheMode("unsafe")->no_flush);
  EXPECT_TRUE(ParseCacheMode("directsync")->writethrough);
  EXPECT_FALSE(ParseCacheMode("fast").has_value());
  absl::StatusOr<Source> source =
      Open({.name = "disk.raw", .read_only = false, .cache = *ParseCacheMode("writethrough")});
  ASSERT_TRUE(source.ok()) << source.status();
  Close(*source);
}

}  // namespace
}  // namespace vireo::img
