#include "tests/support/faulty_backend.h"

#include "base/status.h"

namespace vireo {

absl::Status FaultyBackend::Next() {
  const uint64_t request = requests_++;
  const bool fails = request >= next_failure_ && request - next_failure_ < failures_;
  return fails ? status_ : absl::OkStatus();
}

Task<absl::Status> FaultyBackend::Read(uint64_t offset, IoVecs dst) {
  CO_RETURN_IF_ERROR(Next());
  const absl::Status status = co_await disk_->Read(offset, dst);
  co_return status;
}

Task<absl::Status> FaultyBackend::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  CO_RETURN_IF_ERROR(Next());
  const absl::Status status = co_await disk_->Write(offset, src, flags);
  co_return status;
}

Task<absl::Status> FaultyBackend::Flush() {
  CO_RETURN_IF_ERROR(Next());
  const absl::Status status = co_await disk_->Flush();
  co_return status;
}

Task<absl::Status> FaultyBackend::Discard(uint64_t offset, uint64_t length) {
  CO_RETURN_IF_ERROR(Next());
  const absl::Status status = co_await disk_->Discard(offset, length);
  co_return status;
}

Task<absl::Status> FaultyBackend::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  CO_RETURN_IF_ERROR(Next());
  const absl::Status status = co_await disk_->WriteZeroes(offset, length, flags);
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> FaultyBackend::Status(uint64_t offset, uint64_t length) {
  CO_RETURN_IF_ERROR(Next());
  absl::StatusOr<RangeStatus> status = co_await disk_->Status(offset, length);
  co_return status;
}

Task<absl::Status> FaultyBackend::Resize(uint64_t size_bytes) {
  CO_RETURN_IF_ERROR(Next());
  const absl::Status status = co_await disk_->Resize(size_bytes);
  co_return status;
}

}  // namespace vireo
