#include "storage/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/align.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kBounceBytes = 512 << 10;

bool IsUnsupported(const absl::Status& status) {
  const int error = StatusErrno(status);
  return error == EOPNOTSUPP || error == ENOTSUP || error == ENOSYS || error == EINVAL ||
         error == ENODEV;
}

}  // namespace

absl::Status HostFile::FindAlignment(Opened& opened, const std::string& path) {
  struct statx info = {};
#ifdef STATX_DIOALIGN
  if (::statx(opened.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: its file system has no O_DIRECT", path));
    }
    opened.memory_alignment = std::max<uint32_t>(info.stx_dio_mem_align, 1);
    opened.offset_alignment = info.stx_dio_offset_align;
    return absl::OkStatus();
  }
#endif
  // Older kernels: the smallest read that is taken tells. A buffer one block past a page boundary
  // has just that block's alignment.
  const AlignedBytes buffer = AllocateAligned(16384);
  for (const uint32_t block : {512, 1024, 2048, 4096}) {
    if (::pread(opened.fd.get(), buffer.get() + (block == 4096 ? 0 : block), block, 0) >= 0) {
      opened.memory_alignment = block;
      opened.offset_alignment = block;
      return absl::OkStatus();
    }
    if (errno != EINVAL) break;
  }
  return ErrnoStatus(errno, absl::StrFormat("%s: reading with O_DIRECT", path));
}

absl::StatusOr<HostFile::Opened> HostFile::OpenNow(Opener& opener, const Options& options) {
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  Opened opened = {.read_only = options.read_only};
  absl::StatusOr<UniqueFd> fd = opener.Open(
      options.path,
      access | O_NOCTTY | (options.direct ? O_DIRECT : 0) | (options.create ? O_CREAT : 0), 0644);
  if (!fd.ok() && options.direct && StatusErrno(fd.status()) == EINVAL) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: its file system has no O_DIRECT", options.path));
  }
  RETURN_IF_ERROR(fd.status());
  opened.fd = *std::move(fd);

  struct stat info;
  if (::fstat(opened.fd.get(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrFormat("%s: fstat", options.path));
  }
  if (S_ISREG(info.st_mode)) {
    opened.size = static_cast<uint64_t>(info.st_size);
    opened.identity = {.device = info.st_dev, .inode = info.st_ino};
    struct statfs system;
    if (::fstatfs(opened.fd.get(), &system) == 0 &&
        (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC)) {
      opened.kind = FileKind::kMemory;
    }
  } else if (S_ISBLK(info.st_mode)) {
    opened.block_device = true;
    opened.identity = {.device = ~uint64_t{0}, .inode = info.st_rdev};
    if (::ioctl(opened.fd.get(), BLKGETSIZE64, &opened.size) != 0) {
      return ErrnoStatus(errno, absl::StrFormat("%s: BLKGETSIZE64", options.path));
    }
  } else {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: neither a regular file nor a block device", options.path));
  }
  if (options.direct) {
    // A descriptor handed in keeps the mode it was opened with.
    const int flags = ::fcntl(opened.fd.get(), F_GETFL);
    if (flags >= 0 && (flags & O_DIRECT) != 0) RETURN_IF_ERROR(FindAlignment(opened, options.path));
  }
  RETURN_IF_ERROR(LockImage(opened.fd.get(), options.path, options.lock));
  return opened;
}

Task<absl::StatusOr<std::unique_ptr<File>>> HostFile::Open(EventLoop& loop, Opener& opener,
                                                           Options options) {
  Opener* const opener_pointer = &opener;
  auto open_now = [opener_pointer, options]() { return OpenNow(*opener_pointer, options); };
  auto opening = loop.OffloadBlocking(std::move(open_now));
  absl::StatusOr<Opened> opened = co_await std::move(opening);
  CO_RETURN_IF_ERROR(opened.status());
  std::unique_ptr<File> file(new HostFile(loop, options, *std::move(opened)));
  co_return file;
}

HostFile::HostFile(EventLoop& loop, const Options& options, Opened opened)
    : loop_(loop),
      path_(options.path),
      fd_owner_(std::move(opened.fd)),
      fd_(fd_owner_.get()),
      identity_(opened.identity),
      block_device_(opened.block_device),
      read_only_(opened.read_only),
      no_flush_(options.no_flush),
      kind_(opened.kind),
      memory_alignment_(opened.memory_alignment),
      offset_alignment_(opened.offset_alignment),
      size_(opened.size) {
  traits_.alignment = offset_alignment_;
  traits_.growable = !block_device_;
  traits_.zero_filled = !block_device_;
}

absl::StatusOr<uint64_t> HostFile::AllocatedBytes() {
  struct stat info;
  if (::fstat(fd_, &info) != 0) return ErrnoStatus(errno, absl::StrFormat("%s: fstat", path_));
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

absl::Status HostFile::At(const absl::Status& status, const char* what, uint64_t offset,
                          uint64_t length) const {
  if (status.ok()) return status;
  return Annotate(status,
                  absl::StrFormat("%s: %s %d bytes at offset %d", path_, what, length, offset));
}

bool HostFile::FitsDirect(uint64_t offset, IoVecs iovecs) const {
  if (offset_alignment_ == 1) return true;
  if (!IsAligned<uint64_t>(offset, offset_alignment_)) return false;
  for (const iovec& part : iovecs) {
    if (!IsAligned<uintptr_t>(reinterpret_cast<uintptr_t>(part.iov_base), memory_alignment_) ||
        !IsAligned<size_t>(part.iov_len, offset_alignment_)) {
      return false;
    }
  }
  return true;
}

Task<absl::Status> HostFile::ReadPlain(uint64_t offset, IoVecs dst) {
  const uint64_t length = TotalSize(dst);
  const absl::StatusOr<size_t> got = co_await loop_.Read(fd_, offset, dst, StopToken(), kind_);
  if (!got.ok()) co_return At(got.status(), "reading", offset, length);
  if (*got < length) {
    const IoVecList rest = Slice(dst, *got, length - *got);
    FillIoVecs(rest, 0);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> HostFile::ReadBounced(uint64_t offset, IoVecs dst) {
  const uint64_t end = offset + TotalSize(dst);
  const uint64_t first = AlignDown<uint64_t>(offset, offset_alignment_);
  const uint64_t last = AlignUp<uint64_t>(end, offset_alignment_);
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const std::span<uint8_t> piece =
        buffer.bytes().first(std::min<uint64_t>(buffer.size(), last - at));
    const iovec part = ToIoVec(piece);
    CO_RETURN_IF_ERROR(co_await ReadPlain(at, IoVecs(&part, 1)));
    const uint64_t skip = at < offset ? offset - at : 0;
    done += CopyToIoVecs(piece.subspan(skip), dst, done);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> HostFile::Read(uint64_t offset, IoVecs dst) {
  if (FitsDirect(offset, dst)) {
    const absl::Status status = co_await ReadPlain(offset, dst);
    co_return status;
  }
  const absl::Status status = co_await ReadBounced(offset, dst);
  co_return status;
}

Task<absl::Status> HostFile::WriteBounced(uint64_t offset, IoVecs src) {
  const uint64_t end = offset + TotalSize(src);
  const uint64_t first = AlignDown<uint64_t>(offset, offset_alignment_);
  const uint64_t last = AlignUp<uint64_t>(end, offset_alignment_);
  BufferPool::Buffer buffer = buffers_.Get(std::min(last - first, kBounceBytes));
  uint64_t done = 0;
  for (uint64_t at = first; at < last; at += buffer.size()) {
    const uint64_t stop = std::min<uint64_t>(at + buffer.size(), last);
    const std::span<uint8_t> piece = buffer.bytes().first(stop - at);
    const uint64_t skip = at < offset ? offset - at : 0;
    const uint64_t used = std::min(end, stop) - (at + skip);
    if (skip != 0) {  // The first block keeps its head.
      const iovec head = ToIoVec(piece.first(offset_alignment_));
      CO_RETURN_IF_ERROR(co_await ReadPlain(at, IoVecs(&head, 1)));
    }
    if (stop > end && !(skip != 0 && stop - at == offset_alignment_)) {  // The last its tail.
      const iovec tail = ToIoVec(piece.last(offset_alignment_));
      CO_RETURN_IF_ERROR(co_await ReadPlain(stop - offset_alignment_, IoVecs(&tail, 1)));
    }
    done += CopyFromIoVecs(src, piece.subspan(skip, used), done);
    const iovec part = ToIoVec(piece);
    const absl::Status written =
        co_await loop_.Write(fd_, at, IoVecs(&part, 1), StopToken(), kind_);
    if (!written.ok()) co_return At(written, "writing", at, stop - at);
  }
  if (last > size_) padded_ = true;
  co_return absl::OkStatus();
}

Task<absl::Status> HostFile::Write(uint64_t offset, IoVecs src) {
  const uint64_t length = TotalSize(src);
  const std::optional<uint64_t> end = CheckedAdd(offset, length);
  if (!end.has_value() || *end > std::numeric_limits<int64_t>::max()) {
    co_return absl::OutOfRangeError(
        absl::StrFormat("%s: no file holds %d bytes at offset %d", path_, length, offset));
  }
  if (block_device_ && *end > size_) {
    co_return ErrnoStatus(
        ENOSPC, absl::StrFormat("%s: writing %d bytes at offset %d of a device of %d bytes", path_,
                                length, offset, size_));
  }
  if (length == 0) co_return absl::OkStatus();
  // From here on nothing cuts the file below it.
  size_ = std::max(size_, *end);

  RangeLock::Guard guard;
  const bool direct = FitsDirect(offset, src);
  // Blocks larger than a guest's are read, changed and written back: two writers of one block take
  // turns, or one would put back what the other replaced. With blocks of 512 only metadata is
  // smaller.
  if (offset_alignment_ > 1 && (!direct || offset_alignment_ > 512)) {
    guard = co_await blocks_.Lock(offset / offset_alignment_, (*end - 1) / offset_alignment_);
  }
  if (!direct) {
    const absl::Status status = co_await WriteBounced(offset, src);
    co_return status;
  }
  const absl::Status status = co_await loop_.Write(fd_, offset, src, StopToken(), kind_);
  co_return At(status, "writing", offset, length);
}

Task<absl::Status> HostFile::Sync() {
  if (no_flush_ || kind_ == FileKind::kMemory) co_return absl::OkStatus();
  const absl::Status status = co_await loop_.SyncData(fd_);
  if (!status.ok()) co_return Annotate(status, absl::StrFormat("%s: fdatasync", path_));
  co_return status;
}

Task<absl::Status> HostFile::Extend(uint64_t size) {
  if (size <= size_) co_return absl::OkStatus();
  if (block_device_) {
    co_return ErrnoStatus(ENOSPC, absl::StrFormat("%s: the device has %d bytes", path_, size_));
  }
  if (!no_allocate_) {
    const uint64_t old_size = size_;
    const absl::Status status = co_await loop_.Allocate(fd_, 0, old_size, size - old_size);
    if (status.ok()) {
      size_ = std::max(size_, size);
      co_return absl::OkStatus();
    }
    if (!IsUnsupported(status)) {
      co_return At(status, "allocating", old_size, size - old_size);
    }
    no_allocate_ = true;
  }
  if (size <= size_) co_return absl::OkStatus();
  const absl::Status status = co_await Truncate(size);
  co_return status;
}

Task<absl::Status> HostFile::ExtendAhead(uint64_t size) {
  if (kind_ == FileKind::kMemory && size > size_) {
    // A hole, at once: nothing to wait for.
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) {
      co_return ErrnoStatus(errno,
                            absl::StrFormat("%s: setting its size to %d bytes", path_, size));
    }
    size_ = size;
    padded_ = false;
    co_return absl::OkStatus();
  }
  const absl::Status status = co_await Extend(size);
  co_return status;
}

Task<absl::Status> HostFile::Truncate(uint64_t size) {
  const int fd = fd_;
  auto truncate = [fd, size]() {
    return ::ftruncate(fd, static_cast<off_t>(size)) == 0 ? 0 : errno;
  };
  auto truncating = loop_.Offload(std::move(truncate));
  const int error = co_await std::move(truncating);
  if (error != 0) {
    co_return ErrnoStatus(error, absl::StrFormat("%s: setting its size to %d bytes", path_, size));
  }
  size_ = size;
  padded_ = false;
  co_return absl::OkStatus();
}

Task<absl::Status> HostFile::WriteZeroBytes(uint64_t offset, uint64_t length) {
  std::vector<iovec> parts;
  while (length > 0) {
    const uint64_t piece = std::min<uint64_t>(length, 1 << 20);
    parts.clear();
    AppendZeros(piece, parts);
    CO_RETURN_IF_ERROR(co_await Write(offset, parts));
    offset += piece;
    length -= piece;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> HostFile::WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  if (length == 0) co_return absl::OkStatus();
  RangeLock::Guard guard;
  if (offset_alignment_ > 512) {
    guard = co_await blocks_.Lock(offset / offset_alignment_,
                                  (offset + length - 1) / offset_alignment_);
  }
  // Block devices take whole blocks only.
  const bool whole_blocks =
      !block_device_ || (IsAligned<uint64_t>(offset, 4096) && IsAligned<uint64_t>(length, 4096));
  if (may_unmap && !no_punch_hole_ && whole_blocks) {
    const absl::Status status =
        co_await loop_.Allocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (status.ok()) co_return status;
    if (!IsUnsupported(status)) co_return At(status, "punching", offset, length);
    no_punch_hole_ = true;
  }
  if (!no_zero_range_ && whole_blocks) {
    const absl::Status status =
        co_await loop_.Allocate(fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (status.ok()) co_return status;
    if (!IsUnsupported(status)) co_return At(status, "zeroing", offset, length);
    no_zero_range_ = true;
  }
  guard.Release();
  const absl::Status status = co_await WriteZeroBytes(offset, length);
  co_return status;
}

Task<absl::Status> HostFile::Discard(uint64_t offset, uint64_t length) {
  if (length == 0 || no_discard_) co_return absl::OkStatus();
  RangeLock::Guard guard;
  if (offset_alignment_ > 512) {
    guard = co_await blocks_.Lock(offset / offset_alignment_,
                                  (offset + length - 1) / offset_alignment_);
  }
  if (!block_device_) {
    const absl::Status status =
        co_await loop_.Allocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (!status.ok() && !IsUnsupported(status)) co_return At(status, "discarding", offset, length);
    no_discard_ = !status.ok();
    co_return absl::OkStatus();
  }
  const int fd = fd_;
  const std::array<uint64_t, 2> range = {AlignUp<uint64_t>(offset, 4096),
                                         AlignDown<uint64_t>(offset + length, 4096)};
  if (range[0] >= range[1]) co_return absl::OkStatus();
  auto discard = [fd, range]() {
    uint64_t argument[2] = {range[0], range[1] - range[0]};
    return ::ioctl(fd, BLKDISCARD, argument) == 0 ? 0 : errno;
  };
  auto discarding = loop_.Offload(std::move(discard));
  const int error = co_await std::move(discarding);
  if (error == 0) co_return absl::OkStatus();
  const absl::Status status =
      ErrnoStatus(error, absl::StrFormat("%s: BLKDISCARD at offset %d", path_, offset));
  if (!IsUnsupported(status)) co_return status;
  no_discard_ = true;
  co_return absl::OkStatus();
}

Task<absl::StatusOr<FileExtent>> HostFile::Extent(uint64_t offset) {
  const uint64_t rest = size_ > offset ? size_ - offset : 0;
  if (block_device_ || rest == 0) co_return FileExtent{.data = rest != 0, .length = rest};
  if (read_only_ && offset >= extent_begin_ && offset - extent_begin_ < extent_.length) {
    co_return FileExtent{.data = extent_.data, .length = extent_begin_ + extent_.length - offset};
  }
  const int fd = fd_;
  auto seek = [fd, offset, rest]() -> FileExtent {
    const off_t at = static_cast<off_t>(offset);
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {.data = false, .length = rest};
    if (data < 0) return {.data = true, .length = rest};  // The file system cannot tell.
    if (data > at) {
      return {.data = false, .length = std::min(rest, static_cast<uint64_t>(data - at))};
    }
    const off_t hole = ::lseek(fd, at, SEEK_HOLE);
    if (hole <= at) return {.data = true, .length = rest};
    return {.data = true, .length = std::min(rest, static_cast<uint64_t>(hole - at))};
  };
  auto seeking = loop_.Offload(std::move(seek));
  const FileExtent extent = co_await std::move(seeking);
  extent_begin_ = offset;
  extent_ = extent;
  co_return extent;
}

Task<absl::Status> HostFile::Close() {
  absl::Status status;
  if (padded_ && !block_device_) status = co_await Truncate(size_);
  UnlockImage(fd_);
  co_return status;
}

}  // namespace vireo
