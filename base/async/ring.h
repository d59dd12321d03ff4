// One io_uring: the only place that knows liburing. Private to base/async; used by one thread at a
// time. Newer setup flags are tried first and left away where the kernel refuses them.

#ifndef VIREO_BASE_ASYNC_RING_H_
#define VIREO_BASE_ASYNC_RING_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"

struct io_uring;

namespace vireo::async_internal {

enum class RingOp : uint8_t {
  kRead,       // `address`, `length`: one buffer
  kReadv,      // `address`: iovecs, `length`: how many
  kWrite,      // as kRead
  kWritev,     // as kReadv
  kFsync,      // `flags`: 1 for data only
  kFallocate,  // `offset`, `address`: length in bytes, `length`: mode
  kPoll,       // `flags`: POLLIN, ...; the result is what happened
  kTimeout,    // `address`: a Timespec; the result is -ETIME
  kCancel,     // `address`: the user_data of what is to be cancelled
};

struct RingRequest {
  RingOp op = RingOp::kPoll;
  int fd = -1;
  uint64_t offset = 0;
  uint64_t address = 0;
  uint32_t length = 0;
  uint32_t flags = 0;
};

// The kernel's struct __kernel_timespec.
struct Timespec {
  int64_t seconds;
  int64_t nanoseconds;
};

// Why io_uring_setup(2) may have failed with `error`; `disabled` is the value of the sysctl
// kernel.io_uring_disabled, 0 if there is none. FAILED_PRECONDITION, or RESOURCE_EXHAUSTED for
// memory.
absl::Status RingSetupError(int error, int disabled);

class Ring {
 public:
  struct Options {
    unsigned entries = 256;
    bool force_plain = false;           // Without any setup flag or newer feature.
    bool force_blocking_files = false;  // As if the kernel had no file operations.
  };
  struct Completion {
    uint64_t user_data;
    int32_t result;
  };
  // How Submit() sleeps, until a completion is there or a signal came.
  enum class Sleep : uint8_t {
    kNo,
    // The host counts it as waiting for I/O: in /proc/stat, and as pressure on I/O.
    kForFiles,
    // The host counts it as idle, from Linux 6.15 on. There it is a system call of its own.
    kForEvents,
  };

  // FAILED_PRECONDITION, naming the sysctl, when io_uring is disabled or the kernel lacks what we
  // need; RESOURCE_EXHAUSTED for memory or locked memory.
  static absl::StatusOr<std::unique_ptr<Ring>> Create(const Options& options);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Binds the ring to the calling thread; once, before anything else.
  void Enable();
  bool Supports(RingOp op) const;
  // Whether the host counts Sleep::kForEvents as idle.
  bool IdlesForEvents() const { return knows_no_iowait_; }
  // False when the submission queue is full (Submit, then retry) or completions could be lost (reap
  // first).
  bool TryPrepare(const RingRequest& request, uint64_t user_data);
  // Hands over what was prepared, then sleeps as told.
  void Submit(Sleep sleep);
  // Up to `out.size()` completions, oldest first. Never sleeps.
  size_t Reap(std::span<Completion> out);

 private:
  Ring();
  absl::Status Setup(const Options& options);
  void Probe(const Options& options);
  void HandOver();

  std::unique_ptr<io_uring> ring_;
  bool initialised_ = false;
  bool disabled_ = false;  // IORING_SETUP_R_DISABLED was used and Enable() not yet called.
  bool deferred_ = false;  // IORING_SETUP_DEFER_TASKRUN: completions happen inside our calls only.
  bool lossy_ =
      false;  // No IORING_FEAT_NODROP: never more in flight than the completion queue holds.
  bool knows_no_iowait_ = false;  // IORING_FEAT_NO_IOWAIT.
  uint64_t supported_ = 0;        // By RingOp.
  uint64_t outstanding_ = 0;      // Prepared and not yet reaped.
};

}  // namespace vireo::async_internal

#endif  // VIREO_BASE_ASYNC_RING_H_
