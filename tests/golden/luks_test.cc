// Encrypted images: what QEMU wrote is read, and what Vireo wrote QEMU reads and goes on with.

#include "storage/crypto/luks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
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
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

using testing::HasSubstr;

// Where two disks differ; their common length when one is shorter.
std::optional<size_t> FirstDifference(const std::vector<uint8_t>& a,
                                      const std::vector<uint8_t>& b) {
  const auto [at, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (at == a.end() && other == b.end()) return std::nullopt;
  return at - a.begin();
}

class ImageFolder {
 protected:
  absl::StatusOr<std::unique_ptr<BlockBackend>> Open(const std::string& name,
                                                     const std::string& passphrase) {
    return loop_->RunTask(OpenImage(*loop_, opener_,
                                    {.path = directory_.File(name),
                                     .format = ImageFormat::kQcow2,
                                     .passphrase = std::make_shared<const Secret>(passphrase)}));
  }
  std::vector<uint8_t> Content(BlockBackend& disk) {
    std::vector<uint8_t> bytes(disk.geometry().size_bytes);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(disk.Read(0, IoVecs(&part, 1)));
    EXPECT_TRUE(read.ok()) << read;
    return bytes;
  }
  void Write(BlockBackend& disk, uint64_t offset, std::span<const uint8_t> bytes) {
    const iovec part = ToIoVec(bytes);
    const absl::Status written = loop_->RunTask(disk.Write(offset, IoVecs(&part, 1)));
    ASSERT_TRUE(written.ok()) << written;
  }
  static Task<absl::StatusOr<qcow2::CheckResult>> CheckTask(EventLoop& loop, Opener& opener,
                                                            std::string path) {
    HostFile::Options options = {.path = std::move(path), .read_only = true};
    absl::StatusOr<std::unique_ptr<File>> file =
        co_await HostFile::Open(loop, opener, std::move(options));
    CO_RETURN_IF_ERROR(file.status());
    absl::StatusOr<qcow2::CheckResult> result =
        co_await qcow2::CheckImage(**file, qcow2::Repair::kNone);
    CO_RETURN_IF_ERROR(co_await (*file)->Close());
    co_return result;
  }
  void ExpectSound(const std::string& name) {
    const auto checked = loop_->RunTask(CheckTask(*loop_, opener_, directory_.File(name)));
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->corruptions, 0u);
    EXPECT_EQ(checked->leaks, 0u);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_;
};

class GoldenLuksTest : public ImageFolder, public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string packed = absl::StrCat("tests/golden/luks_", GetParam(), ".qcow2.gz");
    gzFile in = gzopen(packed.c_str(), "rb");
    VIREO_CHECK(in != nullptr, packed);
    std::ofstream out(directory_.File("disk.qcow2"), std::ios::binary);
    std::vector<char> bytes(1 << 16);
    for (int got = gzread(in, bytes.data(), bytes.size()); got > 0;
         got = gzread(in, bytes.data(), bytes.size())) {
      out.write(bytes.data(), got);
    }
    gzclose(in);
  }
};

TEST_P(GoldenLuksTest, HoldsWhatWasWritten) {
  std::vector<uint8_t> want(300 << 10);
  std::fill_n(want.begin(), 10 << 10, 1);
  std::fill_n(want.begin() + (100 << 10), 3 << 10, 2);
  std::fill_n(want.begin() + (299 << 10), 1 << 10, 3);
  std::fill_n(want.begin() + (5 << 10), 512, 4);
  ExpectSound("disk.qcow2");
  {
    const auto disk = Open("disk.qcow2", "key");
    ASSERT_TRUE(disk.ok()) << disk.status();
    EXPECT_EQ(FirstDifference(Content(**disk), want), std::nullopt);
    // Into clusters that are there, into new ones, and over both.
    for (const uint64_t offset : {uint64_t{6} << 10, uint64_t{200} << 10, uint64_t{98} << 10}) {
      const std::vector<uint8_t> bytes(7 << 9, 9);
      Write(**disk, offset, bytes);
      std::copy(bytes.begin(), bytes.end(), want.begin() + offset);
    }
    ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  }
  ExpectSound("disk.qcow2");
  const auto disk = Open("disk.qcow2", "key");
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(FirstDifference(Content(**disk), want), std::nullopt);
  ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
}

TEST_P(GoldenLuksTest, AWrongPassphraseIsOneClearLine) {
  const auto disk = Open("disk.qcow2", "kex");
  EXPECT_TRUE(absl::IsPermissionDenied(disk.status()));
  EXPECT_EQ(
      std::string(disk.status().message()),
      absl::StrCat(directory_.File("disk.qcow2"), ": Invalid password, cannot unlock any keyslot"));
}

TEST_P(GoldenLuksTest, NoPassphraseIsOneClearLine) {
  const auto disk = loop_->RunTask(OpenImage(
      *loop_, opener_, {.path = directory_.File("disk.qcow2"), .format = ImageFormat::kQcow2}));
  EXPECT_TRUE(absl::IsUnauthenticated(disk.status()));
  EXPECT_THAT(std::string(disk.status().message()),
              HasSubstr("the image is encrypted, and there is no passphrase"));
}

INSTANTIATE_TEST_SUITE_P(Images, GoldenLuksTest,
                         testing::Values("aes256_xts", "aes128_cbc_essiv", "serpent256_ctr",
                                         "twofish128_xts", "cast5_cbc", "aes256_xts_essiv"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

struct OurImage {
  const char* name;
  crypto::CipherSpec cipher;
  crypto::HashAlgorithm hash = crypto::HashAlgorithm::kSha256;
  qcow2::CreateOptions qcow2;
};

class OurLuksTest : public ImageFolder, public testing::TestWithParam<OurImage> {
 protected:
  static constexpr uint64_t kBytes = (3 << 20) + 5 * 512;

  void Create(const std::string& name, bool backing) {
    const std::string passphrase = "key";
    const auto area = crypto::MakeLuksArea(
        {.cipher = GetParam().cipher, .hash = GetParam().hash, .iteration_ms = 1},
        {reinterpret_cast<const uint8_t*>(passphrase.data()), passphrase.size()});
    ASSERT_TRUE(area.ok()) << area.status();
    qcow2::CreateOptions options = GetParam().qcow2;
    options.size_bytes = kBytes;
    options.luks_area = *area;
    if (backing) {
      options.backing_file = "base.raw";
      options.backing_format = "raw";
    }
    const absl::Status created =
        loop_->RunTask(CreateTask(*loop_, opener_, directory_.File(name), std::move(options)));
    ASSERT_TRUE(created.ok()) << created;
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
  std::vector<uint8_t> RandomBytes(uint64_t count) {
    std::vector<uint8_t> bytes(count);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_());
    return bytes;
  }
  void MakeBase() {
    const std::vector<uint8_t> bytes = RandomBytes(kBytes);
    std::ofstream out(directory_.File("base.raw"), std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    out.close();
    model_ = bytes;
  }
  void WriteAtRandom(const std::string& name) {
    const auto disk = Open(name, "key");
    ASSERT_TRUE(disk.ok()) << disk.status();
    for (int i = 0; i < 40; ++i) {
      const uint64_t length = 512 * (1 + random_() % (i % 5 == 0 ? 1500 : 40));
      const uint64_t offset = random_() % ((kBytes - length) / 512 + 1) * 512;
      if (i % 6 == 5) {
        ASSERT_TRUE(
            loop_->RunTask((*disk)->WriteZeroes(offset, length, {.may_unmap = i % 4 == 1})).ok());
        std::fill_n(model_.begin() + offset, length, 0);
        continue;
      }
      const std::vector<uint8_t> bytes = RandomBytes(length);
      Write(**disk, offset, bytes);
      std::copy(bytes.begin(), bytes.end(), model_.begin() + offset);
    }
    EXPECT_EQ(FirstDifference(Content(**disk), model_), std::nullopt);
    ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  }
  // Runs a shell command in the test's folder; its exit status.
  int Shell(const std::string& command) {
    const std::string line =
        absl::StrCat("cd ", directory_.path(), " && (", command, ") > output.txt 2>&1");
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  }
  std::string Output() { return Text("output.txt"); }
  std::string Text(const std::string& name) {
    std::ifstream in(directory_.File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::mt19937 random_{7};
  std::vector<uint8_t> model_ = std::vector<uint8_t>(kBytes);
};

constexpr char kQemuOptions[] =
    " --object secret,id=key,data=key --image-opts "
    "driver=qcow2,encrypt.key-secret=key,file.filename=disk.qcow2";

TEST_P(OurLuksTest, ReadsBackWhatWasWrittenAndNothingElseCan) {
  Create("disk.qcow2", false);
  WriteAtRandom("disk.qcow2");
  {
    const auto disk = Open("disk.qcow2", "key");
    ASSERT_TRUE(disk.ok()) << disk.status();
    Write(**disk, 1024, std::vector<uint8_t>(4096, 'v'));
    ASSERT_TRUE(loop_->RunTask((*disk)->Close()).ok());
  }
  EXPECT_EQ(Text("disk.qcow2").find(std::string(64, 'v')), std::string::npos);
  ExpectSound("disk.qcow2");
  EXPECT_TRUE(absl::IsPermissionDenied(Open("disk.qcow2", "").status()));
}

TEST_P(OurLuksTest, QemuReadsItAndGoesOnWithIt) {
  if (::access("/usr/bin/qemu-img", X_OK) != 0 || ::access("/usr/bin/qemu-io", X_OK) != 0) {
    GTEST_SKIP() << "qemu-img and qemu-io are not installed";
  }
  MakeBase();
  Create("disk.qcow2", true);
  WriteAtRandom("disk.qcow2");
  ASSERT_EQ(Shell(absl::StrCat("qemu-img check", kQemuOptions)), 0) << Output();
  ASSERT_EQ(Shell(absl::StrCat("qemu-img convert -O raw", kQemuOptions, " theirs.raw")), 0)
      << Output();
  const std::string theirs = Text("theirs.raw");
  EXPECT_EQ(FirstDifference({theirs.begin(), theirs.end()}, model_), std::nullopt);

  ASSERT_EQ(Shell(absl::StrCat("qemu-io", kQemuOptions,
                               " -c 'write -P 7 0 66048' -c 'write -P 8 1000k 1k'"
                               " -c 'write -z 2M 70k' -c 'write -P 9 2100k 512'")),
            0)
      << Output();
  std::fill_n(model_.begin(), 66048, 7);
  std::fill_n(model_.begin() + 1000 * 1024, 1024, 8);
  std::fill_n(model_.begin() + (2 << 20), 70 << 10, 0);
  std::fill_n(model_.begin() + 2100 * 1024, 512, 9);
  WriteAtRandom("disk.qcow2");
  ExpectSound("disk.qcow2");
}

INSTANTIATE_TEST_SUITE_P(
    Ciphers, OurLuksTest,
    testing::Values(OurImage{.name = "Default"},
                    OurImage{.name = "Aes128CbcEssivClusters512",
                             .cipher = {.key_bits = 128,
                                        .mode = crypto::CipherMode::kCbc,
                                        .iv = crypto::IvGenerator::kEssiv,
                                        .iv_hash = crypto::HashAlgorithm::kSha256},
                             .hash = crypto::HashAlgorithm::kSha1,
                             .qcow2 = {.cluster_bits = 9}},
                    OurImage{.name = "SerpentXtsClusters2M",
                             .cipher = {.family = crypto::CipherFamily::kSerpent},
                             .hash = crypto::HashAlgorithm::kSha512,
                             .qcow2 = {.cluster_bits = 21}},
                    OurImage{.name = "Twofish256Ctr",
                             .cipher = {.family = crypto::CipherFamily::kTwofish,
                                        .mode = crypto::CipherMode::kCtr},
                             .qcow2 = {.cluster_bits = 12}},
                    OurImage{.name = "Aes192XtsVersion2",
                             .cipher = {.key_bits = 192},
                             .qcow2 = {.version = 2}}),
    [](const testing::TestParamInfo<OurImage>& info) { return info.param.name; });

}  // namespace
}  // namespace vireo
