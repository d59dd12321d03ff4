#include "storage/host_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/async/task_scope.h"
#include "base/status.h"
#include "tests/support/temp_dir.h"

namespace vireo {
namespace {

enum class Mode { kPageCache, kDirect, kMemory };

class HostFileTest : public testing::TestWithParam<Mode> {
 protected:
  absl::StatusOr<std::unique_ptr<File>> TryOpen(HostFile::Options options) {
    options.path = options.path.empty() ? path_ : options.path;
    return loop_->RunTask(HostFile::Open(*loop_, opener_, options));
  }
  std::unique_ptr<File> Open(HostFile::Options options = {}) {
    options.direct = GetParam() == Mode::kDirect;
    options.create = true;
    absl::StatusOr<std::unique_ptr<File>> file = TryOpen(options);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
  absl::Status Write(File& file, uint64_t offset, std::vector<uint8_t> bytes) {
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    return loop_->RunTask(file.Write(offset, IoVecs(&part, 1)));
  }
  std::vector<uint8_t> Read(File& file, uint64_t offset, uint64_t length) {
    std::vector<uint8_t> bytes(length, 0xee);
    const iovec part = ToIoVec(std::span<uint8_t>(bytes));
    const absl::Status read = loop_->RunTask(file.Read(offset, IoVecs(&part, 1)));
    EXPECT_TRUE(read.ok()) << read;
    return bytes;
  }
  uint64_t SizeOnDisk() {
    struct stat info = {};
    EXPECT_EQ(::stat(path_.c_str(), &info), 0);
    return static_cast<uint64_t>(info.st_size);
  }
  Task<void> WriteOne(File* file, uint64_t offset, std::vector<uint8_t>* bytes, int* failed) {
    const iovec part = ToIoVec(std::span<uint8_t>(*bytes));
    const absl::Status written = co_await file->Write(offset, IoVecs(&part, 1));
    if (!written.ok()) ++*failed;
  }
  Task<void> Join(TaskScope* scope) { co_await scope->Join(); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  DirectOpener opener_;
  TempDir directory_{GetParam() == Mode::kMemory ? "/dev/shm" : "/tmp"};
  const std::string path_ = directory_.File("disk");
};

TEST_P(HostFileTest, AnyBytesAtAnyPlace) {
  std::unique_ptr<File> file = Open();
  std::vector<uint8_t> model(300000);
  std::mt19937 random(1);
  for (int i = 0; i < 60; ++i) {
    const uint64_t length = 1 + random() % (i % 10 == 0 ? 100000 : 3000);
    const uint64_t offset = random() % (model.size() - length);
    std::vector<uint8_t> bytes(length, static_cast<uint8_t>(random()));
    std::copy(bytes.begin(), bytes.end(), model.begin() + offset);
    ASSERT_TRUE(Write(*file, offset, bytes).ok());
  }
  EXPECT_TRUE(Read(*file, 0, model.size()) == model);
  EXPECT_TRUE(Read(*file, 777, 100001) ==
              std::vector<uint8_t>(model.begin() + 777, model.begin() + 777 + 100001));
  EXPECT_TRUE(loop_->RunTask(file->Sync()).ok());
  EXPECT_TRUE(loop_->RunTask(file->Close()).ok());
}

TEST_P(HostFileTest, TheSizeIsExactAfterClosing) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(Write(*file, 0, std::vector<uint8_t>(1001, 1)).ok());
  EXPECT_EQ(file->size(), 1001u);
  ASSERT_TRUE(loop_->RunTask(file->Close()).ok());
  EXPECT_EQ(SizeOnDisk(), 1001u);
}

TEST_P(HostFileTest, NeighboursWrittenTogetherBothStay) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(loop_->RunTask(file->Truncate(1 << 20)).ok());
  std::vector<std::vector<uint8_t>> pieces;
  for (int i = 0; i < 200; ++i) pieces.emplace_back(100, static_cast<uint8_t>(i + 1));
  int failed = 0;
  {
    EventLoop::CurrentScope current(*loop_);
    TaskScope scope(*loop_);
    for (int i = 0; i < 200; ++i) {
      scope.Spawn(WriteOne(file.get(), i * 100, &pieces[i], &failed));
    }
    loop_->RunTask(Join(&scope));
  }
  EXPECT_EQ(failed, 0);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Read(*file, i * 100, 100), pieces[i]) << i;
}

TEST_P(HostFileTest, PastTheEndReadsAsZeros) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(Write(*file, 0, std::vector<uint8_t>(100, 1)).ok());
  std::vector<uint8_t> wanted(5000);
  std::fill_n(wanted.begin(), 100, 1);
  EXPECT_EQ(Read(*file, 0, 5000), wanted);
  EXPECT_EQ(Read(*file, 1 << 20, 512), std::vector<uint8_t>(512));
}

TEST_P(HostFileTest, GrowsAndShrinks) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(loop_->RunTask(file->Extend(1 << 20)).ok());
  EXPECT_EQ(file->size(), 1u << 20);
  EXPECT_EQ(SizeOnDisk(), 1u << 20);
  EXPECT_EQ(Read(*file, (1 << 20) - 4096, 4096), std::vector<uint8_t>(4096));
  ASSERT_TRUE(loop_->RunTask(file->Extend(1000)).ok());  // Never shrinks.
  EXPECT_EQ(file->size(), 1u << 20);
  ASSERT_TRUE(loop_->RunTask(file->Truncate(5000)).ok());
  EXPECT_EQ(SizeOnDisk(), 5000u);
}

TEST_P(HostFileTest, GrowsAheadOfNeed) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(Write(*file, 0, std::vector<uint8_t>(8192, 1)).ok());
  ASSERT_TRUE(loop_->RunTask(file->ExtendAhead(1 << 20)).ok());
  EXPECT_EQ(file->size(), 1u << 20);
  EXPECT_EQ(Read(*file, 8192, 65536), std::vector<uint8_t>(65536));
  ASSERT_TRUE(loop_->RunTask(file->ExtendAhead(4096)).ok());  // It never shrinks.
  EXPECT_EQ(file->size(), 1u << 20);
  // In memory it has taken none for it, which Extend() does.
  if (GetParam() == Mode::kMemory) {
    EXPECT_LT(*file->AllocatedBytes(), 65536u);
  }
  ASSERT_TRUE(loop_->RunTask(file->Extend(2 << 20)).ok());
  EXPECT_GE(*file->AllocatedBytes(), 1u << 20);
  EXPECT_TRUE(loop_->RunTask(file->Close()).ok());
  EXPECT_EQ(SizeOnDisk(), 2u << 20);
}

TEST_P(HostFileTest, ZeroesKeepTheirNeighbours) {
  std::unique_ptr<File> file = Open();
  for (const bool may_unmap : {false, true}) {
    std::vector<uint8_t> model(200000, 7);
    ASSERT_TRUE(Write(*file, 0, model).ok());
    ASSERT_TRUE(loop_->RunTask(file->WriteZeroes(1000, 150000, may_unmap)).ok());
    std::fill_n(model.begin() + 1000, 150000, 0);
    EXPECT_TRUE(Read(*file, 0, model.size()) == model);
  }
  EXPECT_EQ(file->size(), 200000u);
}

TEST_P(HostFileTest, DiscardGivesSpaceBack) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(Write(*file, 0, std::vector<uint8_t>(1 << 20, 7)).ok());
  ASSERT_TRUE(loop_->RunTask(file->Sync()).ok());
  const uint64_t before = *file->AllocatedBytes();
  ASSERT_TRUE(loop_->RunTask(file->Discard(0, 1 << 19)).ok());
  ASSERT_TRUE(loop_->RunTask(file->Sync()).ok());
  EXPECT_LT(*file->AllocatedBytes(), before);
  EXPECT_EQ(Read(*file, 1 << 19, 4096), std::vector<uint8_t>(4096, 7));
}

TEST_P(HostFileTest, HolesAreFound) {
  std::unique_ptr<File> file = Open();
  ASSERT_TRUE(loop_->RunTask(file->Truncate(1 << 20)).ok());
  ASSERT_TRUE(Write(*file, 512 << 10, std::vector<uint8_t>(64 << 10, 7)).ok());
  ASSERT_TRUE(loop_->RunTask(file->Sync()).ok());
  const auto hole = loop_->RunTask(file->Extent(0));
  ASSERT_TRUE(hole.ok());
  EXPECT_FALSE(hole->data);
  EXPECT_EQ(hole->length, 512u << 10);
  const auto data = loop_->RunTask(file->Extent(512 << 10));
  ASSERT_TRUE(data.ok());
  EXPECT_TRUE(data->data);
  EXPECT_EQ(data->length, 64u << 10);
  const auto rest = loop_->RunTask(file->Extent(600 << 10));
  ASSERT_TRUE(rest.ok());
  EXPECT_FALSE(rest->data);
  EXPECT_EQ(rest->length, (1u << 20) - (600 << 10));
}

TEST_P(HostFileTest, HolesOfAReadOnlyFileAreFoundAgain) {
  {
    std::unique_ptr<File> file = Open();
    ASSERT_TRUE(loop_->RunTask(file->Truncate(1 << 20)).ok());
    ASSERT_TRUE(Write(*file, 512 << 10, std::vector<uint8_t>(64 << 10, 7)).ok());
    ASSERT_TRUE(loop_->RunTask(file->Close()).ok());
  }
  const auto file = TryOpen({.read_only = true, .direct = GetParam() == Mode::kDirect});
  ASSERT_TRUE(file.ok()) << file.status();
  for (const uint64_t offset : {100 << 10, 200 << 10, 50 << 10}) {
    const auto hole = loop_->RunTask((*file)->Extent(offset));
    ASSERT_TRUE(hole.ok());
    EXPECT_FALSE(hole->data);
    EXPECT_EQ(hole->length, (512u << 10) - offset);
  }
  const auto data = loop_->RunTask((*file)->Extent(512 << 10));
  ASSERT_TRUE(data.ok());
  EXPECT_TRUE(data->data);
  EXPECT_EQ(data->length, 64u << 10);
}

Task<void> Note(File* file, IoVecs src, bool* written) {
  const absl::Status status = co_await file->Write(0, src);
  *written = status.ok();
}

Task<void> WriteAndWaitTwoTurns(EventLoop* loop, File* file, IoVecs src, bool* written) {
  TaskScope scope(*loop);
  scope.Spawn(Note(file, src, written));
  co_await loop->Yield();
  co_await loop->Yield();
  const bool in_time = *written;
  co_await scope.Join();
  *written = in_time;
}

// What a thread of the kernel did would not be there so soon.
TEST(HostFileInMemoryTest, AWriteTakesOneTurnOfTheLoop) {
  const TempDir directory("/dev/shm");
  struct statfs system = {};
  ASSERT_EQ(::statfs(directory.path().c_str(), &system), 0);
  if (system.f_type != TMPFS_MAGIC) GTEST_SKIP() << "/dev/shm is no tmpfs";
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  DirectOpener opener;
  const auto file = loop->RunTask(
      HostFile::Open(*loop, opener, {.path = directory.File("disk"), .create = true}));
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<uint8_t> bytes(1 << 20, 7);
  const iovec part = ToIoVec(std::span<uint8_t>(bytes));
  for (int i = 0; i < 20; ++i) {
    bool written = false;
    loop->RunTask(WriteAndWaitTwoTurns(loop.get(), file->get(), IoVecs(&part, 1), &written));
    EXPECT_TRUE(written) << i;
  }
  EXPECT_TRUE(loop->RunTask((*file)->Close()).ok());
}

TEST_P(HostFileTest, ErrorsNameFileOffsetAndCause) {
  std::unique_ptr<File> file = Open();
  const absl::Status status = Write(*file, ~uint64_t{0} - 100, std::vector<uint8_t>(512));
  EXPECT_TRUE(absl::IsOutOfRange(status)) << status;
  EXPECT_THAT(status.message(), testing::HasSubstr(path_));
  ASSERT_TRUE(Write(*file, 0, std::vector<uint8_t>(4096)).ok());
  ASSERT_TRUE(loop_->RunTask(file->Close()).ok());
  absl::StatusOr<std::unique_ptr<File>> read_only = TryOpen({.read_only = true});
  ASSERT_TRUE(read_only.ok());
  const absl::Status refused = Write(**read_only, 4096, std::vector<uint8_t>(512));
  EXPECT_EQ(StatusErrno(refused), EBADF);
  EXPECT_THAT(refused.message(),
              testing::AllOf(testing::HasSubstr(path_), testing::HasSubstr("offset 4096")));
}

std::string NameOf(const testing::TestParamInfo<Mode>& info) {
  if (info.param == Mode::kMemory) return "Memory";
  return info.param == Mode::kDirect ? "Direct" : "PageCache";
}

INSTANTIATE_TEST_SUITE_P(Modes, HostFileTest,
                         testing::Values(Mode::kPageCache, Mode::kDirect, Mode::kMemory), NameOf);

using HostFileOpenTest = HostFileTest;

TEST_P(HostFileOpenTest, RefusesWhatIsNoDisk) {
  EXPECT_TRUE(absl::IsNotFound(TryOpen({.path = directory_.File("none")}).status()));
  const absl::Status directory = TryOpen({.path = directory_.path(), .read_only = true}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(directory)) << directory;
  EXPECT_TRUE(absl::IsInvalidArgument(TryOpen({.path = "/dev/null", .read_only = true}).status()));
}

TEST_P(HostFileOpenTest, NamesOfOneFileHaveOneIdentity) {
  std::ofstream(path_) << "x";
  ASSERT_EQ(::link(path_.c_str(), directory_.File("link").c_str()), 0);
  std::ofstream(directory_.File("other")) << "x";
  const auto first = TryOpen({});
  const auto link = TryOpen({.path = directory_.File("link")});
  const auto other = TryOpen({.path = directory_.File("other")});
  ASSERT_TRUE(first.ok() && link.ok() && other.ok());
  EXPECT_EQ((*first)->identity(), (*link)->identity());
  EXPECT_NE((*first)->identity(), (*other)->identity());
}

TEST_P(HostFileOpenTest, TheSecondWriterIsRefused) {
  std::ofstream(path_) << "x";
  const auto first = TryOpen({.lock = LockMode::kExclusive});
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(absl::IsAborted(TryOpen({.lock = LockMode::kExclusive}).status()));
  ASSERT_TRUE(loop_->RunTask((*first)->Close()).ok());
  EXPECT_TRUE(TryOpen({.lock = LockMode::kExclusive}).ok());
}

INSTANTIATE_TEST_SUITE_P(Opening, HostFileOpenTest, testing::Values(Mode::kPageCache));

}  // namespace
}  // namespace vireo
