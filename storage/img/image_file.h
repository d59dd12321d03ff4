// The file of an image that a command line names, for verbs that look at the image's metadata and
// open neither its backing file nor its data file.

#ifndef VIREO_STORAGE_IMG_IMAGE_FILE_H_
#define VIREO_STORAGE_IMG_IMAGE_FILE_H_

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

struct ImageFile {
  ImageFormat format = ImageFormat::kRaw;
  std::unique_ptr<File> file;  // To be closed, whatever happens.
};

// Of `options` name, format, image_opts, read_only, share and cache count. A format that is not
// stated is looked for in the first bytes. The message of an error is all that there is to print:
// "Could not open 'NAME': WHY", in qemu-img's words.
Task<absl::StatusOr<ImageFile>> OpenImageFile(EventLoop& loop, Opener& opener,
                                              SourceOptions options);

// The same for what is wrong with an image once its file is open.
absl::Status CouldNotOpen(const std::string& name, const absl::Status& status);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_IMAGE_FILE_H_
