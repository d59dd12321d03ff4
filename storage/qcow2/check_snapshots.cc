#include "storage/qcow2/check_snapshots.h"

#include <errno.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "base/async/event_loop.h"
#include "base/endian.h"
#include "base/status.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/offline_refcounts.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {
namespace {

constexpr char kRemovable[] =
    "You can force-remove all %d overhanging snapshots with vireo-img check -r all";
// A record of version 3 says how large VM state and disk are.
constexpr uint32_t kWantedExtraBytes = 16;

}  // namespace

Task<absl::Status> SnapshotCheck::Read() {
  if (state_.header.snapshot_count == 0) co_return absl::OkStatus();
  SnapshotTableDamage damage;
  absl::StatusOr<SnapshotTable> table =
      co_await ReadDamagedSnapshotTable(state_.file, state_.header, damage);
  if (!table.ok()) {
    co_return state_.Stop(table.status(), "ERROR failed to read the snapshot table: %s",
                          std::string(table.status().message()));
  }
  const absl::Status too_large = ErrnoStatus(EFBIG, "the snapshot table is beyond its limits");
  if (!mend_ && damage.too_many > 0) {
    const absl::Status stopped = state_.Stop(too_large, "ERROR snapshot table too large");
    state_.Report(kRemovable, damage.too_many);
    co_return stopped;
  }
  if (!mend_ && !damage.long_extra_data.empty()) {
    const absl::Status stopped = state_.Stop(
        too_large,
        "ERROR failed to read the snapshot table: Too much extra metadata in snapshot table "
        "entry %d",
        damage.long_extra_data.front().record);
    state_.Report("You can force-remove this extra metadata with vireo-img check -r all");
    co_return stopped;
  }
  if (!mend_ && damage.too_long > 0) {
    const absl::Status stopped = state_.Stop(
        too_large, "ERROR failed to read the snapshot table: Snapshot table is too big");
    state_.Report(kRemovable, damage.too_long);
    co_return stopped;
  }

  if (!mend_ && damage.past_end > 0) {
    const absl::Status stopped = state_.Stop(
        ErrnoStatus(EINVAL, "the snapshot table is incomplete"),
        "ERROR failed to read the snapshot table: The file ends before its last %d entries",
        damage.past_end);
    state_.Report(kRemovable, damage.past_end);
    co_return stopped;
  }

  if (damage.too_many > 0) state_.Report("Discarding %d overhanging snapshots", damage.too_many);
  for (const SnapshotTableDamage::LongExtraData& extra : damage.long_extra_data) {
    state_.Report("Discarding too much extra metadata in snapshot table entry %d (%d > %d)",
                  extra.record, extra.bytes, kMaxSnapshotExtraBytes);
  }
  if (damage.too_long > 0) {
    state_.Report("Discarding %d overhanging snapshots (snapshot table is too big)",
                  damage.too_long);
  }
  if (damage.past_end > 0) {
    state_.Report("Discarding %d overhanging snapshots (they are past the end of the file)",
                  damage.past_end);
  }
  found_ = damage.long_extra_data.size();
  state_.snapshot_table = *std::move(table);
  const std::vector<Snapshot>& snapshots = state_.snapshot_table.snapshots;
  if (state_.layout.version >= 3) {
    for (size_t i = 0; i < snapshots.size(); ++i) {
      if (snapshots[i].extra_data_bytes >= kWantedExtraBytes) continue;
      ++found_;
      state_.Report("%s snapshot table entry %d is incomplete", mend_ ? "Repairing" : "ERROR", i);
    }
  }
  const absl::Status dropped = co_await DropFromHeader(
      damage.too_many + damage.too_long + damage.past_end, static_cast<uint32_t>(snapshots.size()));
  co_return dropped;
}

Task<absl::Status> SnapshotCheck::DropFromHeader(uint32_t dropped, uint32_t kept) {
  if (dropped == 0) co_return absl::OkStatus();
  const Be32 count(kept);
  absl::Status status = co_await state_.Write(kSnapshotFieldsOffset, &count, sizeof(count));
  if (status.ok()) status = co_await state_.file.Sync();
  if (!status.ok()) {
    co_return state_.Stop(status,
                          "ERROR failed to update the snapshot count in the image header: %s",
                          std::string(status.message()));
  }
  state_.header.snapshot_count = kept;
  state_.result.corruptions_fixed += dropped;
  co_return absl::OkStatus();
}

Task<absl::Status> SnapshotCheck::Mend() {
  if (!mend_ || found_ == 0) co_return absl::OkStatus();
  const absl::Status written = co_await Rewrite();
  if (!written.ok()) {
    co_return state_.Stop(written, "ERROR failed to update snapshot table: %s",
                          std::string(written.message()));
  }
  state_.result.corruptions_fixed += std::exchange(found_, 0);
  co_return absl::OkStatus();
}

// The new table is durable before the header says where it is, and the header before the old one is
// given up: a cut leaves the one or the other, and clusters that leak at most.
Task<absl::Status> SnapshotCheck::Rewrite() {
  const Layout& layout = state_.layout;
  CO_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes,
                      SerializeSnapshotTable(state_.snapshot_table.snapshots));
  const uint64_t clusters = layout.clusters_for(bytes.size());
  bytes.resize(clusters << layout.cluster_bits);
  // All counts were made right: what is free by them is free.
  OfflineRefcounts counts(*EventLoop::Current(), state_.file, state_.header);
  CO_RETURN_IF_ERROR(co_await counts.Load());
  CO_ASSIGN_OR_RETURN(const uint64_t offset, co_await counts.Allocate(clusters));
  CO_RETURN_IF_ERROR(co_await counts.Write());
  CO_RETURN_IF_ERROR(co_await state_.Write(offset, bytes.data(), bytes.size()));
  CO_RETURN_IF_ERROR(co_await state_.file.Sync());
  const Be64 field(offset);
  CO_RETURN_IF_ERROR(
      co_await state_.Write(kSnapshotFieldsOffset + sizeof(Be32), &field, sizeof(field)));
  CO_RETURN_IF_ERROR(co_await state_.file.Sync());
  const ClusterRun old = {layout.cluster_index(state_.header.snapshots_offset),
                          layout.clusters_for(state_.snapshot_table.bytes)};
  state_.header.snapshots_offset = offset;
  CO_RETURN_IF_ERROR(co_await counts.Lower(std::span(&old, 1)));
  CO_RETURN_IF_ERROR(co_await counts.Write());
  const absl::Status synced = co_await state_.file.Sync();
  co_return synced;
}

}  // namespace vireo::qcow2
