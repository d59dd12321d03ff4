#include "storage/throttled_backend.h"

#include <utility>

namespace vireo {

ThrottledBackend::ThrottledBackend(EventLoop& loop, std::unique_ptr<BlockBackend> disk,
                                   std::shared_ptr<ThrottleGroup> group,
                                   std::unique_ptr<ThrottleClock> clock)
    : disk_(std::move(disk)),
      group_(std::move(group)),
      clock_(std::move(clock)),
      member_(loop, group_, *clock_) {}

Task<absl::Status> ThrottledBackend::ReadInTurn(uint64_t offset, IoVecs dst) {
  const InFlight::Operation operation(in_flight_);
  co_await member_.Admit(ThrottleKind::kRead, TotalSize(dst));
  const absl::Status status = co_await disk_->Read(offset, dst);
  co_return status;
}

Task<absl::Status> ThrottledBackend::WriteInTurn(uint64_t offset, IoVecs src, WriteFlags flags) {
  const InFlight::Operation operation(in_flight_);
  co_await member_.Admit(ThrottleKind::kWrite, TotalSize(src));
  const absl::Status status = co_await disk_->Write(offset, src, flags);
  co_return status;
}

// Counted as what the guest writes, not as what is left of it.
Task<absl::Status> ThrottledBackend::CompressInTurn(uint64_t offset, IoVecs src) {
  const InFlight::Operation operation(in_flight_);
  co_await member_.Admit(ThrottleKind::kWrite, TotalSize(src));
  const absl::Status status = co_await disk_->WriteCompressed(offset, src);
  co_return status;
}

Task<absl::Status> ThrottledBackend::ZeroInTurn(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const InFlight::Operation operation(in_flight_);
  co_await member_.Admit(ThrottleKind::kWrite, length);
  const absl::Status status = co_await disk_->WriteZeroes(offset, length, flags);
  co_return status;
}

void ThrottledBackend::SetHurry(bool hurry) {
  member_.SetHurry(hurry);
  disk_->SetHurry(hurry);
}

Task<absl::Status> ThrottledBackend::Close() {
  member_.SetHurry(true);
  co_await in_flight_.Drain();
  co_await member_.Close();
  const absl::Status status = co_await disk_->Close();
  co_return status;
}

}  // namespace vireo
