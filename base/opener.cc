#include "base/opener.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace vireo {
namespace {

absl::StatusOr<std::string> RealPath(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), ::free);
  if (real == nullptr) return ErrnoStatus(errno, path);
  return std::string(real.get());
}

// For a file that may not exist yet: its real directory, and the last name as it stands.
absl::StatusOr<std::string> RealPathOfNew(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") return ErrnoStatus(EISDIR, path);
  std::string parent = ".";
  if (slash != std::string::npos) parent = slash == 0 ? "/" : path.substr(0, slash);
  absl::StatusOr<std::string> real = RealPath(parent);
  if (!real.ok()) return ErrnoStatus(StatusErrno(real.status()), path);
  return absl::StrCat(*real == "/" ? "" : *real, "/", name);
}

absl::StatusOr<UniqueFd> DuplicateDescriptor(const std::string& path, int descriptor, int flags) {
  const int status_flags = ::fcntl(descriptor, F_GETFL);
  if (status_flags < 0) return ErrnoStatus(errno, path);
  const int have = status_flags & O_ACCMODE;
  const int want = flags & O_ACCMODE;
  if (have != O_RDWR && have != want) {
    return absl::PermissionDeniedError(absl::StrCat(
        path, ": the descriptor is open for ", have == O_RDONLY ? "reading" : "writing", " only"));
  }
  UniqueFd copy(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return ErrnoStatus(errno, path);
  return copy;
}

}  // namespace

std::optional<int> DescriptorInPath(const std::string& path) {
  absl::string_view number = path;
  if (!absl::ConsumePrefix(&number, "fd:") && !absl::ConsumePrefix(&number, "fd=")) {
    return std::nullopt;
  }
  int descriptor = -1;
  if (!absl::SimpleAtoi(number, &descriptor) || descriptor < 0) return std::nullopt;
  return descriptor;
}

absl::StatusOr<DirectOpener> DirectOpener::Create(std::vector<std::string> allowed_directories) {
  DirectOpener opener;
  for (const std::string& path : allowed_directories) {
    ASSIGN_OR_RETURN(std::string real, RealPath(path));
    UniqueFd fd(::open(real.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(errno, path);
    if (real == "/") real.clear();
    opener.allowed_.push_back({std::move(real), std::move(fd)});
  }
  return opener;
}

absl::StatusOr<UniqueFd> DirectOpener::Open(const std::string& path, int flags, mode_t mode) {
  if (const std::optional<int> descriptor = DescriptorInPath(path)) {
    return DuplicateDescriptor(path, *descriptor, flags);
  }
  if (!allowed_.empty()) return OpenBeneath(path, flags, mode);
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return ErrnoStatus(errno, path);
  return fd;
}

absl::StatusOr<UniqueFd> DirectOpener::OpenBeneath(const std::string& path, int flags,
                                                   mode_t mode) {
  absl::StatusOr<std::string> real = RealPath(path);
  if (!real.ok() && StatusErrno(real.status()) == ENOENT && (flags & O_CREAT) != 0) {
    real = RealPathOfNew(path);
  }
  RETURN_IF_ERROR(real.status());
  for (const Directory& directory : allowed_) {
    absl::string_view rest = *real;
    if (!absl::ConsumePrefix(&rest, directory.path) || !absl::ConsumePrefix(&rest, "/")) continue;
    // The name was resolved above, so a link met here was put there since: the kernel refuses to
    // leave.
    open_how how = {};
    how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
    how.mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode : 0;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const std::string relative = rest.empty() ? "." : std::string(rest);
    UniqueFd fd(static_cast<int>(
        ::syscall(SYS_openat2, directory.fd.get(), relative.c_str(), &how, sizeof(how))));
    if (!fd.valid()) return ErrnoStatus(errno, path);
    return fd;
  }
  return absl::PermissionDeniedError(absl::StrCat(path, ": lies outside the allowed directories"));
}

absl::StatusOr<std::string> DirectOpener::Canonical(const std::string& path) {
  if (DescriptorInPath(path).has_value()) return path;
  return RealPath(path);
}

}  // namespace vireo
