#include "base/async/ring.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace vireo::async_internal {
namespace {

static_assert(sizeof(Timespec) == sizeof(__kernel_timespec));

// Not in every <linux/io_uring.h>.
constexpr unsigned kRDisabled = 1U << 6;         // Linux 5.10
constexpr unsigned kSubmitAll = 1U << 7;         // 5.18
constexpr unsigned kCoopTaskrun = 1U << 8;       // 5.19
constexpr unsigned kTaskrunFlag = 1U << 9;       // 5.19
constexpr unsigned kSingleIssuer = 1U << 12;     // 6.0
constexpr unsigned kDeferTaskrun = 1U << 13;     // 6.1
constexpr unsigned kFeatureNoIoWait = 1U << 17;  // 6.15
constexpr unsigned kEnterNoIoWait = 1U << 7;     // 6.15

constexpr unsigned kSized = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
// Best first. EINVAL means: too new for this kernel.
constexpr std::array<unsigned, 4> kSetups = {
    kSized | kSubmitAll | kSingleIssuer | kDeferTaskrun | kTaskrunFlag | kRDisabled,
    kSized | kSubmitAll | kCoopTaskrun | kTaskrunFlag,
    kSized,
    0,
};
// Long-lived polls and a burst of requests wait in the completion queue side by side.
constexpr unsigned kCompletionsPerEntry = 4;

uint8_t Opcode(RingOp op) {
  switch (op) {
    case RingOp::kRead:
      return IORING_OP_READ;
    case RingOp::kReadv:
      return IORING_OP_READV;
    case RingOp::kWrite:
      return IORING_OP_WRITE;
    case RingOp::kWritev:
      return IORING_OP_WRITEV;
    case RingOp::kFsync:
      return IORING_OP_FSYNC;
    case RingOp::kFallocate:
      return IORING_OP_FALLOCATE;
    case RingOp::kPoll:
      return IORING_OP_POLL_ADD;
    case RingOp::kTimeout:
      return IORING_OP_TIMEOUT;
    case RingOp::kCancel:
      return IORING_OP_ASYNC_CANCEL;
  }
  CheckFailed(__FILE__, __LINE__, "RingOp", "every operation has an opcode");
}

constexpr uint64_t Bit(RingOp op) { return uint64_t{1} << static_cast<int>(op); }

constexpr RingOp kAllOps[] = {RingOp::kRead,   RingOp::kReadv,   RingOp::kWrite,
                              RingOp::kWritev, RingOp::kFsync,   RingOp::kFallocate,
                              RingOp::kPoll,   RingOp::kTimeout, RingOp::kCancel};
constexpr uint64_t kFileOps = Bit(RingOp::kRead) | Bit(RingOp::kReadv) | Bit(RingOp::kWrite) |
                              Bit(RingOp::kWritev) | Bit(RingOp::kFsync) | Bit(RingOp::kFallocate);
constexpr uint64_t kNeededOps = Bit(RingOp::kPoll) | Bit(RingOp::kTimeout) | Bit(RingOp::kCancel);

// The value of /proc/sys/kernel/io_uring_disabled (Linux 6.6), 0 where there is none.
int DisabledBySysctl() {
  const UniqueFd fd(::open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC));
  char text[16] = {};
  if (!fd.valid() || ::read(fd.get(), text, sizeof(text) - 1) <= 0) return 0;
  return std::atoi(text);
}

// What was not taken stays prepared and is handed over next time. EBUSY: completions wait to be
// reaped; EAGAIN: the kernel is short of memory for the moment; EINTR: a signal.
void CheckEntered(int result) {
  VIREO_CHECK(result >= 0 || result == -EINTR || result == -EBUSY || result == -EAGAIN,
              std::strerror(-result));
}

}  // namespace

absl::Status RingSetupError(int error, int disabled) {
  switch (error) {
    case ENOSYS:
      return absl::FailedPreconditionError(
          "io_uring: this kernel has none (CONFIG_IO_URING, Linux 5.6 or later)");
    case EPERM:
      if (disabled != 0) {
        return absl::FailedPreconditionError(absl::StrFormat(
            "io_uring is disabled by the sysctl kernel.io_uring_disabled=%d; allow it with: "
            "sysctl -w kernel.io_uring_disabled=0",
            disabled));
      }
      return absl::FailedPreconditionError(
          "io_uring_setup: not permitted (a seccomp filter or a security module forbids io_uring)");
    case ENOMEM:
      return absl::ResourceExhaustedError(
          "io_uring_setup: no memory, or the limit of locked memory (ulimit -l) is too low");
    default:
      return ErrnoStatus(error, "io_uring_setup");
  }
}

Ring::Ring() : ring_(std::make_unique<io_uring>()) {}

Ring::~Ring() {
  if (initialised_) ::io_uring_queue_exit(ring_.get());
}

absl::StatusOr<std::unique_ptr<Ring>> Ring::Create(const Options& options) {
  std::unique_ptr<Ring> ring(new Ring);
  RETURN_IF_ERROR(ring->Setup(options));
  ring->Probe(options);
  if ((ring->supported_ & kNeededOps) != kNeededOps) {
    return absl::FailedPreconditionError(
        "io_uring: this kernel's lacks polls, timeouts or cancellation (Linux 5.6 or later has "
        "them)");
  }
  return ring;
}

absl::Status Ring::Setup(const Options& options) {
  int result = -EINVAL;
  for (const unsigned flags : kSetups) {
    if (options.force_plain && flags != 0) continue;
    io_uring_params params = {};
    params.flags = flags;
    params.cq_entries = options.entries * kCompletionsPerEntry;
    result = ::io_uring_queue_init_params(options.entries, ring_.get(), &params);
    if (result == -EINVAL) continue;
    if (result < 0) return RingSetupError(-result, DisabledBySysctl());
    initialised_ = true;
    disabled_ = (flags & kRDisabled) != 0;
    deferred_ = (flags & kDeferTaskrun) != 0;
    lossy_ = options.force_plain || (params.features & IORING_FEAT_NODROP) == 0;
    knows_no_iowait_ = !options.force_plain && (params.features & kFeatureNoIoWait) != 0;
    return absl::OkStatus();
  }
  return RingSetupError(-result, DisabledBySysctl());
}

void Ring::Probe(const Options& options) {
  io_uring_probe* const probe = ::io_uring_get_probe_ring(ring_.get());
  for (const RingOp op : kAllOps) {
    if (probe != nullptr && ::io_uring_opcode_supported(probe, Opcode(op))) supported_ |= Bit(op);
  }
  ::io_uring_free_probe(probe);
  if (options.force_blocking_files) supported_ &= ~kFileOps;
}

void Ring::Enable() {
  if (!std::exchange(disabled_, false)) return;
  // Debian's liburing 2.3 declares io_uring_enable_rings() and does not export it.
  const long result =
      ::syscall(SYS_io_uring_register, ring_->ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  VIREO_CHECK(result >= 0, "a ring is enabled once");
}

bool Ring::Supports(RingOp op) const { return (supported_ & Bit(op)) != 0; }

bool Ring::TryPrepare(const RingRequest& request, uint64_t user_data) {
  if (lossy_ && outstanding_ >= ring_->cq.ring_entries) return false;
  io_uring_sqe* const sqe = ::io_uring_get_sqe(ring_.get());
  if (sqe == nullptr) return false;
  ::io_uring_prep_rw(Opcode(request.op), sqe, request.fd, reinterpret_cast<void*>(request.address),
                     request.length, request.offset);
  if (request.op == RingOp::kPoll) {
    // Kernels without IORING_FEAT_POLL_32BITS read the low half, where POLLIN and the like are.
    sqe->poll32_events = request.flags;
  } else if (request.op == RingOp::kFsync) {
    sqe->fsync_flags = request.flags != 0 ? IORING_FSYNC_DATASYNC : 0;
  } else if (request.op == RingOp::kTimeout) {
    sqe->len = 1;
  }
  ::io_uring_sqe_set_data64(sqe, user_data);
  ++outstanding_;
  return true;
}

void Ring::Submit(Sleep sleep) {
  if (sleep == Sleep::kNo) {
    HandOver();
    return;
  }
  // From 6.5 on Linux counts a thread that sleeps here as waiting for I/O when any of its requests
  // is in flight, also one for an event that may never come.
  if (sleep == Sleep::kForFiles || !knows_no_iowait_) {
    CheckEntered(::io_uring_submit_and_wait(ring_.get(), 1));
    return;
  }
  HandOver();
  if (::io_uring_sq_ready(ring_.get()) > 0 || ::io_uring_cq_ready(ring_.get()) > 0) return;
  // liburing 2.3 has no call for it.
  const long result = ::syscall(SYS_io_uring_enter, ring_->ring_fd, 0, 1,
                                IORING_ENTER_GETEVENTS | kEnterNoIoWait, nullptr, 0);
  CheckEntered(result < 0 ? -errno : 0);
}

void Ring::HandOver() {
  if (::io_uring_sq_ready(ring_.get()) > 0) CheckEntered(::io_uring_submit(ring_.get()));
}

size_t Ring::Reap(std::span<Completion> out) {
  // Deferred completions and those that overflowed into the kernel's list happen when we ask for
  // them; io_uring_peek_batch_cqe() does so when the ring's flags tell of any.
  std::array<io_uring_cqe*, 64> cqes;
  const unsigned wanted = static_cast<unsigned>(std::min(out.size(), cqes.size()));
  const unsigned got = ::io_uring_peek_batch_cqe(ring_.get(), cqes.data(), wanted);
  for (unsigned i = 0; i < got; ++i) out[i] = {cqes[i]->user_data, cqes[i]->res};
  ::io_uring_cq_advance(ring_.get(), got);
  outstanding_ -= got;
  return got;
}

}  // namespace vireo::async_internal
