#include "storage/open_image.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "storage/host_file.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/image.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class OpenImageTest : public testing::Test {
 protected:
  static Task<absl::Status> MakeTask(EventLoop& loop, Opener& opener, std::string path,
                                     qcow2::CreateOptions options) {
    HostFile::Options file_options = {.path = std::move(path), .create = true};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(file_options));
    CO_RETURN_IF_ERROR(file.status());
    CO_RETURN_IF_ERROR(co_await qcow2::CreateImage(**file, std::move(options)));
    const absl::Status closed = co_await (*file)->Close();
    co_return closed;
  }
  void MakeQcow2(const std::string& name, std::optional<std::string> backing = std::nullopt,
                 const std::string& format = "qcow2", uint64_t size_bytes = 1 << 20) {
    qcow2::CreateOptions options = {.size_bytes = size_bytes, .backing_file = backing};
    if (backing.has_value()) options.backing_format = format;
    const absl::Status made =
        loop_->RunTask(MakeTask(*loop_, opener_, directory_.File(name), options));
    ASSERT_TRUE(made.ok()) << made;
  }
  void MakeRaw(const std::string& name, char byte) {
    std::ofstream(directory_.File(name)) << std::string(1 << 20, byte);
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(const std::string& name,
                                                     ImageOptions options = {}) {
    options.path = directory_.File(name);
    return loop_->RunTask(OpenImage(*loop_, opener_, options));
  }
  absl::StatusOr<std::unique_ptr<BlockBackend>> OpenQcow2(const std::string& name) {
    return Open(name, {.format = ImageFormat::kQcow2});
  }
  void Close(BlockBackend& disk) { EXPECT_TRUE(loop_->RunTask(disk.Close()).ok()); }
  uint8_t FirstByte(BlockBackend& disk, uint64_t offset = 0) {
    std::vector<uint8_t> bytes(512);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    EXPECT_TRUE(loop_->RunTask(disk.Read(offset, IoVecs(&part, 1))).ok());
    return bytes[0];
  }
  void WriteSector(const std::string& name, uint64_t offset, char byte) {
    const auto disk = OpenQcow2(name);
    ASSERT_TRUE(disk.ok()) << disk.status();
    std::vector<uint8_t> bytes(512, static_cast<uint8_t>(byte));
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    EXPECT_TRUE(loop_->RunTask((*disk)->Write(offset, IoVecs(&part, 1))).ok());
    Close(**disk);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
};

TEST_F(OpenImageTest, OpensAChainRelativeToTheOverlay) {
  std::filesystem::create_directory(directory_.File("bases"));
  MakeRaw("bases/base.raw", 'b');
  MakeQcow2("bases/middle.qcow2", "base.raw", "raw");
  MakeQcow2("top.qcow2", "bases/middle.qcow2");
  const auto disk = OpenQcow2("top.qcow2");
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(FirstByte(**disk), 'b');
  const auto status = loop_->RunTask((*disk)->Status(0, 512));
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->depth, 2u);
  Close(**disk);
}

TEST_F(OpenImageTest, EachLayerOfADeepChainIsSeen) {
  MakeRaw("0.raw", 'b');
  MakeQcow2("1.qcow2", "0.raw", "raw");
  MakeQcow2("2.qcow2", "1.qcow2");
  WriteSector("2.qcow2", 64 << 10, '2');
  MakeQcow2("3.qcow2", "2.qcow2", "qcow2", 256 << 10);  // Hides what lies behind its end.
  MakeQcow2("4.qcow2", "3.qcow2");
  WriteSector("4.qcow2", 128 << 10, '4');
  MakeQcow2("5.qcow2", "4.qcow2");
  MakeQcow2("6.qcow2", "5.qcow2");
  const auto disk = OpenQcow2("6.qcow2");
  ASSERT_TRUE(disk.ok()) << disk.status();
  for (int round = 0; round < 2; ++round) {  // Tables not in memory, and in memory.
    EXPECT_EQ(FirstByte(**disk, 0), 'b');
    EXPECT_EQ(FirstByte(**disk, 64 << 10), '2');
    EXPECT_EQ(FirstByte(**disk, (64 << 10) + 512), 'b');
    EXPECT_EQ(FirstByte(**disk, 128 << 10), '4');
    EXPECT_EQ(FirstByte(**disk, (256 << 10) - 512), 'b');
    EXPECT_EQ(FirstByte(**disk, 256 << 10), 0);
    EXPECT_EQ(FirstByte(**disk, 512 << 10), 0);
  }
  Close(**disk);
}

TEST_F(OpenImageTest, TheLayersOfAChainShareOneCache) {
  MakeQcow2("base.qcow2");
  WriteSector("base.qcow2", 0, 'b');
  MakeQcow2("top.qcow2", "base.qcow2");
  WriteSector("top.qcow2", 65536, 't');
  const auto disk = OpenQcow2("top.qcow2");
  ASSERT_TRUE(disk.ok()) << disk.status();
  const auto& top = dynamic_cast<const qcow2::Image&>(**disk);
  EXPECT_EQ(top.cache_budget().memory_bytes(), 0u);
  EXPECT_EQ(FirstByte(**disk, 65536), 't');
  EXPECT_EQ(top.cache_budget().memory_bytes(), top.cache_memory_bytes());
  EXPECT_EQ(FirstByte(**disk), 'b');
  EXPECT_GT(top.cache_budget().memory_bytes(), top.cache_memory_bytes());
  Close(**disk);
}

TEST_F(OpenImageTest, TheFormatIsStatedNeverGuessed) {
  MakeQcow2("image.qcow2");
  const auto raw = Open("image.qcow2", {.format = ImageFormat::kRaw});
  ASSERT_TRUE(raw.ok());
  EXPECT_EQ(FirstByte(**raw), 'Q');
  Close(**raw);
  MakeRaw("image.raw", 'r');
  const auto qcow2 = OpenQcow2("image.raw");
  EXPECT_TRUE(absl::IsInvalidArgument(qcow2.status()));
  EXPECT_THAT(qcow2.status().message(), AllOf(HasSubstr("image.raw"), HasSubstr("not a QCOW2")));
}

TEST_F(OpenImageTest, AMissingBackingFileIsNamedWithTheImageThatWantsIt) {
  MakeQcow2("top.qcow2", "gone.qcow2");
  const auto disk = OpenQcow2("top.qcow2");
  EXPECT_TRUE(absl::IsNotFound(disk.status())) << disk.status();
  EXPECT_THAT(disk.status().message(),
              AllOf(HasSubstr("top.qcow2: its backing file"), HasSubstr("gone.qcow2")));
}

TEST_F(OpenImageTest, AChainThatReturnsToItselfIsRefused) {
  MakeQcow2("a.qcow2", "b.qcow2");
  MakeQcow2("b.qcow2", "c.qcow2");
  MakeQcow2("c.qcow2", "b.qcow2");
  const auto disk = OpenQcow2("a.qcow2");
  EXPECT_TRUE(absl::IsDataLoss(disk.status())) << disk.status();
  EXPECT_THAT(disk.status().message(), HasSubstr("returns to"));
}

TEST_F(OpenImageTest, AnImageThatNamesItselfIsRefused) {
  MakeQcow2("self.qcow2", "link.qcow2");
  std::filesystem::create_symlink(directory_.File("self.qcow2"), directory_.File("link.qcow2"));
  const auto disk = OpenQcow2("self.qcow2");
  EXPECT_TRUE(absl::IsAborted(disk.status()) || absl::IsDataLoss(disk.status())) << disk.status();
  const auto unlocked = Open("self.qcow2", {.format = ImageFormat::kQcow2, .lock = false});
  EXPECT_TRUE(absl::IsDataLoss(unlocked.status())) << unlocked.status();
}

TEST_F(OpenImageTest, AChainHasAnEnd) {
  MakeQcow2("0.qcow2");
  for (int i = 1; i <= 200; ++i) {
    MakeQcow2(absl::StrCat(i, ".qcow2"), absl::StrCat(i - 1, ".qcow2"));
  }
  const auto longest = OpenQcow2("199.qcow2");
  ASSERT_TRUE(longest.ok()) << longest.status();
  EXPECT_EQ(FirstByte(**longest), 0);
  Close(**longest);
  EXPECT_TRUE(absl::IsInvalidArgument(OpenQcow2("200.qcow2").status()));
}

TEST_F(OpenImageTest, NamesThatAreNoLocalPathsAreRefused) {
  for (const char* name : {"json:{\"driver\":\"file\"}", "nbd://host/disk", "nbd:host:1", "fd:3",
                           "ssh://x", "https://x/y", "file:base.raw"}) {
    MakeQcow2("top.qcow2", name, "raw");
    const auto disk = OpenQcow2("top.qcow2");
    EXPECT_TRUE(absl::IsInvalidArgument(disk.status())) << name << " " << disk.status();
    EXPECT_THAT(disk.status().message(), HasSubstr("no local path"));
  }
  EXPECT_EQ(*BackingFilePath("/a/b/top", "./x:y"), "/a/b/./x:y");
  EXPECT_EQ(*BackingFilePath("/a/b/top", "/c/d"), "/c/d");
  EXPECT_EQ(*BackingFilePath("top", "base"), "base");
  EXPECT_FALSE(BackingFilePath("fd:3", "base").ok());
  EXPECT_FALSE(BackingFilePath("top", "").ok());
}

TEST_F(OpenImageTest, AnUnstatedBackingFormatNeedsTheCallersWord) {
  MakeRaw("base.raw", 'b');
  MakeQcow2("top.qcow2", "base.raw", "raw");
  {
    // Turns the extension that says "raw" into one that nobody knows.
    std::fstream image(directory_.File("top.qcow2"), std::ios::in | std::ios::out);
    image.seekp(112);
    image.write("\x12\x34\x56\x78", 4);
  }
  const auto refused = OpenQcow2("top.qcow2");
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
  EXPECT_THAT(refused.status().message(), HasSubstr("not guessed"));
  const auto disk =
      Open("top.qcow2", {.format = ImageFormat::kQcow2, .backing_format = ImageFormat::kRaw});
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(FirstByte(**disk), 'b');
  Close(**disk);
}

TEST_F(OpenImageTest, AForeignBackingFormatIsRefusedByName) {
  MakeRaw("base.vmdk", 'b');
  MakeQcow2("top.qcow2", "base.vmdk", "vmdk");
  const auto disk = OpenQcow2("top.qcow2");
  EXPECT_TRUE(absl::IsUnimplemented(disk.status()));
  EXPECT_THAT(disk.status().message(), HasSubstr("vmdk"));
}

TEST_F(OpenImageTest, ATruncatedImageIsRefused) {
  MakeQcow2("image.qcow2");
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{50}, uint64_t{100}, uint64_t{65536}, uint64_t{3 * 65536}}) {
    std::filesystem::resize_file(directory_.File("image.qcow2"), size);
    EXPECT_FALSE(OpenQcow2("image.qcow2").ok()) << size;
  }
}

TEST_F(OpenImageTest, OneWriterOrManyReaders) {
  MakeQcow2("base.qcow2");
  MakeQcow2("a.qcow2", "base.qcow2");
  MakeQcow2("b.qcow2", "base.qcow2");
  const auto a = OpenQcow2("a.qcow2");
  ASSERT_TRUE(a.ok()) << a.status();
  const auto again = OpenQcow2("a.qcow2");
  EXPECT_TRUE(absl::IsAborted(again.status()));
  EXPECT_THAT(again.status().message(), HasSubstr("a.qcow2: in use by another program"));
  const auto b = OpenQcow2("b.qcow2");  // Shares the base.
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_TRUE(absl::IsAborted(OpenQcow2("base.qcow2").status()));
  Close(**a);
  Close(**b);
  const auto base = OpenQcow2("base.qcow2");
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_TRUE(absl::IsAborted(OpenQcow2("a.qcow2").status()));
  Close(**base);
}

TEST_F(OpenImageTest, IdentifiesFilesByWhatTheyAre) {
  MakeRaw("disk.raw", 'd');
  std::filesystem::create_hard_link(directory_.File("disk.raw"), directory_.File("same.raw"));
  MakeRaw("other.raw", 'o');
  const auto identify = [&](const std::string& name) {
    return loop_->RunTask(IdentifyFile(*loop_, opener_, directory_.File(name)));
  };
  EXPECT_EQ(*identify("disk.raw"), *identify("same.raw"));
  EXPECT_NE(*identify("disk.raw"), *identify("other.raw"));
  EXPECT_TRUE(absl::IsNotFound(identify("none").status()));
}

TEST_F(OpenImageTest, OpensDescriptorsHandedIn) {
  MakeRaw("disk.raw", 'd');
  const UniqueFd fd(::open(directory_.File("disk.raw").c_str(), O_RDWR | O_CLOEXEC));
  ImageOptions options = {.path = absl::StrCat("fd:", fd.get())};
  const auto disk = loop_->RunTask(OpenImage(*loop_, opener_, options));
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(FirstByte(**disk), 'd');
  Close(**disk);
}

// --- What others have been attacked with ---

// CVE-2008-2004, CVE-2008-1945, CVE-2013-1922, CVE-2026-24708.
TEST_F(OpenImageTest, ARawDiskStaysRawWhateverItsGuestWrites) {
  MakeQcow2("evil.qcow2", "/etc/passwd", "raw");
  std::ifstream evil(directory_.File("evil.qcow2"), std::ios::binary);
  std::vector<uint8_t> header(64 << 10);
  evil.read(reinterpret_cast<char*>(header.data()), header.size());
  MakeRaw("disk.raw", 'r');
  auto disk = Open("disk.raw", {.format = ImageFormat::kRaw});
  ASSERT_TRUE(disk.ok()) << disk.status();
  const iovec part = ToIoVec(std::span<uint8_t>(header));
  ASSERT_TRUE(loop_->RunTask((*disk)->Write(0, IoVecs(&part, 1))).ok());
  Close(**disk);
  disk = Open("disk.raw", {.format = ImageFormat::kRaw});
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ((*disk)->geometry().size_bytes, 1u << 20);
  EXPECT_EQ(FirstByte(**disk), 'Q');
  Close(**disk);
}

// CVE-2015-5163, CVE-2022-47951, CVE-2024-45219, CVE-2024-50386.
TEST_F(OpenImageTest, ABackingFileOutsideTheAllowedDirectoriesIsNotOpened) {
  std::filesystem::create_directory(directory_.File("allowed"));
  MakeRaw("secret.raw", 's');
  std::filesystem::create_symlink(directory_.File("secret.raw"),
                                  directory_.File("allowed/link.raw"));
  absl::StatusOr<DirectOpener> allowed = DirectOpener::Create({directory_.File("allowed")});
  ASSERT_TRUE(allowed.ok()) << allowed.status();
  int number = 0;
  for (const std::string& name :
       {std::string("/etc/passwd"), directory_.File("secret.raw"), std::string("../secret.raw"),
        std::string("./../allowed/../secret.raw"), std::string("link.raw")}) {
    const std::string image = "allowed/" + std::to_string(++number) + ".qcow2";
    MakeQcow2(image, name, "raw");
    const auto disk = loop_->RunTask(OpenImage(
        *loop_, *allowed, {.path = directory_.File(image), .format = ImageFormat::kQcow2}));
    EXPECT_TRUE(absl::IsPermissionDenied(disk.status())) << name << ": " << disk.status();
  }
}

// CVE-2024-32498, CVE-2024-40767, CVE-2024-4467.
TEST_F(OpenImageTest, ADataFileThatOnlyTheHeaderNamesIsNotOpened) {
  std::filesystem::create_directory(directory_.File("allowed"));
  absl::StatusOr<DirectOpener> allowed = DirectOpener::Create({directory_.File("allowed")});
  ASSERT_TRUE(allowed.ok()) << allowed.status();
  for (const std::string& name :
       {std::string("/etc/passwd"), std::string("../secret.raw"),
        std::string("json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}"),
        std::string("nbd://127.0.0.1/x")}) {
    MakeRaw("secret.raw", 's');
    MakeQcow2("allowed/image.qcow2");
    std::fstream image(directory_.File("allowed/image.qcow2"),
                       std::ios::binary | std::ios::in | std::ios::out);
    image.seekp(79);
    image.put(4);  // External data file.
    image.seekp(112);
    const char length = static_cast<char>(name.size());
    const std::string extension = std::string("DATA\0\0\0", 7) + length + name;
    image << extension << std::string(1024, '\0');
    image.close();
    const auto disk = loop_->RunTask(
        OpenImage(*loop_, *allowed,
                  {.path = directory_.File("allowed/image.qcow2"), .format = ImageFormat::kQcow2}));
    EXPECT_FALSE(disk.ok()) << name;
    std::ifstream secret(directory_.File("secret.raw"), std::ios::binary);
    EXPECT_EQ(secret.get(), 's');
  }
}

}  // namespace
}  // namespace vireo
