// The file of an image that a command line names, for work on its metadata as a whole.
//
// The image is opened first as any verb opens it, so that what is wrong with it is said in the same
// words, and closed again: what works on the whole of it must be alone.

#ifndef VIREO_STORAGE_IMG_WHOLE_FILE_H_
#define VIREO_STORAGE_IMG_WHOLE_FILE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "base/opener.h"
#include "storage/file.h"
#include "storage/img/source.h"
#include "storage/open_image.h"

namespace vireo::img {

struct WholeFile {
  ImageFormat format = ImageFormat::kRaw;
  std::unique_ptr<File> file;  // To be closed, whatever happens. A writer's lock is held.
  std::string warning;         // For the error stream, when not empty.
};

// Messages and codes as of OpenSource().
Task<absl::StatusOr<WholeFile>> OpenWholeFile(EventLoop& loop, Opener& opener,
                                              SourceOptions options);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_WHOLE_FILE_H_
