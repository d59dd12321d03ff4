#include "storage/crypto/secret_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace vireo {

absl::StatusOr<Secret> ReadSecretFile(Opener& opener, const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd fd, opener.Open(path, O_RDONLY | O_NOCTTY));
  Secret buffer(kMaxSecretBytes + 1);
  size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t got = ::read(fd.get(), buffer.bytes().data() + size, buffer.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, path);
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size > kMaxSecretBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a secret has at most %d bytes", path, kMaxSecretBytes));
  }
  return Secret(std::span<const uint8_t>(buffer.bytes()).first(size));
}

}  // namespace vireo
