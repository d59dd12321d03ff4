#include "storage/writethrough.h"

#include "base/status.h"

namespace vireo {

Task<absl::Status> Writethrough::Read(uint64_t offset, IoVecs dst) {
  return disk_->Read(offset, dst);
}

Task<absl::Status> Writethrough::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  flags.fua = true;
  return disk_->Write(offset, src, flags);
}

Task<absl::Status> Writethrough::Flush() { return disk_->Flush(); }

Task<absl::Status> Writethrough::Discard(uint64_t offset, uint64_t length) {
  return disk_->Discard(offset, length);
}

Task<absl::Status> Writethrough::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  CO_RETURN_IF_ERROR(co_await disk_->WriteZeroes(offset, length, flags));
  const absl::Status status = co_await disk_->Flush();
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> Writethrough::Status(uint64_t offset, uint64_t length) {
  return disk_->Status(offset, length);
}

Task<absl::Status> Writethrough::Resize(uint64_t size_bytes) { return disk_->Resize(size_bytes); }

Task<absl::Status> Writethrough::Close() { return disk_->Close(); }

}  // namespace vireo
