#include "storage/request_policy.h"

#include <errno.h>

#include <array>
#include <cstring>

#include "base/status.h"
#include "storage/probe.h"
#include "storage/request_check.h"

namespace vireo {

Task<absl::Status> RequestPolicy::Read(uint64_t offset, IoVecs dst) {
  return disk_->Read(offset, dst);
}

Task<absl::Status> RequestPolicy::Write(uint64_t offset, IoVecs src, WriteFlags flags) {
  if (options_.guard_format && offset < kProbeBytes && TotalSize(src) > 0) {
    std::array<uint8_t, kProbeBytes> head = {};
    CopyFromIoVecs(src, head);
    if (std::strcmp(ProbeFormat(head), "raw") != 0) {
      co_return ErrnoStatus(EPERM, "a write that would make a guessed raw image another format");
    }
  }
  flags.fua = flags.fua || options_.writethrough;
  if (options_.detect_zeroes != Zeroes::kWrite && TotalSize(src) > 0 && IsAllZero(src)) {
    const ZeroFlags zero_flags = {.may_unmap = options_.detect_zeroes == Zeroes::kUnmap};
    const uint64_t length = TotalSize(src);
    CO_RETURN_IF_ERROR(co_await WriteZeroes(offset, length, zero_flags));
    if (!flags.fua || options_.writethrough) co_return absl::OkStatus();
    const absl::Status flushed = co_await disk_->Flush();
    co_return flushed;
  }
  const absl::Status status = co_await disk_->Write(offset, src, flags);
  co_return status;
}

Task<absl::Status> RequestPolicy::WriteCompressed(uint64_t offset, IoVecs src) {
  CO_RETURN_IF_ERROR(co_await disk_->WriteCompressed(offset, src));
  if (!options_.writethrough) co_return absl::OkStatus();
  const absl::Status status = co_await disk_->Flush();
  co_return status;
}

Task<absl::Status> RequestPolicy::Flush() { return disk_->Flush(); }

Task<absl::Status> RequestPolicy::Discard(uint64_t offset, uint64_t length) {
  if (!options_.ignore_discards) {
    const absl::Status status = co_await disk_->Discard(offset, length);
    co_return status;
  }
  co_return CheckChange("discard", disk_->geometry(), offset, length);
}

Task<absl::Status> RequestPolicy::WriteZeroes(uint64_t offset, uint64_t length, ZeroFlags flags) {
  if (options_.ignore_discards) flags.may_unmap = false;
  CO_RETURN_IF_ERROR(co_await disk_->WriteZeroes(offset, length, flags));
  if (!options_.writethrough) co_return absl::OkStatus();
  const absl::Status status = co_await disk_->Flush();
  co_return status;
}

Task<absl::StatusOr<RangeStatus>> RequestPolicy::Status(uint64_t offset, uint64_t length) {
  return disk_->Status(offset, length);
}

Task<absl::Status> RequestPolicy::Resize(uint64_t size_bytes) { return disk_->Resize(size_bytes); }

Task<absl::Status> RequestPolicy::Close() { return disk_->Close(); }

}  // namespace vireo
