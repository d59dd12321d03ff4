#include "vmm/x86/kernel_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/memory/guest_memory.h"
#include "base/unique_fd.h"
#include "vmm/x86/test_support.h"

namespace vireo::x86 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

TEST(KernelKindTest, GoodOnesAreTold) {
  EXPECT_EQ(*DetectKernelKind(MakeBzImage(), "k"), KernelKind::kBzImage);
  EXPECT_EQ(*DetectKernelKind(MakePvhElf(), "k"), KernelKind::kElf64);
}

struct NotAKernel {
  const char* name;
  std::string contents;
  const char* hint;
};
class NotAKernelTest : public testing::TestWithParam<NotAKernel> {};

TEST_P(NotAKernelTest, IsRefusedWithAHint) {
  const std::string& contents = GetParam().contents;
  const Bytes bytes(contents.begin(), contents.end());
  const absl::Status status = DetectKernelKind(bytes, "the-file").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              StartsWith("the-file: not a bzImage or PVH ELF kernel: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().hint));
}

INSTANTIATE_TEST_SUITE_P(Files, NotAKernelTest,
                         testing::Values(NotAKernel{"Empty", "", "empty"},
                                         NotAKernel{"Text", "hello, world\n", "neither"},
                                         NotAKernel{"Gzip", "\x1f\x8b\x08", "gzip"},
                                         NotAKernel{"Cpio", "070701000", "cpio"},
                                         NotAKernel{"Qcow2", "QFI\xfb", "QCOW2"},
                                         NotAKernel{"Elf32",
                                                    "\x7f"
                                                    "ELF\x01",
                                                    "32 bits"},
                                         NotAKernel{"Efi", "MZ\x90", "EFI"}),
                         [](const auto& info) { return std::string(info.param.name); });

class GuestReadTest : public testing::Test {
 protected:
  // Two regions that touch, so that one read is scattered.
  std::unique_ptr<GuestMemory> memory_ = *GuestMemory::Create(
      {{GuestAddress(0), 0x1000}, {GuestAddress(0x1000), 0x1000}}, GuestMemory::Backing::kPrivate);
  Bytes contents_ = MakeBzImage();
  TestFile file_{"image", contents_};
};

TEST_F(GuestReadTest, BytesArriveAcrossRegions) {
  ASSERT_TRUE(
      ReadInputFileToGuest(file_.input(), 0x1f0, 0x400, GuestAddress(0xe00), *memory_).ok());
  const Bytes wanted(contents_.begin() + 0x1f0, contents_.begin() + 0x5f0);
  EXPECT_EQ(ReadGuest(*memory_, 0xe00, 0x400), wanted);
  EXPECT_THAT(ReadGuest(*memory_, 0xdff, 1), ElementsAre(0));
}

TEST_F(GuestReadTest, OutsideOfMemoryIsOutOfRange) {
  EXPECT_EQ(ReadInputFileToGuest(file_.input(), 0, 0x400, GuestAddress(0x1e00), *memory_).code(),
            absl::StatusCode::kOutOfRange);
}

TEST_F(GuestReadTest, AShortFileIsSaid) {
  const absl::Status status =
      ReadInputFileToGuest(file_.input(), contents_.size() - 8, 16, GuestAddress(0), *memory_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), StartsWith("image: the file ends"));
}

TEST(InputFileTest, OnlyRegularFilesHaveASize) {
  const UniqueFd directory(::open("/", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(InputFileSize({directory, "/"}).status().code(), absl::StatusCode::kInvalidArgument);
  const TestFile file("f", Bytes(123));
  EXPECT_EQ(*InputFileSize(file.input()), 123u);
}

TEST(InputFileTest, ReadsStopAtTheEnd) {
  const TestFile file("f", Bytes{1, 2, 3});
  EXPECT_THAT(*ReadInputFile(file.input(), 1, 100), ElementsAre(2, 3));
}

}  // namespace
}  // namespace vireo::x86
