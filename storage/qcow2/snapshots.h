// The table of internal snapshots, read and written (qcow2 spec, "Snapshots").

#ifndef VIREO_STORAGE_QCOW2_SNAPSHOTS_H_
#define VIREO_STORAGE_QCOW2_SNAPSHOTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/async/task.h"
#include "storage/file.h"
#include "storage/qcow2/header.h"

namespace vireo::qcow2 {

struct Snapshot {
  uint64_t l1_offset = 0;
  uint32_t l1_entries = 0;
  std::string id;
  std::string name;
  uint32_t date_seconds = 0;
  uint32_t date_nanoseconds = 0;
  uint64_t guest_clock_ns = 0;
  uint64_t vm_state_bytes = 0;
  uint64_t disk_bytes = 0;               // The image's own where the record does not say.
  uint64_t instructions = ~uint64_t{0};  // All ones = not recorded.
  uint32_t extra_data_bytes = 0;         // In the file.
  std::vector<uint8_t> unknown_extra;    // Extra data behind what we know: kept.
};

struct SnapshotTable {
  std::vector<Snapshot> snapshots;
  uint64_t bytes = 0;  // In the file, from header.snapshots_offset on.
};

// DATA_LOSS for a table that is damaged or lies past the end of the file.
Task<absl::StatusOr<SnapshotTable>> ReadSnapshotTable(File& file, const Header& header);

// What of a table is beyond the limits of the format, or of its file.
struct SnapshotTableDamage {
  struct LongExtraData {
    uint32_t record;
    uint32_t bytes;
  };
  std::vector<LongExtraData> long_extra_data;  // Records that have more than 1024 bytes of it.
  // Records behind the most that an image can have; of the others, those behind 64 MiB, and those
  // behind the end of the file.
  uint32_t too_many = 0;
  uint32_t too_long = 0;
  uint32_t past_end = 0;
};

// The table without what is beyond those limits, for a check. DATA_LOSS if all of it lies past the
// end of the file.
Task<absl::StatusOr<SnapshotTable>> ReadDamagedSnapshotTable(File& file, const Header& header,
                                                             SnapshotTableDamage& damage);

// The bytes of a table; records come out complete, also where the file's were not.
// RESOURCE_EXHAUSTED beyond the limits of the format, INVALID_ARGUMENT for a name that is too long.
absl::StatusOr<std::vector<uint8_t>> SerializeSnapshotTable(const std::vector<Snapshot>& snapshots);

// The one whose id is `text`, else the first whose name is; null if there is none.
const Snapshot* FindSnapshot(const std::vector<Snapshot>& snapshots, const std::string& text);

// What a command line says of a snapshot.
struct SnapshotChoice {
  std::string id_or_name;  // Looked up as FindSnapshot() does, unless one of these is set:
  std::optional<std::string> id;
  std::optional<std::string> name;
};
const Snapshot* FindSnapshot(const std::vector<Snapshot>& snapshots, const SnapshotChoice& choice);

// The header that shows the disk as it was in the snapshot, to be opened read-only. NOT_FOUND;
// DATA_LOSS if its L1 table cannot be right.
Task<absl::StatusOr<Header>> HeaderOfSnapshot(File& file, Header header, SnapshotChoice choice);

// OK if the snapshot's L1 table can be where it says; DATA_LOSS with the reason otherwise.
absl::Status CheckSnapshotL1(const File& file, const Layout& layout, const Snapshot& snapshot);

}  // namespace vireo::qcow2

#endif  // VIREO_STORAGE_QCOW2_SNAPSHOTS_H_
