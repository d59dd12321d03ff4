// One kind of image for the tests of the model.

#ifndef VIREO_TESTS_MODEL_DISK_SHAPE_H_
#define VIREO_TESTS_MODEL_DISK_SHAPE_H_

#include <cstdint>
#include <ostream>

#include "storage/qcow2/create.h"

namespace vireo {

struct DiskShape {
  enum class Backing { kNone, kRaw, kQcow2 };

  const char* name;
  qcow2::CreateOptions options;  // Without size and backing file.
  uint64_t disk_bytes = 1 << 20;
  Backing backing = Backing::kNone;
  uint64_t backing_bytes = 0;
  // The image starts with content that an internal snapshot shares, and more of them come and go.
  bool snapshots = false;
  bool encrypted = false;
  bool compressed = false;  // Some writes are.
  bool bitmaps = false;     // It starts with dirty bitmaps, and more of them come and go.
  // Something happens to it while nobody has it open.
  bool edited_offline() const { return snapshots || bitmaps; }
  uint64_t cost = 1;  // Of a step, in those of others: tests do that much less.
};

inline std::ostream& operator<<(std::ostream& out, const DiskShape& shape) {
  return out << shape.name;
}

}  // namespace vireo

#endif  // VIREO_TESTS_MODEL_DISK_SHAPE_H_
