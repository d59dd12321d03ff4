#include "storage/image_lock.h"

#include <errno.h>
#include <fcntl.h>

#include <initializer_list>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr off_t kUses = 100;
constexpr off_t kForbids = 200;
constexpr off_t kRead = 0;
constexpr off_t kWrite = 1;
constexpr off_t kResize = 3;
constexpr off_t kPermissions = 4;

constexpr char kConflict[] = "vireo/lock-conflict";

struct flock ByteRange(short type, off_t byte, off_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = length;
  return lock;
}

absl::Status Take(int fd, absl::string_view path, off_t byte) {
  struct flock lock = ByteRange(F_RDLCK, byte, 1);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::AbortedError(absl::StrCat(path, ": locked by another program"));
  }
  if (errno == EINVAL || errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP) {
    return absl::UnimplementedError(
        absl::StrCat(path,
                     ": the file system has no byte locks; open the image without a lock and "
                     "keep other writers away"));
  }
  return ErrnoStatus(errno, absl::StrFormat("%s: locking byte %d", path, byte));
}

// OK when nobody else has locked `byte`; otherwise ABORTED with `why`.
absl::Status Test(int fd, absl::string_view path, off_t byte, absl::string_view why) {
  struct flock lock = ByteRange(F_WRLCK, byte, 1);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) {
    return ErrnoStatus(errno, absl::StrFormat("%s: testing the lock on byte %d", path, byte));
  }
  if (lock.l_type == F_UNLCK) return absl::OkStatus();
  absl::Status status =
      absl::AbortedError(absl::StrCat(path, ": in use by another program, ", why));
  static constexpr const char* kNames[kPermissions] = {"consistent read", "write",
                                                       "write unchanged", "resize"};
  const bool used = byte < kForbids;  // By another: so it is we who do not share it.
  status.SetPayload(kConflict,
                    absl::Cord(absl::StrFormat("%s\"%s\"", used ? "shared " : "",
                                               kNames[byte - (used ? kUses : kForbids)])));
  return status;
}

constexpr char kNoReaders[] = "which lets nobody read it";
constexpr char kNoWriters[] = "which lets nobody write to it";
constexpr char kIsWriting[] = "which may write to it";

absl::Status TakeAndTest(int fd, absl::string_view path, LockMode mode) {
  if (mode == LockMode::kShared) {
    for (const off_t byte : {kUses + kRead, kForbids + kWrite, kForbids + kResize}) {
      RETURN_IF_ERROR(Take(fd, path, byte));
    }
    RETURN_IF_ERROR(Test(fd, path, kForbids + kRead, kNoReaders));
    RETURN_IF_ERROR(Test(fd, path, kUses + kWrite, kIsWriting));
    return Test(fd, path, kUses + kResize, kIsWriting);
  }
  for (const off_t byte :
       {kUses + kRead, kUses + kWrite, kUses + kResize, kForbids + kWrite, kForbids + kResize}) {
    RETURN_IF_ERROR(Take(fd, path, byte));
  }
  RETURN_IF_ERROR(Test(fd, path, kForbids + kRead, kNoReaders));
  RETURN_IF_ERROR(Test(fd, path, kForbids + kWrite, kNoWriters));
  RETURN_IF_ERROR(Test(fd, path, kUses + kWrite, kIsWriting));
  RETURN_IF_ERROR(Test(fd, path, kForbids + kResize, kNoWriters));
  return Test(fd, path, kUses + kResize, kIsWriting);
}

}  // namespace

absl::Status LockImage(int fd, absl::string_view path, LockMode mode) {
  if (mode == LockMode::kNone) return absl::OkStatus();
  const absl::Status status = TakeAndTest(fd, path, mode);
  if (!status.ok()) UnlockImage(fd);
  return status;
}

std::optional<std::string> LockConflict(const absl::Status& status) {
  const absl::optional<absl::Cord> conflict = status.GetPayload(kConflict);
  if (!conflict.has_value()) return std::nullopt;
  return std::string(*conflict);
}

void UnlockImage(int fd) {
  for (const off_t base : {kUses, kForbids}) {
    struct flock lock = ByteRange(F_UNLCK, base, kPermissions);
    ::fcntl(fd, F_OFD_SETLK, &lock);
  }
}

}  // namespace vireo
