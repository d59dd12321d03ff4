#include "base/async/blocking_request.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"

namespace vireo::async_internal {
namespace {

ssize_t Call(const RingRequest& request) {
  void* const buffer = reinterpret_cast<void*>(request.address);
  const iovec* const vectors = static_cast<const iovec*>(buffer);
  const off_t offset = static_cast<off_t>(request.offset);
  switch (request.op) {
    case RingOp::kRead:
      return ::pread(request.fd, buffer, request.length, offset);
    case RingOp::kReadv:
      return ::preadv(request.fd, vectors, static_cast<int>(request.length), offset);
    case RingOp::kWrite:
      return ::pwrite(request.fd, buffer, request.length, offset);
    case RingOp::kWritev:
      return ::pwritev(request.fd, vectors, static_cast<int>(request.length), offset);
    case RingOp::kFsync:
      return request.flags != 0 ? ::fdatasync(request.fd) : ::fsync(request.fd);
    case RingOp::kFallocate:
      return ::fallocate(request.fd, static_cast<int>(request.length), offset,
                         static_cast<off_t>(request.address));
    case RingOp::kPoll:
    case RingOp::kTimeout:
    case RingOp::kCancel:
      break;
  }
  CheckFailed(__FILE__, __LINE__, "file operation", "only file operations are done by a call");
}

}  // namespace

int PerformBlocking(const RingRequest& request) {
  ssize_t result;
  do {
    result = Call(request);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : static_cast<int>(result);
}

}  // namespace vireo::async_internal
