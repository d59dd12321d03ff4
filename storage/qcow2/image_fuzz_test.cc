// Whatever bytes an image has: it is refused, or every operation ends, with an error or without.
// Nothing crashes, hangs or takes memory beyond the format's limits; and an image that was sound
// stays sound.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/check.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

// Reads a few places, and changes them if `writable`. What is done where depends on the input.
void Use(Qcow2Disk& disk, std::mt19937& random, bool writable) {
  for (int i = 0; i < 12; ++i) {
    const uint64_t sectors = disk.disk().geometry().size_bytes / 512;
    if (sectors == 0) return;
    // Near the beginning, near the end, or anywhere.
    const uint64_t near = std::min<uint64_t>(sectors, 256);
    const uint64_t place = random() % 3;
    const uint64_t sector = place == 0   ? random() % near
                            : place == 1 ? sectors - 1 - random() % near
                                         : (uint64_t{random()} << 32 | random()) % sectors;
    const uint64_t count =
        std::min<uint64_t>(1 + random() % (random() % 4 == 0 ? 100 : 8), sectors - sector);
    const uint64_t offset = sector * 512;
    const uint64_t length = count * 512;
    switch (writable ? random() % 8 : random() % 2) {
      case 0:
        (void)disk.Read(offset, length);
        break;
      case 1:
        (void)disk.loop().RunTask(disk.disk().Status(offset, length));
        break;
      case 2:
        (void)disk.Discard(offset, length);
        break;
      case 3:
        (void)disk.Zero(offset, length, random() % 2 == 0);
        break;
      case 4:
        (void)disk.Flush();
        break;
      case 5:
        if (random() % 4 == 0) (void)disk.loop().RunTask(disk.disk().Resize((sectors + 9) * 512));
        break;
      default:
        (void)disk.Write(offset, length, 7);
    }
  }
}

bool IsSound(Qcow2Disk& disk) {
  const absl::StatusOr<CheckResult> result = disk.Check();
  return result.ok() && result->corruptions == 0 && result->check_errors == 0;
}

}  // namespace
}  // namespace vireo::qcow2

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using vireo::qcow2::Qcow2Disk;
  uint32_t seed = 1;
  for (size_t i = 0; i < size; i += 1 + size / 512) seed = seed * 31 + data[i];
  std::mt19937 random(seed);
  Qcow2Disk disk(std::vector<uint8_t>(data, data + size));
  disk.medium().max_bytes = uint64_t{16} << 20;
  if (disk.Open({.read_only = true}).ok()) {
    vireo::qcow2::Use(disk, random, false);
    (void)disk.Close();
  }
  const bool sound = vireo::qcow2::IsSound(disk);
  if (disk.Open({.cache_bytes = 64 << 10, .commit_age = absl::InfiniteDuration()}).ok()) {
    vireo::qcow2::Use(disk, random, true);
    (void)disk.Close();
  }
  VIREO_CHECK(!sound || vireo::qcow2::IsSound(disk), "its use has damaged a sound image");
  (void)disk.Check(vireo::qcow2::Repair::kAll);
  return 0;
}
