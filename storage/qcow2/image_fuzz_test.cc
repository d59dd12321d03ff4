// Whatever bytes an image has: it is refused, or every operation ends, with an error or without.
// Nothing crashes, hangs or takes memory beyond the format's limits.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

// Reads a few places, and changes them if `writable`.
void Use(Qcow2Disk& disk, bool writable) {
  const uint64_t size = disk.disk().geometry().size_bytes;
  const uint64_t length = 16 << 10;
  for (const uint64_t place : {uint64_t{0}, uint64_t{8192}, size / 1024 * 512, size - size / 4}) {
    const uint64_t offset = place / 512 * 512;
    if (offset >= size) continue;
    const uint64_t count = std::min<uint64_t>(length, (size - offset) / 512 * 512);
    (void)disk.Read(offset, count);
    (void)disk.loop().RunTask(disk.disk().Status(offset, 512));
    if (!writable) continue;
    (void)disk.Write(offset, std::min<uint64_t>(count, 1536), 7);
    (void)disk.Discard(offset, count / 2 / 512 * 512);
    (void)disk.Zero(offset, 512, true);
    (void)disk.Flush();
  }
}

}  // namespace
}  // namespace vireo::qcow2

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using vireo::qcow2::Qcow2Disk;
  Qcow2Disk disk(std::vector<uint8_t>(data, data + size));
  disk.medium().max_bytes = uint64_t{16} << 20;
  if (disk.Open({.read_only = true}).ok()) {
    vireo::qcow2::Use(disk, false);
    (void)disk.Close();
  }
  (void)disk.Check();
  if (disk.Open({.cache_bytes = 64 << 10, .commit_age = absl::InfiniteDuration()}).ok()) {
    vireo::qcow2::Use(disk, true);
    (void)disk.Close();
  }
  (void)disk.Check(vireo::qcow2::Repair::kAll);
  return 0;
}
