// Changes the size of an image that a command line names, up or down.

#ifndef VIREO_STORAGE_IMG_RESIZE_H_
#define VIREO_STORAGE_IMG_RESIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/img/source.h"

namespace vireo::img {

struct ResizeOptions {
  SourceOptions image;                // For writing.
  bool shrink = false;                // Without it an image only grows.
  std::string preallocation = "off";  // Of the new space: "metadata", "falloc" or "full".
};

// Messages are qemu-img's; what the image is opened with is closed again.
Task<absl::Status> ResizeSource(EventLoop& loop, Opener& opener, uint64_t size,
                                ResizeOptions options);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_RESIZE_H_
