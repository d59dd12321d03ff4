// Whatever bytes an image has: what is done to images that nobody has open (snapshots, bitmaps,
// repairs) is refused, or ends with an error or without. Nothing crashes, hangs or takes memory
// beyond the format's limits; and an image that was sound stays sound.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "storage/qcow2/bitmap_store.h"
#include "storage/qcow2/dirty_bitmap.h"
#include "storage/qcow2/snapshot_edit.h"
#include "storage/qcow2/snapshots.h"
#include "tests/support/memory_file.h"
#include "tests/support/qcow2_disk.h"

namespace vireo::qcow2 {
namespace {

std::vector<std::string> SnapshotIds(Qcow2Disk& disk, File& file) {
  std::vector<std::string> ids;
  const absl::StatusOr<Header> header = disk.ReadTheHeader();
  if (!header.ok()) return ids;
  const absl::StatusOr<SnapshotTable> table = disk.loop().RunTask(ReadSnapshotTable(file, *header));
  if (!table.ok()) return ids;
  for (const Snapshot& snapshot : table->snapshots) {
    if (ids.size() < 4) ids.push_back(snapshot.id);
  }
  return ids;
}

void EditSnapshots(Qcow2Disk& disk, File& file) {
  EventLoop& loop = disk.loop();
  (void)loop.RunTask(CreateSnapshot(loop, file, {.name = "new"}));
  for (const std::string& id : SnapshotIds(disk, file)) {
    (void)loop.RunTask(ApplySnapshot(loop, file, id));
  }
  for (const std::string& id : SnapshotIds(disk, file)) {
    (void)loop.RunTask(DeleteSnapshot(loop, file, id));
  }
}

void EditBitmaps(Qcow2Disk& disk, File& file) {
  EventLoop& loop = disk.loop();
  absl::StatusOr<std::unique_ptr<BitmapStore>> opened = loop.RunTask(BitmapStore::Open(loop, file));
  if (!opened.ok()) return;
  BitmapStore& store = **opened;
  std::vector<std::string> names;
  for (const BitmapRecord& record : store.records()) {
    if (names.size() < 4) names.push_back(record.name);
  }
  for (const std::string& name : names) {
    (void)loop.RunTask(store.SetEnabled(name, false));
    const absl::StatusOr<DirtyBitmap> bits = loop.RunTask(store.Load(name));
    if (!bits.ok()) continue;
    std::vector<BitmapStore::Stored> stored = {{name, &*bits}};
    (void)loop.RunTask(store.Store(std::move(stored)));
  }
  (void)loop.RunTask(store.Add("new", 16, true));
  if (!names.empty()) (void)loop.RunTask(store.Remove(names.front()));
}

bool IsSound(Qcow2Disk& disk) {
  const absl::StatusOr<CheckResult> result = disk.Check();
  return result.ok() && result->corruptions == 0 && result->check_errors == 0;
}

}  // namespace
}  // namespace vireo::qcow2

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using vireo::MemoryFile;
  using vireo::qcow2::Qcow2Disk;
  for (const bool repair : {false, true}) {
    Qcow2Disk disk(std::vector<uint8_t>(data, data + size));
    disk.medium().max_bytes = uint64_t{16} << 20;
    if (repair) (void)disk.Check(vireo::qcow2::Repair::kAll);
    const bool sound = vireo::qcow2::IsSound(disk);
    MemoryFile file(disk.loop(), disk.medium());
    vireo::qcow2::EditSnapshots(disk, file);
    VIREO_CHECK(!sound || vireo::qcow2::IsSound(disk), "snapshots have damaged a sound image");
    vireo::qcow2::EditBitmaps(disk, file);
    VIREO_CHECK(!sound || vireo::qcow2::IsSound(disk), "bitmaps have damaged a sound image");
  }
  return 0;
}
