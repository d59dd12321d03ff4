#include "storage/copy_on_read.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>

#include "storage/host_file.h"
#include "storage/open_image.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

class CopyOnReadTest : public testing::Test {
 protected:
  CopyOnReadTest() {
    base_ = directory_.path() + "/base.raw";
    clone_ = directory_.path() + "/clone.qcow2";
    std::ofstream(base_) << std::string(1 << 20, 'b');
    auto file = loop_->RunTask(HostFile::Open(*loop_, opener_, {.path = clone_, .create = true}));
    const qcow2::CreateOptions options = {
        .size_bytes = 1 << 20, .backing_file = "base.raw", .backing_format = "raw"};
    EXPECT_TRUE(loop_->RunTask(qcow2::CreateImage(**file, options)).ok());
    EXPECT_TRUE(loop_->RunTask((*file)->Close()).ok());
    auto disk =
        loop_->RunTask(OpenImage(*loop_, opener_, {.path = clone_, .format = ImageFormat::kQcow2}));
    EXPECT_TRUE(disk.ok()) << disk.status();
    disk_ = std::make_unique<CopyOnRead>(*std::move(disk));
  }
  std::string Read(uint64_t offset, size_t length) {
    std::string text(length, '?');
    const iovec part = {text.data(), text.size()};
    EXPECT_TRUE(loop_->RunTask(disk_->Read(offset, IoVecs(&part, 1))).ok());
    return text;
  }
  uint32_t DepthAt(uint64_t offset) {
    const auto status = loop_->RunTask(disk_->Status(offset, 512));
    return status.ok() ? status->depth : 99;
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
  std::string base_;
  std::string clone_;
  std::unique_ptr<CopyOnRead> disk_;
};

TEST_F(CopyOnReadTest, KeepsWholeClustersOfWhatWasRead) {
  EXPECT_EQ(DepthAt(65536), 1u);
  EXPECT_EQ(Read(66048, 512), std::string(512, 'b'));
  EXPECT_EQ(DepthAt(65536), 0u);
  EXPECT_EQ(DepthAt(131072 - 512), 0u);
  EXPECT_EQ(DepthAt(131072), 1u);
  EXPECT_EQ(Read(65536, 65536), std::string(65536, 'b'));
  EXPECT_TRUE(loop_->RunTask(disk_->Close()).ok());
}

TEST_F(CopyOnReadTest, WhatWasWrittenStays) {
  std::string text(512, 'w');
  const iovec part = {text.data(), text.size()};
  ASSERT_TRUE(loop_->RunTask(disk_->Write(1024, IoVecs(&part, 1))).ok());
  EXPECT_EQ(Read(512, 1536), std::string(512, 'b') + text + std::string(512, 'b'));
  EXPECT_TRUE(loop_->RunTask(disk_->Close()).ok());
}

TEST_F(CopyOnReadTest, CompressedWritesReachTheImage) {
  std::string text(65536, 'c');
  const iovec part = {text.data(), text.size()};
  ASSERT_TRUE(loop_->RunTask(disk_->WriteCompressed(65536, IoVecs(&part, 1))).ok());
  const auto status = loop_->RunTask(disk_->Status(65536, 512));
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->depth, 0u);
  EXPECT_FALSE(status->host_offset.has_value());  // It stands in no place as it is.
  EXPECT_EQ(Read(65536, 65536), text);
  EXPECT_TRUE(loop_->RunTask(disk_->Close()).ok());
}

}  // namespace
}  // namespace vireo
