#include "api/unix_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace vireo::api {
namespace {

constexpr int kBacklog = 64;

struct Address {
  std::string path;       // Of "unix:PATH".
  std::optional<int> fd;  // Of "fd:N".
};

absl::StatusOr<Address> Parse(const std::string& text) {
  absl::string_view rest = text;
  Address address;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
    if (rest.empty())
      return absl::InvalidArgumentError(absl::StrCat(text, ": the path is missing"));
    if (rest.size() > kMaxPath) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: the path of a unix socket has at most %d bytes, this one has %d",
                          text, kMaxPath, rest.size()));
    }
    address.path = std::string(rest);
    return address;
  }
  int fd = -1;
  if ((absl::ConsumePrefix(&rest, "fd:") || absl::ConsumePrefix(&rest, "fd=")) &&
      absl::SimpleAtoi(rest, &fd) && fd >= 0) {
    address.fd = fd;
    return address;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no socket address; use unix:PATH or fd:N"));
}

sockaddr_un SocketName(const std::string& path) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());  // Parse() has checked that it fits.
  return name;
}

absl::StatusOr<UniqueFd> NewSocket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  return fd;
}

// 0, or the errno of connect(2). Blocking: a listener whose backlog is full is alive.
int Connect(const UniqueFd& fd, const std::string& path) {
  const sockaddr_un name = SocketName(path);
  int result;
  do {
    result = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name);
  } while (result < 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

std::string PeerPid(const UniqueFd& fd) {
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return "";
  return absl::StrFormat(" (process %d)", peer.pid);
}

absl::StatusOr<UniqueFd> InheritedSocket(int fd, const std::string& address) {
  UniqueFd duplicate(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  int family = 0;
  socklen_t length = sizeof family;
  if (!duplicate.valid() ||
      ::getsockopt(duplicate.get(), SOL_SOCKET, SO_DOMAIN, &family, &length) < 0 ||
      family != AF_UNIX) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: descriptor %d is not a unix socket", address, fd));
  }
  return duplicate;
}

bool Listens(const UniqueFd& fd) {
  int listens = 0;
  socklen_t length = sizeof listens;
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 && listens != 0;
}

// Removes a socket file that nobody serves; the caller holds the directory's lock.
absl::Status RemoveStale(const std::string& address, const std::string& path) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) < 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, address);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(address, ": exists and is not a socket"));
  }
  ASSIGN_OR_RETURN(const UniqueFd probe, NewSocket());
  const int error = Connect(probe, path);
  if (error == 0) {
    return absl::AlreadyExistsError(absl::StrCat(address, ": in use by a live VM", PeerPid(probe)));
  }
  if (error != ECONNREFUSED) return ErrnoStatus(error, address);
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) return ErrnoStatus(errno, address);
  return absl::OkStatus();
}

// Two processes that want the same path take turns, so that neither removes the other's fresh
// socket. Released when the descriptor is closed. A directory that cannot be read is used without
// the lock.
absl::StatusOr<UniqueFd> LockDirectory(const std::string& address, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "."
                                : slash == 0               ? "/"
                                                           : path.substr(0, slash);
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    if (errno == EACCES) return fd;
    return ErrnoStatus(errno, absl::StrCat(address, ": directory ", directory));
  }
  ::flock(fd.get(), LOCK_EX);
  return fd;
}

}  // namespace

absl::StatusOr<UnixListener> UnixListener::Bind(const std::string& address) {
  ASSIGN_OR_RETURN(const Address parsed, Parse(address));
  if (parsed.fd.has_value()) {
    ASSIGN_OR_RETURN(UniqueFd inherited, InheritedSocket(*parsed.fd, address));
    if (!Listens(inherited)) {
      return absl::InvalidArgumentError(absl::StrCat(address, ": the socket does not listen"));
    }
    return UnixListener(address, std::move(inherited));
  }

  ASSIGN_OR_RETURN(const UniqueFd lock, LockDirectory(address, parsed.path));
  RETURN_IF_ERROR(RemoveStale(address, parsed.path));
  ASSIGN_OR_RETURN(UniqueFd fd, NewSocket());
  // bind(2) makes the file with the socket's own mode (less the umask), so it is never open to
  // others.
  if (::fchmod(fd.get(), 0600) < 0) return ErrnoStatus(errno, address);
  const sockaddr_un name = SocketName(parsed.path);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) < 0) {
    return ErrnoStatus(errno, address);
  }
  UnixListener listener(address, std::move(fd));
  struct stat info = {};
  if (::lstat(parsed.path.c_str(), &info) < 0) return ErrnoStatus(errno, address);
  listener.path_ = parsed.path;
  listener.device_ = info.st_dev;
  listener.inode_ = info.st_ino;
  if (::listen(listener.fd(), kBacklog) < 0) return ErrnoStatus(errno, address);
  return listener;
}

UnixListener::~UnixListener() {
  if (fd_.valid()) RemoveFile();  // Else moved from.
}

void UnixListener::RemoveFile() const {
  if (path_.empty()) return;  // Inherited.
  struct stat info = {};
  if (::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& address) {
  ASSIGN_OR_RETURN(const Address parsed, Parse(address));
  UniqueFd fd;
  if (parsed.fd.has_value()) {
    ASSIGN_OR_RETURN(fd, InheritedSocket(*parsed.fd, address));
  } else {
    ASSIGN_OR_RETURN(fd, NewSocket());
    const int error = Connect(fd, parsed.path);
    if (error == ENOENT || error == ECONNREFUSED || error == ENOTDIR || error == ENOTSOCK) {
      return absl::UnavailableError(absl::StrCat(address, ": no VM listens there"));
    }
    if (error != 0) return ErrnoStatus(error, address);
  }
  if (::fcntl(fd.get(), F_SETFL, O_NONBLOCK) < 0) return ErrnoStatus(errno, address);
  return fd;
}

}  // namespace vireo::api
