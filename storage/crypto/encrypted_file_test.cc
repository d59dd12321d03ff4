#include "storage/crypto/encrypted_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/async/task_scope.h"
#include "tests/support/memory_file.h"

namespace vireo::crypto {
namespace {

class EncryptedFileTest : public testing::Test {
 protected:
  EncryptedFileTest() {
    medium_.bytes.assign(1 << 20, 0);
    inner_ = std::make_unique<MemoryFile>(*loop_, medium_);
    for (size_t i = 0; i < key_.size(); ++i) key_[i] = static_cast<uint8_t>(i);
    file_ = *EncryptedFile::Create(*loop_, {.file = inner_.get()}, CipherSpec{}, Secret(key_));
    std::vector<uint8_t> zeros(1 << 20);
    Write(0, zeros);
  }
  ~EncryptedFileTest() override { EXPECT_TRUE(loop_->RunTask(file_->Close()).ok()); }

  void Write(uint64_t offset, std::span<const uint8_t> bytes) {
    const iovec part = ToIoVec(bytes);
    ASSERT_TRUE(loop_->RunTask(file_->Write(offset, IoVecs(&part, 1))).ok());
  }
  std::vector<uint8_t> Read(uint64_t offset, size_t length) {
    std::vector<uint8_t> bytes(length);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    EXPECT_TRUE(loop_->RunTask(file_->Read(offset, IoVecs(&part, 1))).ok());
    return bytes;
  }
  static std::vector<uint8_t> Filled(size_t length, uint8_t byte) {
    return std::vector<uint8_t>(length, byte);
  }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  std::vector<uint8_t> key_ = std::vector<uint8_t>(64);
  std::unique_ptr<MemoryFile> inner_;
  std::unique_ptr<File> file_;
};

TEST_F(EncryptedFileTest, TheFileBelowHoldsEachSectorEncryptedByItsOffset) {
  Write(1024, Filled(1024, 'v'));
  const auto cipher = SectorCipher::Create(CipherSpec{}, key_);
  std::vector<uint8_t> want = Filled(1024, 'v');
  (*cipher)->Encrypt(2, want, want);
  EXPECT_TRUE(std::equal(want.begin(), want.end(), medium_.bytes.begin() + 1024));
  EXPECT_EQ(Read(1024, 1024), Filled(1024, 'v'));
}

TEST_F(EncryptedFileTest, PartsOfSectorsKeepTheirNeighbours) {
  Write(0, Filled(4096, 1));
  Write(500, Filled(100, 2));
  Write(3000, Filled(20, 3));
  std::vector<uint8_t> want = Filled(4096, 1);
  std::fill(want.begin() + 500, want.begin() + 600, 2);
  std::fill(want.begin() + 3000, want.begin() + 3020, 3);
  EXPECT_EQ(Read(0, 4096), want);
  EXPECT_EQ(Read(499, 3), (std::vector<uint8_t>{1, 2, 2}));
}

TEST_F(EncryptedFileTest, RandomWritesOfAnyAlignmentAndSizeReadBack) {
  std::vector<uint8_t> model(1 << 20);
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const size_t offset = random() % model.size();
    const size_t limit = i % 3 == 0 ? 600 << 10 : 3000;
    const size_t length = std::min<size_t>(random() % limit, model.size() - offset);
    const std::vector<uint8_t> bytes = Filled(length, static_cast<uint8_t>(i));
    Write(offset, bytes);
    std::copy(bytes.begin(), bytes.end(), model.begin() + offset);
  }
  EXPECT_EQ(Read(0, model.size()), model);
}

TEST_F(EncryptedFileTest, VectorsCutSectorsAnywhere) {
  std::vector<uint8_t> first = Filled(700, 1);
  std::vector<uint8_t> second = Filled(1348, 2);
  std::vector<iovec> parts = {ToIoVec(std::span<uint8_t>(first)),
                              ToIoVec(std::span<uint8_t>(second))};
  ASSERT_TRUE(loop_->RunTask(file_->Write(2048, parts)).ok());
  std::fill(first.begin(), first.end(), 0);
  std::fill(second.begin(), second.end(), 0);
  ASSERT_TRUE(loop_->RunTask(file_->Read(2048, parts)).ok());
  EXPECT_EQ(first, Filled(700, 1));
  EXPECT_EQ(second, Filled(1348, 2));
}

Task<void> WriteTo(File& file, uint64_t offset, std::vector<uint8_t> bytes, absl::Status* status) {
  const iovec part = ToIoVec(std::span<const uint8_t>(bytes));
  *status = co_await file.Write(offset, IoVecs(&part, 1));
}

TEST_F(EncryptedFileTest, WritersOfOneSectorTakeTurns) {
  std::vector<absl::Status> results(64, absl::UnknownError("not yet"));
  TaskScope scope(*loop_);
  std::vector<uint8_t> want;
  for (size_t i = 0; i < results.size(); ++i) {
    scope.Spawn(WriteTo(*file_, 512 + 8 * i, Filled(8, static_cast<uint8_t>(i)), &results[i]));
    for (size_t k = 0; k < 8; ++k) want.push_back(static_cast<uint8_t>(i));
  }
  loop_->RunTask(scope.Join());
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok());
  EXPECT_EQ(Read(512, 512), want);
}

TEST_F(EncryptedFileTest, ZeroesReadAsZeros) {
  Write(0, Filled(1 << 20, 9));
  ASSERT_TRUE(loop_->RunTask(file_->WriteZeroes(100, 700000, true)).ok());
  EXPECT_EQ(Read(100, 700000), Filled(700000, 0));
  EXPECT_EQ(Read(99, 1), Filled(1, 9));
  EXPECT_EQ(Read(700100, 1), Filled(1, 9));
}

TEST_F(EncryptedFileTest, NothingIsAHoleAndNothingBecomesOne) {
  Write(0, Filled(4096, 9));
  ASSERT_TRUE(loop_->RunTask(file_->Discard(0, 4096)).ok());
  EXPECT_EQ(Read(0, 4096), Filled(4096, 9));
  const auto extent = loop_->RunTask(file_->Extent(4096));
  ASSERT_TRUE(extent.ok());
  EXPECT_TRUE(extent->data);
  EXPECT_FALSE(file_->traits().zero_filled);
}

}  // namespace
}  // namespace vireo::crypto
