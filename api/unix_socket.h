// The unix socket under the API, as both ends see it. An address is "unix:PATH" or "fd:N" (also
// "fd=N"), an inherited descriptor: a listening socket for the server, a connected one for the
// client. Any thread.
#ifndef VIREO_API_UNIX_SOCKET_H_
#define VIREO_API_UNIX_SOCKET_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace vireo::api {

// A listening socket that its owner alone can reach (mode 0600 from its first moment on), removed
// when this goes.
class UnixListener {
 public:
  // A socket file that nobody serves any more is replaced. INVALID_ARGUMENT when the address is
  // malformed or its path too long; ALREADY_EXISTS when a live process serves it or when it is no
  // socket; NOT_FOUND or PERMISSION_DENIED for its directory. Messages carry the address.
  static absl::StatusOr<UnixListener> Bind(const std::string& address);

  UnixListener(UnixListener&&) = default;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  // Removes the socket file now, for a process that ends without destructors. Any thread.
  void RemoveFile() const;

  int fd() const { return fd_.get(); }
  const std::string& address() const { return address_; }

 private:
  UnixListener(std::string address, UniqueFd fd)
      : address_(std::move(address)), fd_(std::move(fd)) {}

  std::string address_;
  UniqueFd fd_;
  std::string path_;  // To remove; empty for an inherited socket.
  // Of the socket file: a successor's file at the same path is not ours to remove.
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Connects; nonblocking from then on. UNAVAILABLE "unix:PATH: no VM listens there" when nobody
// does, PERMISSION_DENIED when the socket is somebody else's, INVALID_ARGUMENT as above.
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& address);

}  // namespace vireo::api

#endif  // VIREO_API_UNIX_SOCKET_H_
