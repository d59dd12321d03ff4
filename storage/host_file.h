// A File of the host: a regular file or a block device, through the page cache or O_DIRECT.
//
// With O_DIRECT, requests that the device cannot take as they are go through an aligned buffer
// ("bounce"); those that can go straight to the caller's memory.

#ifndef VIREO_STORAGE_HOST_FILE_H_
#define VIREO_STORAGE_HOST_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/iovecs.h"
#include "base/opener.h"
#include "base/unique_fd.h"
#include "storage/buffer_pool.h"
#include "storage/file.h"
#include "storage/image_lock.h"
#include "storage/range_lock.h"

namespace vireo {

class HostFile final : public File {
 public:
  struct Options {
    std::string path;
    bool read_only = false;
    bool direct = false;  // O_DIRECT.
    bool no_flush =
        false;            // Sync() does nothing: what is written may be lost with the host's power.
    bool create = false;  // Makes the file if there is none, mode 0644 before umask.
    LockMode lock = LockMode::kNone;
  };

  // Opens off the loop, on a thread of its own: the server of the file may be dead.
  // INVALID_ARGUMENT for anything but a regular file or a block device and for O_DIRECT where there
  // is none; ABORTED when locked by another.
  static Task<absl::StatusOr<std::unique_ptr<File>>> Open(EventLoop& loop, Opener& opener,
                                                          Options options);

  const std::string& name() const override { return path_; }
  const FileTraits& traits() const override { return traits_; }
  FileIdentity identity() const override { return identity_; }
  uint64_t size() const override { return size_; }
  int descriptor() const override { return fd_; }
  absl::StatusOr<uint64_t> AllocatedBytes() override;

  Task<absl::Status> Read(uint64_t offset, IoVecs dst) override;
  Task<absl::Status> Write(uint64_t offset, IoVecs src) override;
  Task<absl::Status> Sync() override;
  Task<absl::Status> Extend(uint64_t size) override;
  Task<absl::Status> ExtendAhead(uint64_t size) override;
  Task<absl::Status> Truncate(uint64_t size) override;
  Task<absl::Status> WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Task<absl::Status> Discard(uint64_t offset, uint64_t length) override;
  Task<absl::StatusOr<FileExtent>> Extent(uint64_t offset) override;
  Task<absl::Status> Close() override;

 private:
  // What Open() found out on its thread.
  struct Opened {
    UniqueFd fd;
    uint64_t size = 0;
    FileIdentity identity;
    bool block_device = false;
    bool read_only = false;
    FileKind kind = FileKind::kStorage;
    uint32_t memory_alignment = 1;  // Of buffers; both 1 without O_DIRECT.
    uint32_t offset_alignment = 1;  // Of offsets and lengths.
  };

  HostFile(EventLoop& loop, const Options& options, Opened opened);

  static absl::StatusOr<Opened> OpenNow(Opener& opener, const Options& options);
  static absl::Status FindAlignment(Opened& opened, const std::string& path);

  bool FitsDirect(uint64_t offset, IoVecs iovecs) const;
  Task<absl::Status> ReadPlain(uint64_t offset, IoVecs dst);
  Task<absl::Status> ReadBounced(uint64_t offset, IoVecs dst);
  Task<absl::Status> WriteBounced(uint64_t offset, IoVecs src);
  Task<absl::Status> WriteZeroBytes(uint64_t offset, uint64_t length);
  // `status`, naming file, offset and length.
  absl::Status At(const absl::Status& status, const char* what, uint64_t offset,
                  uint64_t length) const;

  EventLoop& loop_;
  const std::string path_;
  const UniqueFd fd_owner_;
  const int fd_;
  const FileIdentity identity_;
  const bool block_device_;
  const bool read_only_;
  const bool no_flush_;
  const FileKind kind_;
  const uint32_t memory_alignment_;
  const uint32_t offset_alignment_;
  FileTraits traits_;
  uint64_t size_;
  bool padded_ = false;  // The file on disk is longer than size_: a bounced write at its end.

  // What the file system said it cannot do, so that it is not asked for each request.
  bool no_allocate_ = false;
  bool no_punch_hole_ = false;
  bool no_zero_range_ = false;
  bool no_discard_ = false;

  // Of a file that nobody writes: the extent that was looked up last, from its first known byte on.
  uint64_t extent_begin_ = 0;
  FileExtent extent_;

  BufferPool buffers_;
  RangeLock blocks_;  // Writes by block, when a write may have to read its edges first.
};

}  // namespace vireo

#endif  // VIREO_STORAGE_HOST_FILE_H_
