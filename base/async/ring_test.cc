#include "base/async/ring.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "gtest/gtest.h"

namespace vireo::async_internal {
namespace {

class RingTest : public testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<Ring> Make(unsigned entries) {
    absl::StatusOr<std::unique_ptr<Ring>> ring =
        Ring::Create({.entries = entries, .force_plain = GetParam()});
    EXPECT_TRUE(ring.ok()) << ring.status();
    (*ring)->Enable();
    return *std::move(ring);
  }
};

TEST_P(RingTest, SupportsWhatThisKernelHas) {
  const std::unique_ptr<Ring> ring = Make(8);
  EXPECT_TRUE(ring->Supports(RingOp::kPoll));
  EXPECT_TRUE(ring->Supports(RingOp::kTimeout));
  EXPECT_TRUE(ring->Supports(RingOp::kCancel));
}

TEST_P(RingTest, CompletesAPollOnce) {
  const std::unique_ptr<Ring> ring = Make(8);
  const absl::StatusOr<EventFd> event = EventFd::Create();
  ASSERT_TRUE(ring->TryPrepare({.op = RingOp::kPoll, .fd = event->fd(), .flags = POLLIN}, 77));
  ring->Submit(Ring::Sleep::kNo);
  std::array<Ring::Completion, 4> completions;
  EXPECT_EQ(ring->Reap(completions), 0u);
  event->Signal();
  ring->Submit(Ring::Sleep::kForFiles);
  ASSERT_EQ(ring->Reap(completions), 1u);
  EXPECT_EQ(completions[0].user_data, 77u);
  EXPECT_EQ(completions[0].result, POLLIN);
  EXPECT_EQ(ring->Reap(completions), 0u);
}

TEST_P(RingTest, BothSleepsEndWithACompletion) {
  const std::unique_ptr<Ring> ring = Make(8);
  const absl::StatusOr<EventFd> event = EventFd::Create();
  std::array<Ring::Completion, 4> completions;
  for (const Ring::Sleep sleep : {Ring::Sleep::kForFiles, Ring::Sleep::kForEvents}) {
    SCOPED_TRACE(static_cast<int>(sleep));
    // It happens while the ring sleeps, or just before.
    ASSERT_TRUE(ring->TryPrepare({.op = RingOp::kPoll, .fd = event->fd(), .flags = POLLIN}, 1));
    std::thread other([&event] { event->Signal(); });
    size_t got = 0;
    while (got == 0) {
      ring->Submit(sleep);
      got = ring->Reap(completions);
    }
    EXPECT_EQ(got, 1u);
    EXPECT_EQ(completions[0].user_data, 1u);
    other.join();
    // What ended with the submission, or long before the sleep, ends the sleep at once.
    ASSERT_TRUE(ring->TryPrepare({.op = RingOp::kPoll, .fd = event->fd(), .flags = POLLIN}, 2));
    ring->Submit(sleep);
    EXPECT_EQ(ring->Reap(completions), 1u);
    ASSERT_TRUE(ring->TryPrepare({.op = RingOp::kPoll, .fd = event->fd(), .flags = POLLIN}, 3));
    ring->Submit(Ring::Sleep::kNo);
    ring->Submit(sleep);
    EXPECT_EQ(ring->Reap(completions), 1u);
    event->Drain();
  }
}

// Threads that wait for I/O, of the whole host.
int ThreadsInIoWait() {
  std::ifstream stat("/proc/stat");
  for (std::string word; stat >> word;) {
    int count = 0;
    if (word == "procs_blocked" && stat >> count) return count;
  }
  return -1;
}

bool Sleeps(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  const std::string line((std::istreambuf_iterator<char>(stat)), {});
  const size_t name_end = line.rfind(") ");
  return name_end != std::string::npos && line[name_end + 2] == 'S';
}

TEST(RingSleepTest, WaitingForEventsIsNoIoWait) {
  absl::StatusOr<std::unique_ptr<Ring>> ring = Ring::Create({});
  ASSERT_TRUE(ring.ok()) << ring.status();
  if (!(*ring)->IdlesForEvents()) GTEST_SKIP() << "Linux can do so from 6.15 on";
  const absl::StatusOr<EventFd> event = EventFd::Create();
  std::atomic<pid_t> thread = 0;
  std::thread sleeper([&] {
    (*ring)->Enable();
    thread = static_cast<pid_t>(::syscall(SYS_gettid));
    ASSERT_TRUE((*ring)->TryPrepare({.op = RingOp::kPoll, .fd = event->fd(), .flags = POLLIN}, 1));
    std::array<Ring::Completion, 4> completions;
    do {
      (*ring)->Submit(Ring::Sleep::kForEvents);
    } while ((*ring)->Reap(completions) == 0);
  });
  // Others on this host come and go; once it sleeps, the sleeper would be among them all the time.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  int waiting = -1;
  // More than once: it is about to sleep for a moment before it does.
  for (int seen = 0; seen < 5 && std::chrono::steady_clock::now() < deadline;) {
    waiting = thread != 0 && Sleeps(thread) ? ThreadsInIoWait() : -1;
    seen = waiting == 0 ? seen + 1 : 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(waiting, 0);
  event->Signal();
  sleeper.join();
}

TEST_P(RingTest, ASleepForEventsEndsWithATimeout) {
  const std::unique_ptr<Ring> ring = Make(8);
  Timespec soon = {.seconds = 0, .nanoseconds = 1'000'000};
  ASSERT_TRUE(
      ring->TryPrepare({.op = RingOp::kTimeout, .address = reinterpret_cast<uintptr_t>(&soon)}, 5));
  std::array<Ring::Completion, 4> completions;
  size_t got = 0;
  while (got == 0) {
    ring->Submit(Ring::Sleep::kForEvents);
    got = ring->Reap(completions);
  }
  EXPECT_EQ(completions[0].result, -ETIME);
}

TEST_P(RingTest, SaysWhenTheSubmissionQueueIsFull) {
  const std::unique_ptr<Ring> ring = Make(4);
  Timespec now = {};
  const RingRequest request = {.op = RingOp::kTimeout,
                               .address = reinterpret_cast<uintptr_t>(&now)};
  int prepared = 0;
  while (ring->TryPrepare(request, 100)) ++prepared;
  EXPECT_EQ(prepared, 4);
  ring->Submit(Ring::Sleep::kNo);
  EXPECT_TRUE(ring->TryPrepare(request, 100));
}

TEST_P(RingTest, NoCompletionIsLostWhenTheQueueOverflows) {
  const std::unique_ptr<Ring> ring = Make(4);
  Timespec now = {};
  const RingRequest request = {.op = RingOp::kTimeout,
                               .address = reinterpret_cast<uintptr_t>(&now)};
  constexpr uint64_t kCount = 500;
  std::set<uint64_t> seen;
  const auto collect = [&ring, &seen] {
    std::array<Ring::Completion, 64> completions;
    const size_t got = ring->Reap(completions);
    for (size_t i = 0; i < got; ++i) seen.insert(completions[i].user_data);
  };
  uint64_t next = 0;
  while (next < kCount) {
    while (next < kCount && ring->TryPrepare(request, next)) ++next;
    ring->Submit(Ring::Sleep::kNo);
    // Nothing is collected before the ring takes no more.
    if (next < kCount && ring->TryPrepare(request, next)) {
      ++next;
    } else {
      collect();
    }
  }
  while (seen.size() < kCount) {
    ring->Submit(Ring::Sleep::kForFiles);
    collect();
  }
  EXPECT_EQ(seen.size(), kCount);
}

INSTANTIATE_TEST_SUITE_P(Setups, RingTest, testing::Values(false, true),
                         [](const testing::TestParamInfo<bool>& info) {
                           return info.param ? "Plain" : "Newest";
                         });

// Ends the process: 0 when Ring::Create() fails with a message that holds `words`.
void CreateWithoutPermission(int error, const char* words) {
  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = static_cast<unsigned short>(filter.size()),
                              .filter = filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::_Exit(2);
  }
  const absl::Status status = Ring::Create({}).status();
  std::cerr << status << std::endl;
  const bool found = std::string(status.message()).find(words) != std::string::npos;
  std::_Exit(status.code() == absl::StatusCode::kFailedPrecondition && found ? 0 : 1);
}

TEST(RingSetupErrorTest, NamesTheSysctlThatForbidsIt) {
  const absl::Status status = RingSetupError(EPERM, 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("kernel.io_uring_disabled=2"), std::string::npos);
}

TEST(RingSetupErrorTest, NoMemoryIsResourceExhausted) {
  EXPECT_EQ(RingSetupError(ENOMEM, 0).code(), absl::StatusCode::kResourceExhausted);
}

TEST(RingDeathTest, ARefusedRingIsExplained) {
  EXPECT_EXIT(CreateWithoutPermission(EPERM, "not permitted"), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(CreateWithoutPermission(ENOSYS, "this kernel has none"), testing::ExitedWithCode(0),
              "");
}

}  // namespace
}  // namespace vireo::async_internal
