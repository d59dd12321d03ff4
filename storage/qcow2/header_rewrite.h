// Writes an image's first cluster anew: for changes of header extensions and of the backing file's
// name, which have no place of their own.

#ifndef VIREO_STORAGE_QCOW2_HEADER_REWRITE_H_
#define VIREO_STORAGE_QCOW2_HEADER_REWRITE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

// Makes the file say what `header` says, durably; unknown fields and extensions stay. Only sectors
// that change are written, in one write. Where there is too little room the names of features are
// left out. RESOURCE_EXHAUSTED when that does not do; nothing is written then.
Task<absl::Status> RewriteHeader(File& file, Header header);

// Gives the image another backing file, or none: header only, content is the caller's business.
// INVALID_ARGUMENT for a name or a format that is too long; otherwise as RewriteHeader().
Task<absl::Status> ChangeBackingFile(File& file, std::optional<std::string> name,
                                     std::string format);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_HEADER_REWRITE_H_
