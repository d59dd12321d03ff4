// The bounds that every backend holds a request to.

#ifndef VIREO_STORAGE_REQUEST_CHECK_H_
#define VIREO_STORAGE_REQUEST_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/block_backend.h"

namespace vireo {

// OUT_OF_RANGE past the end; INVALID_ARGUMENT when not whole blocks. `name` is the image's.
absl::Status CheckRequest(absl::string_view name, const Geometry& geometry, uint64_t offset,
                          uint64_t length);

// The same, and FAILED_PRECONDITION for a read-only disk.
absl::Status CheckChange(absl::string_view name, const Geometry& geometry, uint64_t offset,
                         uint64_t length);

}  // namespace vireo

#endif  // VIREO_STORAGE_REQUEST_CHECK_H_
