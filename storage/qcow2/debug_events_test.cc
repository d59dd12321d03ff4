// The engine tells of what it does, at the points that QEMU's tests know.

#include "storage/debug_events.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/async/task_scope.h"
#include "base/status.h"
#include "storage/blkdebug.h"
#include "storage/file_decorator.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/image.h"
#include "tests/support/memory_file.h"

namespace vireo::qcow2 {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

// Keeps the names of what it is told.
class Recorder final : public FileDecorator, public DebugEvents {
 public:
  Recorder(std::unique_ptr<File> file, std::vector<DebugEvent>* events)
      : FileDecorator(std::move(file)), events_(events) {}
  DebugEvents* debug_events() override { return this; }
  Task<void> Reach(DebugEvent event) override {
    events_->push_back(event);
    co_return;
  }

 private:
  std::vector<DebugEvent>* const events_;
};

class DebugEventsTest : public testing::Test {
 protected:
  DebugEventsTest() {
    MemoryFile file(*loop_, medium_);
    EXPECT_TRUE(loop_->RunTask(CreateImage(file, {.size_bytes = 8 << 20})).ok());
  }
  ~DebugEventsTest() override {
    if (image_ != nullptr) {
      EXPECT_TRUE(loop_->RunTask(image_->Close()).ok());
    }
  }

  void Open(std::unique_ptr<File> file) {
    const absl::StatusOr<Header> header = loop_->RunTask(ReadHeader(*file, Access::kReadWrite));
    ASSERT_TRUE(header.ok()) << header.status();
    Image::Parts parts = {.file = std::move(file)};
    auto image = loop_->RunTask(
        Image::Open(*loop_, *header, std::move(parts), {.commit_age = absl::InfiniteDuration()}));
    ASSERT_TRUE(image.ok()) << image.status();
    image_ = *std::move(image);
  }
  void OpenRecorded() {
    Open(std::make_unique<Recorder>(std::make_unique<MemoryFile>(*loop_, medium_), &events_));
  }
  Blkdebug* OpenWithRules(const std::string& config) {
    absl::StatusOr<DriverOptions> options = Blkdebug::ReadConfig(config);
    EXPECT_TRUE(options.ok()) << options.status();
    absl::StatusOr<std::vector<Blkdebug::Rule>> rules = Blkdebug::Rules(*options);
    EXPECT_TRUE(rules.ok()) << rules.status();
    auto file = std::make_unique<Blkdebug>(std::make_unique<MemoryFile>(*loop_, medium_),
                                           *std::move(rules), nullptr);
    Blkdebug* const blkdebug = file.get();
    Open(std::move(file));
    return blkdebug;
  }
  absl::Status Write(uint64_t offset, size_t length, char byte) {
    std::string bytes(length, byte);
    const iovec part = {bytes.data(), bytes.size()};
    return loop_->RunTask(image_->Write(offset, IoVecs(&part, 1)));
  }
  absl::Status Read(uint64_t offset, size_t length) {
    std::string bytes(length, '\0');
    const iovec part = {bytes.data(), bytes.size()};
    return loop_->RunTask(image_->Read(offset, IoVecs(&part, 1)));
  }
  std::vector<DebugEvent> TakeEvents() { return std::exchange(events_, {}); }

  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  MemoryMedium medium_;
  std::vector<DebugEvent> events_;
  std::unique_ptr<BlockBackend> image_;
};

TEST_F(DebugEventsTest, AFirstWriteAndItsFlush) {
  OpenRecorded();
  EXPECT_THAT(TakeEvents(), Contains(DebugEvent::kReftableLoad));
  ASSERT_TRUE(Write(0, 65536, 'a').ok());
  const std::vector<DebugEvent> written = TakeEvents();
  EXPECT_THAT(written, Contains(DebugEvent::kClusterAlloc));
  EXPECT_EQ(written.back(), DebugEvent::kWriteAio);
  EXPECT_THAT(written, Not(Contains(DebugEvent::kCowWrite)));
  ASSERT_TRUE(loop_->RunTask(image_->Flush()).ok());
  const std::vector<DebugEvent> flushed = TakeEvents();
  EXPECT_EQ(flushed.front(), DebugEvent::kFlushToOs);
  EXPECT_EQ(flushed.back(), DebugEvent::kFlushToDisk);
  const auto l2 = std::find(flushed.begin(), flushed.end(), DebugEvent::kL2Update);
  const auto l1 = std::find(flushed.begin(), flushed.end(), DebugEvent::kL1Update);
  ASSERT_NE(l1, flushed.end());
  EXPECT_LT(l2, l1) << "a table is written before what points to it";
}

TEST_F(DebugEventsTest, ReadsAndWritesInPlace) {
  OpenRecorded();
  ASSERT_TRUE(Write(0, 65536, 'a').ok());
  TakeEvents();
  ASSERT_TRUE(Read(512, 512).ok());
  EXPECT_THAT(TakeEvents(), ElementsAre(DebugEvent::kReadAio));
  ASSERT_TRUE(Write(512, 512, 'b').ok());
  EXPECT_THAT(TakeEvents(), ElementsAre(DebugEvent::kWriteAio));
  ASSERT_TRUE(Read(1 << 20, 512).ok());
  EXPECT_THAT(TakeEvents(), IsEmpty()) << "zeros that nothing stores";
}

TEST_F(DebugEventsTest, AFaultFailsOneRequest) {
  OpenWithRules("[inject-error]\nevent = \"write_aio\"\nerrno = \"28\"\nonce = \"on\"\n");
  EXPECT_EQ(StatusErrno(Write(0, 65536, 'a')), ENOSPC);
  EXPECT_TRUE(Write(0, 65536, 'a').ok());
  EXPECT_TRUE(Read(0, 65536).ok());
}

struct Fault {
  const char* event;
  int error;
};

std::ostream& operator<<(std::ostream& out, const Fault& fault) {
  return out << fault.event << "_" << fault.error;
}

class FaultTest : public DebugEventsTest, public testing::WithParamInterface<Fault> {};

// As QEMU's test 026: whatever fails where, the image contradicts itself at no time.
TEST_P(FaultTest, LeavesNoCorruption) {
  for (const char* once : {"on", "off"}) {
    OpenWithRules(absl::StrFormat("[inject-error]\nevent = \"%s\"\nerrno = \"%d\"\nonce = \"%s\"\n",
                                  GetParam().event, GetParam().error, once));
    for (uint64_t i = 0; i < 8; ++i) {
      Write(i * (1 << 20) + 4096, 70000, static_cast<char>('a' + i)).IgnoreError();
      loop_->RunTask(image_->Flush()).IgnoreError();
    }
    loop_->RunTask(image_->Discard(1 << 20, 2 << 20)).IgnoreError();
    loop_->RunTask(image_->Resize(image_->geometry().size_bytes * 512)).IgnoreError();
    Write(image_->geometry().size_bytes - 512, 512, 'z').IgnoreError();
    loop_->RunTask(image_->Close()).IgnoreError();
    image_.reset();
    MemoryFile file(*loop_, medium_);
    const absl::StatusOr<CheckResult> checked = loop_->RunTask(CheckImage(file, Repair::kNone));
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->corruptions, 0u) << once;
    EXPECT_EQ(checked->check_errors, 0u) << once;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Events, FaultTest,
    testing::Values(Fault{"l1_update", 5}, Fault{"l1_update", 28}, Fault{"l2_load", 5},
                    Fault{"l2_update", 5}, Fault{"l2_update", 28}, Fault{"write_aio", 5},
                    Fault{"write_aio", 28}, Fault{"cow_write", 5}, Fault{"refblock_load", 5},
                    Fault{"refblock_update_part", 5}, Fault{"refblock_update_part", 28},
                    Fault{"refblock_alloc", 5}, Fault{"refblock_alloc", 28},
                    Fault{"cluster_alloc", 5}, Fault{"cluster_alloc", 28}, Fault{"cluster_free", 5},
                    Fault{"flush_to_os", 5}, Fault{"flush_to_disk", 5},
                    Fault{"l1_grow_alloc_table", 28}, Fault{"l1_grow_write_table", 5},
                    Fault{"l1_grow_activate_table", 5}, Fault{"pwritev", 28},
                    Fault{"pwritev_done", 5}),
    [](const testing::TestParamInfo<Fault>& info) {
      return absl::StrFormat("%s_%d", info.param.event, info.param.error);
    });

Task<void> WriteAlone(BlockBackend* image, uint64_t offset, std::string bytes, bool* done) {
  const iovec part = {bytes.data(), bytes.size()};
  const absl::Status status = co_await image->Write(offset, IoVecs(&part, 1));
  *done = status.ok();
}

TEST_F(DebugEventsTest, AWriteHeldUpKeepsItsClusterOnly) {
  Blkdebug* const blkdebug = OpenWithRules("");
  blkdebug->Break(DebugEvent::kWriteAio, "A");
  TaskScope scope(*loop_);
  bool held = false;
  bool same = false;
  bool other = false;
  scope.Spawn(WriteAlone(image_.get(), 0, std::string(512, 'a'), &held));
  loop_->RunUntilIdle();
  ASSERT_TRUE(blkdebug->IsSuspended("A"));
  scope.Spawn(WriteAlone(image_.get(), 4096, std::string(512, 'b'), &same));
  scope.Spawn(WriteAlone(image_.get(), 1 << 20, std::string(512, 'c'), &other));
  loop_->RunUntilIdle();
  EXPECT_FALSE(held);
  EXPECT_FALSE(same) << "the second writer of a cluster waits for the first";
  EXPECT_TRUE(other);
  EXPECT_TRUE(blkdebug->Resume("A"));
  loop_->RunUntilIdle();
  EXPECT_TRUE(held);
  EXPECT_TRUE(same);
}

}  // namespace
}  // namespace vireo::qcow2
