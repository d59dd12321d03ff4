// Compressing one cluster (qcow2 spec, "Compressed Clusters Descriptor"). Pure functions, any
// thread.

#ifndef VIREO_STORAGE_QCOW2_COMPRESSOR_H_
#define VIREO_STORAGE_QCOW2_COMPRESSOR_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "storage/qcow2/compressed.h"

namespace vireo::qcow2 {

// A stream shorter than `cluster`, or nothing if there is none. Deflate looks back 4 KiB at most,
// as far as every reader follows.
std::optional<std::vector<uint8_t>> Compress(Compression compression,
                                             std::span<const uint8_t> cluster);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_COMPRESSOR_H_
