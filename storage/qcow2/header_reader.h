// The header of an open file, read and validated (header.h).

#ifndef VIREO_STORAGE_QCOW2_HEADER_READER_H_
#define VIREO_STORAGE_QCOW2_HEADER_READER_H_

#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

// Statuses as of ParseHeader(). `file` outlives the task.
Task<absl::StatusOr<Header>> ReadHeader(File& file, Access access);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_HEADER_READER_H_
