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

// Makes the file say what `header` says, durably; unknown fields and extensions stay.
//
// Whenever the power goes, the file says what it said before or what it says now. A disk writes no
// more than a sector (512 bytes) at once, so what is in the first one decides: a change that takes
// more writes the rest where nothing was before, leaving out the names of features, which only
// serve messages, if that is what it takes. Only where that does not do either (other extensions of
// hundreds of bytes, or a long name in a cluster of less than 4 KiB) several sectors change in one
// write, as other programs always do it.
//
// RESOURCE_EXHAUSTED when it does not fit into a cluster, even without names of features; nothing
// is written then.
Task<absl::Status> RewriteHeader(File& file, Header header);

// Gives the image another backing file, or none: header only, content is the caller's business.
// INVALID_ARGUMENT for a name or a format that is too long; otherwise as RewriteHeader().
Task<absl::Status> ChangeBackingFile(File& file, std::optional<std::string> name,
                                     std::string format);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_HEADER_REWRITE_H_
