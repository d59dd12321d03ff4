#include "base/opener.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

// TOP/allowed/{file, inner/, inside -> inner/deep, out -> ../secret, abs -> TOP/allowed/file},
// TOP/secret, TOP/allowed2/
class OpenerTest : public testing::Test {
 protected:
  OpenerTest() {
    top_ = std::filesystem::canonical(testing::TempDir()).string() + "/opener-XXXXXX";
    EXPECT_NE(::mkdtemp(top_.data()), nullptr);
    allowed_ = top_ + "/allowed";
    std::filesystem::create_directories(allowed_ + "/inner");
    std::filesystem::create_directories(top_ + "/allowed2");
    std::ofstream(allowed_ + "/file") << "contents";
    std::ofstream(allowed_ + "/inner/deep") << "deep";
    std::ofstream(top_ + "/secret") << "secret";
    std::filesystem::create_symlink("inner/deep", allowed_ + "/inside");
    std::filesystem::create_symlink("../secret", allowed_ + "/out");
    std::filesystem::create_symlink(allowed_ + "/file", allowed_ + "/abs");
  }
  ~OpenerTest() override { std::filesystem::remove_all(top_); }

  DirectOpener Limited() {
    absl::StatusOr<DirectOpener> opener = DirectOpener::Create({allowed_});
    EXPECT_TRUE(opener.ok()) << opener.status();
    return *std::move(opener);
  }

  std::string top_;
  std::string allowed_;
};

TEST_F(OpenerTest, WithoutAListEverythingOpens) {
  DirectOpener opener;
  const absl::StatusOr<UniqueFd> fd = opener.Open(top_ + "/secret", O_RDONLY);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(OpenerTest, ErrorsNameThePath) {
  DirectOpener opener;
  const absl::Status status = opener.Open(top_ + "/absent", O_RDONLY).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), top_ + "/absent: No such file or directory");
  EXPECT_EQ(Limited().Open(allowed_ + "/absent", O_RDONLY).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(OpenerTest, OpensBeneathTheAllowedDirectory) {
  DirectOpener opener = Limited();
  EXPECT_TRUE(opener.Open(allowed_ + "/file", O_RDWR).ok());
  EXPECT_TRUE(opener.Open(allowed_ + "/inner/../inner/deep", O_RDONLY).ok());
  EXPECT_TRUE(opener.Open(allowed_ + "/inside", O_RDONLY).ok());
  EXPECT_TRUE(opener.Open(allowed_ + "/abs", O_RDONLY).ok());
  EXPECT_TRUE(opener.Open(allowed_ + "/inner", O_RDONLY | O_DIRECTORY).ok());
}

TEST_F(OpenerTest, RefusesWhatLiesOutside) {
  DirectOpener opener = Limited();
  for (const std::string& path :
       {top_ + "/secret", allowed_ + "/out", allowed_ + "/../secret", allowed_ + "2", top_}) {
    const absl::Status status = opener.Open(path, O_RDONLY).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << path << ": " << status;
    EXPECT_TRUE(absl::StrContains(std::string(status.message()), path)) << status;
  }
}

TEST_F(OpenerTest, CreatesOnlyInside) {
  DirectOpener opener = Limited();
  EXPECT_TRUE(opener.Open(allowed_ + "/new", O_RDWR | O_CREAT | O_EXCL, 0600).ok());
  EXPECT_TRUE(std::filesystem::exists(allowed_ + "/new"));
  EXPECT_EQ(opener.Open(top_ + "/new", O_RDWR | O_CREAT, 0600).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_FALSE(std::filesystem::exists(top_ + "/new"));
}

TEST_F(OpenerTest, AnAbsentAllowedDirectoryIsAnError) {
  EXPECT_EQ(DirectOpener::Create({top_ + "/none"}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(OpenerTest, CanonicalNamesOfOneFileAreEqual) {
  DirectOpener opener;
  EXPECT_EQ(*opener.Canonical(allowed_ + "/./abs"), allowed_ + "/file");
  EXPECT_EQ(*opener.Canonical(allowed_ + "//inner/../file"), allowed_ + "/file");
  EXPECT_EQ(*opener.Canonical("fd:5"), "fd:5");
  EXPECT_EQ(opener.Canonical(top_ + "/absent").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(OpenerTest, DescriptorsAreDuplicatedEvenWithAList) {
  DirectOpener opener = Limited();
  const UniqueFd file(::open((top_ + "/secret").c_str(), O_RDONLY | O_CLOEXEC));
  const absl::StatusOr<UniqueFd> fd = opener.Open(absl::StrCat("fd:", file.get()), O_RDONLY);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_NE(fd->get(), file.get());
  struct stat ours;
  struct stat theirs;
  ASSERT_EQ(::fstat(fd->get(), &ours), 0);
  ASSERT_EQ(::fstat(file.get(), &theirs), 0);
  EXPECT_EQ(ours.st_ino, theirs.st_ino);
}

TEST_F(OpenerTest, ADescriptorKeepsItsAccessMode) {
  DirectOpener opener;
  const UniqueFd file(::open((top_ + "/secret").c_str(), O_RDONLY | O_CLOEXEC));
  const std::string path = absl::StrCat("fd=", file.get());
  EXPECT_TRUE(opener.Open(path, O_RDONLY).ok());
  const absl::Status status = opener.Open(path, O_RDWR).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(absl::StrContains(std::string(status.message()), path)) << status;
}

TEST_F(OpenerTest, AClosedDescriptorIsAnError) {
  DirectOpener opener;
  EXPECT_EQ(StatusErrno(opener.Open("fd:99999", O_RDONLY).status()), EBADF);
}

TEST(DescriptorInPathTest, UnderstandsBothForms) {
  EXPECT_EQ(DescriptorInPath("fd:3"), 3);
  EXPECT_EQ(DescriptorInPath("fd=12"), 12);
  EXPECT_EQ(DescriptorInPath("fd:-1"), std::nullopt);
  EXPECT_EQ(DescriptorInPath("fd:3x"), std::nullopt);
  EXPECT_EQ(DescriptorInPath("/dev/fd:3"), std::nullopt);
  EXPECT_EQ(DescriptorInPath("fd:"), std::nullopt);
}

}  // namespace
}  // namespace vireo
