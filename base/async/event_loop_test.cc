#include "base/async/event_loop.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/async/task_scope.h"
#include "base/event_fd.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace vireo {
namespace {

struct Setup {
  const char* name;
  EventLoop::Options options;
  FileKind kind = FileKind::kStorage;
};

std::vector<uint8_t> Pattern(size_t size) {
  std::vector<uint8_t> bytes(size);
  uint32_t state = 12345;
  for (uint8_t& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return bytes;
}

std::vector<iovec> Split(std::vector<uint8_t>& bytes, size_t piece) {
  std::vector<iovec> vectors;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    vectors.push_back({bytes.data() + at, std::min(piece, bytes.size() - at)});
  }
  return vectors;
}

class EventLoopTest : public testing::TestWithParam<Setup> {
 protected:
  EventLoopTest() {
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create(GetParam().options);
    EXPECT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    std::string path = testing::TempDir() + "/event-loop-XXXXXX";
    file_ = UniqueFd(::mkostemp(path.data(), O_CLOEXEC));
    EXPECT_TRUE(file_.valid());
    ::unlink(path.c_str());
  }

  absl::Status Write(uint64_t offset, IoVecs src) {
    return loop_->RunTask(loop_->Write(file_.get(), offset, src, StopToken(), GetParam().kind));
  }
  absl::StatusOr<size_t> Read(uint64_t offset, IoVecs dst) {
    return loop_->RunTask(loop_->Read(file_.get(), offset, dst, StopToken(), GetParam().kind));
  }

  std::unique_ptr<EventLoop> loop_;
  UniqueFd file_;
};

// --- Files ---

TEST_P(EventLoopTest, ReadsBackWhatItWrote) {
  std::vector<uint8_t> out = Pattern(100000);
  const iovec src = {out.data(), out.size()};
  ASSERT_TRUE(Write(4096, IoVecs(&src, 1)).ok());
  std::vector<uint8_t> in(out.size());
  const std::vector<iovec> dst = Split(in, 30000);
  const absl::StatusOr<size_t> got = Read(4096, dst);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, out.size());
  EXPECT_EQ(in, out);
}

TEST_P(EventLoopTest, AReadIsShortOnlyAtTheEndOfTheFile) {
  std::vector<uint8_t> out = Pattern(1000);
  const iovec src = {out.data(), out.size()};
  ASSERT_TRUE(Write(0, IoVecs(&src, 1)).ok());
  std::vector<uint8_t> in(4000, 0xee);
  const std::vector<iovec> dst = Split(in, 700);
  EXPECT_EQ(*Read(300, dst), 700u);
  EXPECT_TRUE(std::equal(out.begin() + 300, out.end(), in.begin()));
  EXPECT_EQ(in[700], 0xee);
  EXPECT_EQ(*Read(1000, dst), 0u);
  EXPECT_EQ(*Read(1 << 20, dst), 0u);
}

TEST_P(EventLoopTest, NothingIsMovedWithoutBuffers) {
  EXPECT_TRUE(Write(0, {}).ok());
  const iovec empty = {nullptr, 0};
  EXPECT_TRUE(Write(0, IoVecs(&empty, 1)).ok());
  EXPECT_EQ(*Read(0, IoVecs(&empty, 1)), 0u);
}

TEST_P(EventLoopTest, MoreBuffersThanOneCallTakes) {
  std::vector<uint8_t> out = Pattern(5000);
  std::vector<iovec> src = Split(out, 1);
  // Empty ones in between, and more than IOV_MAX of them in a row.
  src.insert(src.begin() + 2000, 1500, iovec{nullptr, 0});
  ASSERT_TRUE(Write(7, src).ok());
  std::vector<uint8_t> in(out.size());
  std::vector<iovec> dst = Split(in, 2);
  dst.insert(dst.begin(), 1100, iovec{nullptr, 0});
  EXPECT_EQ(*Read(7, dst), in.size());
  EXPECT_EQ(in, out);
}

TEST_P(EventLoopTest, DirectReadsEndAtAnOddEndOfFile) {
  std::string path = testing::TempDir() + "/event-loop-direct-XXXXXX";
  const UniqueFd buffered(::mkostemp(path.data(), O_CLOEXEC));
  const UniqueFd direct(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ::unlink(path.c_str());
  if (!direct.valid()) GTEST_SKIP() << "no O_DIRECT in " << testing::TempDir();
  std::vector<uint8_t> out = Pattern(4096 + 100);
  ASSERT_EQ(::pwrite(buffered.get(), out.data(), out.size(), 0), static_cast<ssize_t>(out.size()));
  ASSERT_EQ(::fsync(buffered.get()), 0);
  const std::unique_ptr<uint8_t, void (*)(void*)> buffer(
      static_cast<uint8_t*>(std::aligned_alloc(4096, 16384)), std::free);
  const iovec dst = {buffer.get(), 16384};
  const absl::StatusOr<size_t> got =
      loop_->RunTask(loop_->Read(direct.get(), 0, IoVecs(&dst, 1), StopToken(), GetParam().kind));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, out.size());
  EXPECT_TRUE(std::equal(out.begin(), out.end(), buffer.get()));
}

TEST_P(EventLoopTest, AShortWriteIsResumedUntilItsError) {
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {.rlim_cur = 100000, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::vector<uint8_t> out = Pattern(150000);
  const std::vector<iovec> src = Split(out, 150000);
  const absl::Status status = Write(0, src);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(StatusErrno(status), EFBIG);
  EXPECT_EQ(std::string(status.message()), "write 50000 bytes at offset 100000: File too large");
  EXPECT_EQ(::lseek(file_.get(), 0, SEEK_END), 100000);
}

TEST_P(EventLoopTest, ErrorsCarryTheErrno) {
  uint8_t byte = 0;
  const iovec vector = {&byte, 1};
  EXPECT_EQ(StatusErrno(loop_->RunTask(loop_->Read(-1, 0, IoVecs(&vector, 1))).status()), EBADF);
  EXPECT_EQ(StatusErrno(loop_->RunTask(loop_->Write(-1, 0, IoVecs(&vector, 1)))), EBADF);
  EXPECT_EQ(StatusErrno(loop_->RunTask(loop_->SyncData(-1))), EBADF);
  EXPECT_EQ(StatusErrno(loop_->RunTask(loop_->Allocate(-1, 0, 0, 1))), EBADF);
}

TEST_P(EventLoopTest, SyncsAndAllocates) {
  EXPECT_TRUE(loop_->RunTask(loop_->Allocate(file_.get(), 0, 0, 8192)).ok());
  EXPECT_EQ(::lseek(file_.get(), 0, SEEK_END), 8192);
  EXPECT_TRUE(loop_->RunTask(loop_->SyncData(file_.get())).ok());
  EXPECT_TRUE(loop_->RunTask(loop_->SyncAll(file_.get())).ok());
}

TEST_P(EventLoopTest, PunchesHoles) {
  std::vector<uint8_t> out = Pattern(3 * 4096);
  const iovec src = {out.data(), out.size()};
  ASSERT_TRUE(Write(0, IoVecs(&src, 1)).ok());
  const absl::Status punched = loop_->RunTask(
      loop_->Allocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
  if (StatusErrno(punched) == EOPNOTSUPP) GTEST_SKIP() << "no holes in " << testing::TempDir();
  ASSERT_TRUE(punched.ok()) << punched;
  std::vector<uint8_t> in(out.size());
  const iovec dst = {in.data(), in.size()};
  EXPECT_EQ(*Read(0, IoVecs(&dst, 1)), in.size());
  std::fill(out.begin() + 4096, out.begin() + 8192, 0);
  EXPECT_EQ(in, out);
}

// --- Many at once ---

class Copier {
 public:
  Copier(EventLoop& loop, int fd, uint64_t offset, uint8_t seed)
      : loop_(loop), fd_(fd), offset_(offset), out_(512, seed), in_(512) {}
  Task<void> Run() {
    const iovec src = {out_.data(), out_.size()};
    const absl::Status written = co_await loop_.Write(fd_, offset_, IoVecs(&src, 1));
    const iovec dst = {in_.data(), in_.size()};
    const absl::StatusOr<size_t> read = co_await loop_.Read(fd_, offset_, IoVecs(&dst, 1));
    ok_ = written.ok() && read.ok() && *read == in_.size() && in_ == out_;
  }
  bool ok() const { return ok_; }

 private:
  EventLoop& loop_;
  const int fd_;
  const uint64_t offset_;
  std::vector<uint8_t> out_;
  std::vector<uint8_t> in_;
  bool ok_ = false;
};

TEST_P(EventLoopTest, MoreOperationsThanTheRingHasRoomFor) {
  EventLoop::Options options = GetParam().options;
  options.entries = 4;
  const std::unique_ptr<EventLoop> loop = *EventLoop::Create(options);
  std::vector<std::unique_ptr<Copier>> copiers;
  TaskScope scope(*loop);
  for (int i = 0; i < 300; ++i) {
    copiers.push_back(std::make_unique<Copier>(*loop, file_.get(), 512u * static_cast<unsigned>(i),
                                               static_cast<uint8_t>(i)));
    scope.Spawn(copiers.back()->Run());
  }
  loop->RunUntilIdle();
  EXPECT_EQ(scope.size(), 0u);
  EXPECT_TRUE(std::all_of(copiers.begin(), copiers.end(), [](const auto& c) { return c->ok(); }));
}

Task<void> StoreTransfer(EventLoop* loop, int fd, IoVecs dst, FileKind kind, StopToken stop,
                         bool* ended, absl::StatusOr<size_t>* result) {
  *result = co_await loop->Read(fd, 0, dst, stop, kind);
  *ended = true;
}

TEST_P(EventLoopTest, AFileInMemoryLetsOthersGoFirstAndCanBeStopped) {
  std::vector<uint8_t> in(4096);
  const iovec dst = {in.data(), in.size()};
  bool ended = false;
  absl::StatusOr<size_t> result = absl::UnknownError("");
  StopSource stop;
  TaskScope scope(*loop_);
  scope.Spawn(StoreTransfer(loop_.get(), file_.get(), IoVecs(&dst, 1), FileKind::kMemory,
                            stop.token(), &ended, &result));
  EXPECT_FALSE(ended);
  stop.RequestStop();
  loop_->RunUntilIdle();
  EXPECT_TRUE(ended);
  EXPECT_TRUE(absl::IsCancelled(result.status())) << result.status();
}

// --- Events, descriptors, time ---

Task<void> StoreWait(EventLoop* loop, const EventFd* event, StopToken stop,
                     absl::StatusOr<uint64_t>* result) {
  *result = co_await loop->Wait(*event, stop);
}

TEST_P(EventLoopTest, WaitConsumesTheCounter) {
  const EventFd event = *EventFd::Create();
  absl::StatusOr<uint64_t> result = absl::UnknownError("");
  TaskScope scope(*loop_);
  scope.Spawn(StoreWait(loop_.get(), &event, StopToken(), &result));
  loop_->RunUntilIdle();
  EXPECT_EQ(scope.size(), 1u);
  event.Signal();
  event.Signal();
  loop_->RunUntilIdle();
  EXPECT_EQ(*result, 2u);
  EXPECT_EQ(event.Drain(), 0u);
}

TEST_P(EventLoopTest, ASignalBeforeTheWaitIsNotLost) {
  const EventFd event = *EventFd::Create();
  event.Signal();
  EXPECT_EQ(*loop_->RunTask(loop_->Wait(event)), 1u);
}

TEST_P(EventLoopTest, ASignalFromAnotherThreadWakesTheLoop) {
  const EventFd event = *EventFd::Create();
  std::thread other([&event] { event.Signal(); });
  EXPECT_EQ(*loop_->RunTask(loop_->Wait(event)), 1u);
  other.join();
}

TEST_P(EventLoopTest, AStopEndsAWaitInFlightAndOneNotYetSubmitted) {
  const EventFd event = *EventFd::Create();
  absl::StatusOr<uint64_t> in_flight = uint64_t{0};
  absl::StatusOr<uint64_t> queued = uint64_t{0};
  absl::StatusOr<uint64_t> late = uint64_t{0};
  StopSource stop;
  TaskScope scope(*loop_);
  scope.Spawn(StoreWait(loop_.get(), &event, stop.token(), &in_flight));
  loop_->RunUntilIdle();
  scope.Spawn(StoreWait(loop_.get(), &event, stop.token(), &queued));
  stop.RequestStop();
  scope.Spawn(StoreWait(loop_.get(), &event, stop.token(), &late));
  loop_->RunTask(scope.Join());
  EXPECT_EQ(in_flight.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(queued.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kCancelled);
}

TEST_P(EventLoopTest, ASignalAndAStopAtOnceEndTheWaitEitherWay) {
  for (int i = 0; i < 100; ++i) {
    const EventFd event = *EventFd::Create();
    absl::StatusOr<uint64_t> result = absl::UnknownError("");
    StopSource stop;
    TaskScope scope(*loop_);
    scope.Spawn(StoreWait(loop_.get(), &event, stop.token(), &result));
    loop_->RunUntilIdle();
    event.Signal();
    stop.RequestStop();
    loop_->RunTask(scope.Join());
    // A signal that the wait did not take is still there.
    EXPECT_EQ(event.Drain(), result.ok() ? 0u : 1u);
  }
}

TEST_P(EventLoopTest, PollTellsWhatIsReady) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  EXPECT_EQ(*loop_->RunTask(loop_->Poll(writer.get(), POLLOUT)), static_cast<uint32_t>(POLLOUT));
  writer.Reset();
  EXPECT_NE(*loop_->RunTask(loop_->Poll(reader.get(), POLLIN)) & POLLHUP, 0u);
}

Task<void> SleepAndLog(EventLoop* loop, int milliseconds, std::vector<int>* log) {
  const absl::Status slept = co_await loop->SleepFor(absl::Milliseconds(milliseconds));
  if (slept.ok()) log->push_back(milliseconds);
}

TEST_P(EventLoopTest, SleepersWakeInOrder) {
  std::vector<int> log;
  TaskScope scope(*loop_);
  scope.Spawn(SleepAndLog(loop_.get(), 60, &log));
  scope.Spawn(SleepAndLog(loop_.get(), 0, &log));
  scope.Spawn(SleepAndLog(loop_.get(), 20, &log));
  loop_->RunTask(scope.Join());
  EXPECT_EQ(log, (std::vector<int>{0, 20, 60}));
}

Task<void> StoreSleep(EventLoop* loop, absl::Duration duration, StopToken stop,
                      absl::Status* result) {
  *result = co_await loop->SleepFor(duration, stop);
}

TEST_P(EventLoopTest, AStopEndsASleep) {
  absl::Status result;
  TaskScope scope(*loop_);
  scope.Spawn(StoreSleep(loop_.get(), absl::InfiniteDuration(), scope.stop_token(), &result));
  loop_->RunUntilIdle();
  scope.RequestStop();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(result.code(), absl::StatusCode::kCancelled);
}

TEST_P(EventLoopTest, AnIdleLoopSleeps) {
  timespec before;
  timespec after;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  EXPECT_TRUE(loop_->RunTask(loop_->SleepFor(absl::Milliseconds(500))).ok());
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  const absl::Duration used =
      absl::DurationFromTimespec(after) - absl::DurationFromTimespec(before);
  // Polling would use all of it, however slow the machine is.
  EXPECT_LT(used, absl::Milliseconds(250));
}

// --- Streams ---

Task<void> StoreReadSome(EventLoop* loop, int fd, IoVecs dst, StopToken stop,
                         absl::StatusOr<size_t>* result) {
  *result = co_await loop->ReadSome(fd, dst, stop);
}

class StreamTest : public EventLoopTest {
 protected:
  void OpenPipe(int flags) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC | flags), 0);
    reader_ = UniqueFd(ends[0]);
    writer_ = UniqueFd(ends[1]);
  }
  void ReadWhatComesLater() {
    TaskScope scope(*loop_);
    std::vector<uint8_t> in(10);
    const iovec dst = {in.data(), in.size()};
    absl::StatusOr<size_t> result = absl::UnknownError("");
    scope.Spawn(StoreReadSome(loop_.get(), reader_.get(), IoVecs(&dst, 1), StopToken(), &result));
    loop_->RunUntilIdle();
    EXPECT_EQ(scope.size(), 1u);
    ASSERT_EQ(::write(writer_.get(), "abc", 3), 3);
    loop_->RunTask(scope.Join());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, 3u);
    EXPECT_EQ(in[2], 'c');
    writer_.Reset();
    EXPECT_EQ(*loop_->RunTask(loop_->ReadSome(reader_.get(), IoVecs(&dst, 1))), 0u);
  }

  UniqueFd reader_;
  UniqueFd writer_;
};

TEST_P(StreamTest, ReadSomeWaitsForBytesOnANonblockingPipe) {
  OpenPipe(O_NONBLOCK);
  ReadWhatComesLater();
}

TEST_P(StreamTest, ReadSomeWaitsForBytesOnABlockingPipe) {
  OpenPipe(0);
  ReadWhatComesLater();
}

TEST_P(StreamTest, AStopEndsAReadAndLosesNothing) {
  OpenPipe(O_NONBLOCK);
  TaskScope scope(*loop_);
  uint8_t byte = 0;
  const iovec dst = {&byte, 1};
  absl::StatusOr<size_t> result = absl::UnknownError("");
  scope.Spawn(
      StoreReadSome(loop_.get(), reader_.get(), IoVecs(&dst, 1), scope.stop_token(), &result));
  loop_->RunUntilIdle();
  scope.RequestStop();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  ASSERT_EQ(::write(writer_.get(), "x", 1), 1);
  EXPECT_EQ(*loop_->RunTask(loop_->ReadSome(reader_.get(), IoVecs(&dst, 1))), 1u);
  EXPECT_EQ(byte, 'x');
}

Task<void> WriteAll(EventLoop* loop, int fd, std::vector<uint8_t>* bytes, absl::Status* result) {
  size_t done = 0;
  while (done < bytes->size()) {
    const iovec rest = {bytes->data() + done, bytes->size() - done};
    const absl::StatusOr<size_t> put = co_await loop->WriteSome(fd, IoVecs(&rest, 1));
    if (!put.ok()) {
      *result = put.status();
      co_return;
    }
    done += *put;
  }
  *result = absl::OkStatus();
}

Task<void> ReadAll(EventLoop* loop, int fd, size_t size, std::vector<uint8_t>* bytes) {
  while (bytes->size() < size) {
    std::vector<uint8_t> chunk(5000);
    const iovec dst = {chunk.data(), chunk.size()};
    const absl::StatusOr<size_t> got = co_await loop->ReadSome(fd, IoVecs(&dst, 1));
    if (!got.ok() || *got == 0) co_return;
    bytes->insert(bytes->end(), chunk.begin(), chunk.begin() + static_cast<ptrdiff_t>(*got));
  }
}

TEST_P(StreamTest, AFullPipeIsWaitedFor) {
  OpenPipe(O_NONBLOCK);
  std::vector<uint8_t> out = Pattern(1 << 20);
  std::vector<uint8_t> in;
  absl::Status written = absl::UnknownError("");
  TaskScope scope(*loop_);
  scope.Spawn(WriteAll(loop_.get(), writer_.get(), &out, &written));
  scope.Spawn(ReadAll(loop_.get(), reader_.get(), out.size(), &in));
  loop_->RunTask(scope.Join());
  EXPECT_TRUE(written.ok()) << written;
  EXPECT_TRUE(in == out);
}

TEST_P(StreamTest, ABrokenPipeIsAnError) {
  ::signal(SIGPIPE, SIG_IGN);
  OpenPipe(O_NONBLOCK);
  reader_.Reset();
  uint8_t byte = 0;
  const iovec src = {&byte, 1};
  EXPECT_EQ(StatusErrno(loop_->RunTask(loop_->WriteSome(writer_.get(), IoVecs(&src, 1))).status()),
            EPIPE);
}

Task<void> StoreRead(EventLoop* loop, int fd, IoVecs dst, StopToken stop,
                     absl::StatusOr<size_t>* result) {
  *result = co_await loop->Read(fd, 0, dst, stop);
}

// A pipe gives short reads, whatever the offset; only through a ring: pread(2) takes no pipes.
class PipeTest : public EventLoopTest {};

TEST_P(PipeTest, AShortReadIsResumed) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  std::vector<uint8_t> in(9);
  const std::vector<iovec> dst = Split(in, 4);
  absl::StatusOr<size_t> result = absl::UnknownError("");
  TaskScope scope(*loop_);
  scope.Spawn(StoreRead(loop_.get(), reader.get(), dst, StopToken(), &result));
  std::thread sender([&writer] {
    EXPECT_EQ(::write(writer.get(), "abcdef", 6), 6);
    EXPECT_EQ(::write(writer.get(), "ghi", 3), 3);
  });
  loop_->RunTask(scope.Join());
  sender.join();
  EXPECT_EQ(*result, 9u);
  EXPECT_EQ(std::string(in.begin(), in.end()), "abcdefghi");
}

TEST_P(PipeTest, AStopCancelsAReadThatTheKernelHolds) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  uint8_t byte = 0;
  const iovec dst = {&byte, 1};
  absl::StatusOr<size_t> result = absl::UnknownError("");
  TaskScope scope(*loop_);
  scope.Spawn(StoreRead(loop_.get(), reader.get(), IoVecs(&dst, 1), scope.stop_token(), &result));
  // It is submitted by now.
  EXPECT_TRUE(loop_->RunTask(loop_->SleepFor(absl::ZeroDuration())).ok());
  scope.RequestStop();
  loop_->RunTask(scope.Join());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
}

// --- Threads ---

TEST_P(EventLoopTest, PostsRunInOrderOnTheLoop) {
  std::vector<int> log;
  std::thread::id ran_on;
  std::thread runner([this] { loop_->Run(); });
  for (int i = 0; i < 1000; ++i) {
    loop_->Post([&log, &ran_on, i] {
      log.push_back(i);
      ran_on = std::this_thread::get_id();
    });
  }
  loop_->Post([this] { loop_->Stop(); });
  const std::thread::id runner_id = runner.get_id();
  runner.join();
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(log, expected);
  EXPECT_EQ(ran_on, runner_id);
}

TEST_P(EventLoopTest, PostsFromManyThreadsAllArrive) {
  std::atomic<int> ran = 0;
  std::thread runner([this] { loop_->Run(); });
  std::vector<std::thread> posters;
  for (int t = 0; t < 4; ++t) {
    posters.emplace_back([this, &ran] {
      for (int i = 0; i < 5000; ++i) loop_->Post([&ran] { ++ran; });
    });
  }
  for (std::thread& poster : posters) poster.join();
  loop_->Post([this] { loop_->Stop(); });
  runner.join();
  EXPECT_EQ(ran, 20000);
}

TEST_P(EventLoopTest, APostMayPost) {
  std::vector<int> log;
  loop_->Post([this, &log] {
    log.push_back(1);
    loop_->Post([&log] { log.push_back(3); });
    log.push_back(2);
  });
  loop_->RunUntilIdle();
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3}));
}

Task<absl::StatusOr<int>> Divide(EventLoop* loop, int a, int b) {
  CO_RETURN_IF_ERROR(co_await loop->SleepFor(absl::Milliseconds(1)));
  if (b == 0) co_return absl::InvalidArgumentError("by zero");
  co_return a / b;
}
Task<void> SetTrue(EventLoop* loop, bool* done) {
  co_await loop->Yield();
  *done = true;
}

TEST_P(EventLoopTest, RunOnAnswersFromAnotherThread) {
  std::thread runner([this] { loop_->Run(); });
  EventLoop* const loop = loop_.get();
  EXPECT_EQ(*loop_->RunOn([loop] { return Divide(loop, 42, 6); }), 7);
  EXPECT_EQ(loop_->RunOn([loop] { return Divide(loop, 42, 0); }).status(),
            absl::InvalidArgumentError("by zero"));
  bool done = false;
  loop_->RunOn([loop, &done] { return SetTrue(loop, &done); });
  EXPECT_TRUE(done);
  EXPECT_FALSE(loop_->IsCurrent());
  loop_->Stop();
  runner.join();
  EXPECT_TRUE(loop_->IsCurrent());
}

TEST_P(EventLoopTest, AStopBeforeTheRunEndsItAtOnce) {
  loop_->Stop();
  loop_->Run();
  bool ran = false;
  loop_->Post([this, &ran] {
    ran = true;
    loop_->Stop();
  });
  loop_->Run();
  EXPECT_TRUE(ran);
}

TEST_P(EventLoopTest, ALoopWithNothingInFlightMayMoveToAnotherThread) {
  EXPECT_TRUE(loop_->RunTask(loop_->SleepFor(absl::ZeroDuration())).ok());
  std::thread other(
      [this] { EXPECT_TRUE(loop_->RunTask(loop_->SleepFor(absl::ZeroDuration())).ok()); });
  other.join();
  EXPECT_TRUE(loop_->RunTask(loop_->SleepFor(absl::ZeroDuration())).ok());
}

Task<void> Observe(EventLoop* loop, bool* current, EventLoop** found) {
  co_await loop->Yield();
  *current = loop->IsCurrent();
  *found = EventLoop::Current();
}

TEST_P(EventLoopTest, KnowsTheLoopThatACoroutineRunsOn) {
  bool current = false;
  EventLoop* found = nullptr;
  loop_->RunTask(Observe(loop_.get(), &current, &found));
  EXPECT_TRUE(current);
  EXPECT_EQ(found, loop_.get());
  EXPECT_EQ(EventLoop::Current(), nullptr);
}

// --- Our own mistakes ---

TEST_P(EventLoopTest, DyingWithAnOperationInFlightIsOurBug) {
  const EventFd event = *EventFd::Create();
  EXPECT_DEATH(
      {
        const std::unique_ptr<EventLoop> loop = *EventLoop::Create(GetParam().options);
        absl::StatusOr<uint64_t> result = absl::UnknownError("");
        auto* const scope = new TaskScope(*loop);
        scope->Spawn(StoreWait(loop.get(), &event, StopToken(), &result));
      },
      "stopped and joined before the loop dies");
}

const Setup kRings[] = {
    {"Newest", {}},
    {"Plain", {.force_plain_ring = true}},
};
const Setup kSetups[] = {
    kRings[0],
    kRings[1],
    {"BlockingFiles", {.offload_threads = 2, .force_blocking_files = true}},
    {"MemoryFiles", {}, FileKind::kMemory},
};

std::string NameOf(const testing::TestParamInfo<Setup>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Rings, EventLoopTest, testing::ValuesIn(kSetups), NameOf);
INSTANTIATE_TEST_SUITE_P(Rings, StreamTest, testing::ValuesIn(kSetups), NameOf);
INSTANTIATE_TEST_SUITE_P(Rings, PipeTest, testing::ValuesIn(kRings), NameOf);

}  // namespace
}  // namespace vireo
