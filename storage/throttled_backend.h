// A disk held to limits on bytes and operations per second, alone or together with others.
//
// Reads, writes and write-zeroes wait for their turn; flushes and discards pass. Owned by one loop.

#ifndef VIREO_STORAGE_THROTTLED_BACKEND_H_
#define VIREO_STORAGE_THROTTLED_BACKEND_H_

#include <memory>

#include "base/async/event_loop.h"
#include "storage/block_backend.h"
#include "storage/in_flight.h"
#include "storage/throttle_group.h"

namespace vireo {

class ThrottledBackend final : public BlockBackend {
 public:
  // `loop` outlives the backend.
  ThrottledBackend(EventLoop& loop, std::unique_ptr<BlockBackend> disk,
                   std::shared_ptr<ThrottleGroup> group, std::unique_ptr<ThrottleClock> clock);

  const Geometry& geometry() const override { return disk_->geometry(); }
  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override {
    return group_->limited() ? ReadInTurn(offset, dst) : disk_->Read(offset, dst);
  }
  using BlockBackend::Write;
  Task<absl::Status> Write(uint64_t offset, IoVecs src, WriteFlags flags) override {
    return group_->limited() ? WriteInTurn(offset, src, flags) : disk_->Write(offset, src, flags);
  }
  Task<absl::Status> WriteCompressed(uint64_t offset, IoVecs src) override {
    return group_->limited() ? CompressInTurn(offset, src) : disk_->WriteCompressed(offset, src);
  }
  Task<absl::Status> Flush() override { return disk_->Flush(); }
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override {
    return disk_->Discard(offset, length);
  }
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) override {
    return group_->limited() ? ZeroInTurn(offset, length, flags)
                             : disk_->WriteZeroes(offset, length, flags);
  }
  Task<absl::StatusOr<RangeStatus>> Status(uint64_t offset, uint64_t length) override {
    return disk_->Status(offset, length);
  }
  Task<absl::Status> Resize(uint64_t size_bytes) override { return disk_->Resize(size_bytes); }
  void SetHurry(bool hurry) override;
  Task<absl::Status> Close() override;

  // Those that had to wait. Any thread.
  uint64_t throttled_requests() const { return member_.waits(); }

 private:
  Task<absl::Status> ReadInTurn(uint64_t offset, IoVecs dst);
  Task<absl::Status> WriteInTurn(uint64_t offset, IoVecs src, WriteFlags flags);
  Task<absl::Status> CompressInTurn(uint64_t offset, IoVecs src);
  Task<absl::Status> ZeroInTurn(uint64_t offset, uint64_t length, ZeroFlags flags);

  const std::unique_ptr<BlockBackend> disk_;
  const std::shared_ptr<ThrottleGroup> group_;
  const std::unique_ptr<ThrottleClock> clock_;
  InFlight in_flight_;
  ThrottleGroup::Member member_;
};

}  // namespace vireo

#endif  // VIREO_STORAGE_THROTTLED_BACKEND_H_
