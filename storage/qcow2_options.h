// The options of QEMU's qcow2 driver that are not about other nodes.

#ifndef VIREO_STORAGE_QCOW2_OPTIONS_H_
#define VIREO_STORAGE_QCOW2_OPTIONS_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "storage/driver_options.h"

namespace vireo {

// Takes them out of `options`, all checked as QEMU checks them. Sizes of caches set `cache_bytes`,
// the bound on all metadata, of the image's backing files too; the others say how QEMU's engine
// does what Vireo's does anyway (overlap checks are always on, slices have their own size) and
// change nothing. INVALID_ARGUMENT in QEMU's words.
absl::Status TakeQcow2Options(DriverOptions& options, uint64_t cluster_bytes,
                              std::optional<uint64_t>* cache_bytes);

}  // namespace vireo

#endif  // VIREO_STORAGE_QCOW2_OPTIONS_H_
