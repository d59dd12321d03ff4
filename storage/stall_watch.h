// A disk that is watched: whether its host still answers. A server that hangs fails no request, and
// one that was given to it cannot be taken back: it may still write to the guest's memory.
//
// Looks at the oldest request now and then while there is one; a disk without requests costs
// nothing. Owned by one loop.

#ifndef VIREO_STORAGE_STALL_WATCH_H_
#define VIREO_STORAGE_STALL_WATCH_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "base/async/event_loop.h"
#include "base/async/task_scope.h"
#include "storage/block_backend.h"

namespace vireo {

// The oldest request that has no answer.
struct Stall {
  bool write = false;   // Whatever is not a read.
  uint64_t offset = 0;  // Bytes; 0 for a flush.
};

class StallWatch final : public BlockBackend {
 public:
  struct Options {
    absl::Duration limit = absl::Seconds(30);  // At least 1 ms.
    // Called on the loop, neither may block: when a request has waited for `limit` to 1.25 times
    // that, once until...
    std::function<void(const Stall&)> on_stall;
    // ...no request waits so long any more.
    std::function<void()> on_answer;
  };

  // `loop` outlives the backend, and what the functions refer to does as well.
  StallWatch(EventLoop& loop, std::unique_ptr<BlockBackend> disk, Options options);
  ~StallWatch() override;

  const Geometry& geometry() const override { return disk_->geometry(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override;
  Task<absl::Status> WriteCompressed(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Flush() override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override;
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override {
    return disk_->Status(offset, length);
  }
  Task<absl::Status> Resize(uint64_t size_bytes) override { return disk_->Resize(size_bytes); }
  void SetHurry(bool hurry) override { disk_->SetHurry(hurry); }
  Task<absl::Status> Close() override;

  // A timer runs. With no request for a quarter of the limit it ends.
  bool watching() const { return watching_; }

 private:
  // Lives in the frame of the request; they are linked oldest first.
  class Request {
   public:
    Request(StallWatch& watch, Stall what);
    ~Request();
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;

   private:
    friend class StallWatch;

    StallWatch& watch_;
    const Stall what_;
    const uint64_t begun_;  // The round it began in.
    Request* previous_ = nullptr;
    Request* next_ = nullptr;
  };

  Task<void> Watch();
  bool OldestWaitsTooLong() const;

  EventLoop& loop_;
  const std::unique_ptr<BlockBackend> disk_;
  const Options options_;
  TaskScope scope_;
  Request* oldest_ = nullptr;
  Request* newest_ = nullptr;
  uint64_t round_ = 0;  // Of Watch(), a quarter of the limit each.
  bool watching_ = false;
  bool stalled_ = false;  // on_stall was called, on_answer was not.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_STALL_WATCH_H_
