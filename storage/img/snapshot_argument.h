// "-l": which internal snapshot of an image a verb shall read.

#ifndef VIREO_STORAGE_IMG_SNAPSHOT_ARGUMENT_H_
#define VIREO_STORAGE_IMG_SNAPSHOT_ARGUMENT_H_

#include <optional>
#include <string>

#include "storage/img/tool.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::img {

// "ID_OR_NAME", or "snapshot.id=ID,snapshot.name=NAME" or one of the two. Nothing, once it has told
// the user what is wrong.
std::optional<qcow2::SnapshotChoice> SnapshotArgument(const Tool& tool, const std::string& text);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_SNAPSHOT_ARGUMENT_H_
