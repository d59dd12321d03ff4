// Puts an internal snapshot into a QCOW2 image in memory, for tests of images that have one.

#ifndef VIREO_TESTS_SUPPORT_QCOW2_SNAPSHOT_H_
#define VIREO_TESTS_SUPPORT_QCOW2_SNAPSHOT_H_

#include <cstdint>
#include <vector>

namespace vireo::qcow2 {

// The snapshot holds what the disk holds now. `image` is sound, has no snapshot and refcounts of
// two bits at least; its single refcount block has room. CHECKs that.
void AddInternalSnapshot(std::vector<uint8_t>& image);

}  // namespace vireo::qcow2

#endif  // VIREO_TESTS_SUPPORT_QCOW2_SNAPSHOT_H_
