#include "storage/hand_over_disk.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace vireo {

Task<absl::StatusOr<std::unique_ptr<HandOverDisk>>> HandOverDisk::Open(EventLoop& loop,
                                                                       Opener& opener,
                                                                       ImageOptions options,
                                                                       Start start) {
  std::unique_ptr<HandOverDisk> disk(new HandOverDisk(loop, opener, std::move(options)));
  if (start == Start::kActive) {
    CO_RETURN_IF_ERROR(co_await disk->Activate());
    co_return disk;
  }
  ImageOptions look = disk->options_;
  look.read_only = true;
  look.lock = false;
  absl::StatusOr<std::unique_ptr<BlockBackend>> seen =
      co_await OpenImage(loop, opener, std::move(look));
  CO_RETURN_IF_ERROR(seen.status());
  disk->geometry_ = (*seen)->geometry();
  disk->geometry_.read_only = disk->options_.read_only;
  CO_RETURN_IF_ERROR(co_await (*seen)->Close());
  co_return disk;
}

Task<absl::Status> HandOverDisk::Activate() {
  if (disk_ != nullptr) co_return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<BlockBackend>> disk = co_await OpenImage(loop_, opener_, options_);
  CO_RETURN_IF_ERROR(disk.status());
  disk_ = *std::move(disk);
  geometry_ = disk_->geometry();
  leaving_ = false;
  co_return absl::OkStatus();
}

Task<absl::Status> HandOverDisk::Inactivate() {
  leaving_ = true;
  co_await in_flight_.Drain();
  if (disk_ == nullptr) co_return absl::OkStatus();
  const std::unique_ptr<BlockBackend> disk = std::move(disk_);
  const absl::Status closed = co_await disk->Close();
  co_return closed;
}

Task<absl::Status> HandOverDisk::Close() {
  const absl::Status status = co_await Inactivate();
  co_return status;
}

absl::Status HandOverDisk::GivenAway() const {
  if (disk_ != nullptr && !leaving_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(options_.path, ": the disk has been handed over"));
}

Task<absl::Status> HandOverDisk::Read(uint64_t offset, IoVecs dst) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->Read(offset, dst);
  co_return status;
}

Task<absl::Status> HandOverDisk::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->Write(offset, src, flags);
  co_return status;
}

Task<absl::Status> HandOverDisk::WriteCompressed(uint64_t offset, IoVecs src) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->WriteCompressed(offset, src);
  co_return status;
}

Task<absl::Status> HandOverDisk::Flush() {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->Flush();
  co_return status;
}

Task<absl::Status> HandOverDisk::Discard(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->Discard(offset, length);
  co_return status;
}

Task<absl::Status> HandOverDisk::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->WriteZeroes(offset, length, flags);
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> HandOverDisk::Status(uint64_t offset, uint64_t length) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::StatusOr<RangeStatus> status = co_await disk_->Status(offset, length);
  co_return status;
}

Task<absl::Status> HandOverDisk::Resize(uint64_t size_bytes) {
  const InFlight::Operation operation(in_flight_);
  CO_RETURN_IF_ERROR(GivenAway());
  const absl::Status status = co_await disk_->Resize(size_bytes);
  if (status.ok()) geometry_ = disk_->geometry();
  co_return status;
}

void HandOverDisk::SetHurry(bool hurry) {
  if (disk_ != nullptr) disk_->SetHurry(hurry);
}

}  // namespace vireo
