#include "storage/img/image_copy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "storage/file_decorator.h"
#include "storage/host_file.h"
#include "storage/raw_file.h"
#include "tests/support/temp_dir.h"

namespace vireo::img {
namespace {

// A file of the host that only the host may copy: nothing is read or written through it.
class Untouched final : public FileDecorator {
 public:
  using FileDecorator::FileDecorator;
  int descriptor() const override { return file().descriptor(); }
  Task<absl::Status> Read(uint64_t, IoVecs) override { return Refuse(); }
  Task<absl::Status> Write(uint64_t, IoVecs) override { return Refuse(); }

 private:
  Task<absl::Status> Refuse() { co_return absl::InternalError("touched"); }
};

// One that hides that it is the host's.
class Hidden final : public FileDecorator {
 public:
  using FileDecorator::FileDecorator;
};

class ImageCopyTest : public testing::Test {
 protected:
  std::unique_ptr<File> OpenFile(const std::string& name) {
    auto file = loop_->RunTask(
        HostFile::Open(*loop_, opener_, {.path = directory_.File(name), .create = true}));
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
  template <typename Decorator>
  std::unique_ptr<BlockBackend> Disk(const std::string& name) {
    return std::make_unique<RawFile>(std::make_unique<Decorator>(OpenFile(name)),
                                     RawFile::Options{});
  }
  absl::Status Copy(BlockBackend& source, BlockBackend& target) {
    Progress progress({.out = stdout, .err = stderr});
    ImageCopy copy(*loop_, {.sources = {&source}, .target = &target, .workers = 3, .offload = true},
                   progress);
    const absl::Status copied = loop_->RunTask(copy.Run());
    EXPECT_TRUE(loop_->RunTask(source.Close()).ok());
    EXPECT_TRUE(loop_->RunTask(target.Close()).ok());
    return copied;
  }
  std::string Content(const std::string& name) {
    std::ifstream in(directory_.File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void SetUp() override {
    std::ofstream(directory_.File("from")) << source_;
    std::ofstream(directory_.File("to")) << std::string(source_.size(), 't');
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  const std::string source_ = std::string(5 << 20, 'a') + std::string(300 << 10, 'b');
};

TEST_F(ImageCopyTest, TheHostCopiesBetweenItsFiles) {
  const auto source = Disk<Untouched>("from");
  const auto target = Disk<Untouched>("to");
  const absl::Status copied = Copy(*source, *target);
  EXPECT_TRUE(copied.ok()) << copied;
  EXPECT_TRUE(Content("to") == source_);
}

TEST_F(ImageCopyTest, WhatTheHostCannotCopyIsReadAndWritten) {
  const auto source = Disk<Hidden>("from");
  const auto target = Disk<Hidden>("to");
  const absl::Status copied = Copy(*source, *target);
  EXPECT_TRUE(copied.ok()) << copied;
  EXPECT_TRUE(Content("to") == source_);
}

}  // namespace
}  // namespace vireo::img
