#include "storage/image_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/unique_fd.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

class ImageLockTest : public testing::Test {
 protected:
  UniqueFd Open() { return UniqueFd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); }
  // Whether another open file holds a lock on `byte`.
  bool IsLocked(off_t byte) {
    const UniqueFd fd = Open();
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_start = byte;
    lock.l_len = 1;
    EXPECT_EQ(::fcntl(fd.get(), F_OFD_GETLK, &lock), 0);
    return lock.l_type != F_UNLCK;
  }

  TempDir directory_;
  const std::string path_ = directory_.File("disk");
};

TEST_F(ImageLockTest, TakesTheBytesThatQemuKnows) {
  const UniqueFd fd = Open();
  ASSERT_TRUE(LockImage(fd.get(), path_, LockMode::kExclusive).ok());
  for (const off_t byte : {100, 101, 103, 201, 203}) EXPECT_TRUE(IsLocked(byte)) << byte;
  for (const off_t byte : {102, 200, 202}) EXPECT_FALSE(IsLocked(byte)) << byte;
  UnlockImage(fd.get());
  for (off_t byte = 100; byte < 204; ++byte) EXPECT_FALSE(IsLocked(byte)) << byte;
  ASSERT_TRUE(LockImage(fd.get(), path_, LockMode::kShared).ok());
  for (const off_t byte : {100, 201, 203}) EXPECT_TRUE(IsLocked(byte)) << byte;
  for (const off_t byte : {101, 103, 200}) EXPECT_FALSE(IsLocked(byte)) << byte;
}

TEST_F(ImageLockTest, AWriterIsAlone) {
  const UniqueFd writer = Open();
  const UniqueFd other = Open();
  ASSERT_TRUE(LockImage(writer.get(), path_, LockMode::kExclusive).ok());
  const absl::Status second = LockImage(other.get(), path_, LockMode::kExclusive);
  EXPECT_TRUE(absl::IsAborted(second));
  EXPECT_THAT(second.message(), testing::HasSubstr(path_));
  EXPECT_TRUE(absl::IsAborted(LockImage(other.get(), path_, LockMode::kShared)));
  EXPECT_TRUE(LockImage(other.get(), path_, LockMode::kNone).ok());
  // Refusing left nothing locked that could keep the writer from coming back.
  UnlockImage(writer.get());
  EXPECT_TRUE(LockImage(writer.get(), path_, LockMode::kExclusive).ok());
}

TEST_F(ImageLockTest, ReadersShareAndKeepWritersOut) {
  const UniqueFd first = Open();
  const UniqueFd second = Open();
  const UniqueFd writer = Open();
  ASSERT_TRUE(LockImage(first.get(), path_, LockMode::kShared).ok());
  ASSERT_TRUE(LockImage(second.get(), path_, LockMode::kShared).ok());
  EXPECT_TRUE(absl::IsAborted(LockImage(writer.get(), path_, LockMode::kExclusive)));
}

TEST_F(ImageLockTest, ClosingTheFileReleases) {
  {
    const UniqueFd first = Open();
    ASSERT_TRUE(LockImage(first.get(), path_, LockMode::kExclusive).ok());
  }
  const UniqueFd second = Open();
  EXPECT_TRUE(LockImage(second.get(), path_, LockMode::kExclusive).ok());
}

}  // namespace
}  // namespace vireo
