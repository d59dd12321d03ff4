// How much of a disk has space in the file before it is written.

#ifndef VIREO_STORAGE_QCOW2_PREALLOCATION_H_
#define VIREO_STORAGE_QCOW2_PREALLOCATION_H_

namespace vireo::qcow2 {

enum class Preallocation {
  kOff,
  kMetadata,  // Every cluster has its place in the file, which stays sparse.
  kFalloc,    // The host has set space aside as well.
  kFull,      // Zeros are written there.
};

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_PREALLOCATION_H_
