// Byte locks on an image file that Vireo's and QEMU's programs both understand (QEMU's
// block/file-posix.c takes the same bytes): open-file-description read locks, one byte each.
//
//   byte 100 + i: "I use permission i"        i = 0 consistent read, 1 write,
//   byte 200 + i: "others may not use it"         2 write-unchanged, 3 resize
//
// A lock lasts as long as the open file description, so it is gone when its process is.

#ifndef VIREO_STORAGE_IMAGE_LOCK_H_
#define VIREO_STORAGE_IMAGE_LOCK_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vireo {

enum class LockMode {
  kNone,    // Others are neither refused nor respected.
  kShared,  // For readers, backing files too: no writer beside it.
  kExclusive,
};

// ABORTED, naming `path`, when another open of the file stands against it; nothing stays locked
// then. UNIMPLEMENTED where the file system has no such locks.
absl::Status LockImage(int fd, absl::string_view path, LockMode mode);

// What such an ABORTED status was about, in QEMU's words: `"write"`, `shared "write"`,
// `"consistent read"` and so on. Nothing for any other status.
std::optional<std::string> LockConflict(const absl::Status& status);

// Gives the locks back; for hand-over. Closing the descriptor does it as well.
void UnlockImage(int fd);

}  // namespace vireo

#endif  // VIREO_STORAGE_IMAGE_LOCK_H_
