// Bytes of one file of the host into another without passing through this process: a file system
// may share the blocks, a server may copy on its side.

#ifndef VIREO_STORAGE_HOST_COPY_H_
#define VIREO_STORAGE_HOST_COPY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/file.h"

namespace vireo {

struct HostCopy {
  const File* from = nullptr;  // Both outlive the task.
  uint64_t from_offset = 0;
  const File* to = nullptr;
  uint64_t to_offset = 0;
  uint64_t length = 0;
};

// UNIMPLEMENTED where the host cannot, or a file is none of the host's; a part may have been copied
// then. Off the loop.
Task<absl::Status> CopyInHost(EventLoop& loop, HostCopy copy);

}  // namespace vireo

#endif  // VIREO_STORAGE_HOST_COPY_H_
