// The list of an image's internal snapshots, as `snapshot -l` and `info` print it.

#ifndef VIREO_STORAGE_IMG_SNAPSHOT_LIST_H_
#define VIREO_STORAGE_IMG_SNAPSHOT_LIST_H_

#include <string>
#include <vector>

#include "storage/qcow2/snapshots.h"

namespace vireo::img {

// `text` with control characters spelled out: a name must not write to the terminal.
std::string Printable(const std::string& text);

// With its heading; empty if there are none. Times are local ones.
std::string SnapshotList(const std::vector<qcow2::Snapshot>& snapshots);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_SNAPSHOT_LIST_H_
