#include "storage/qcow2/check.h"

#include <errno.h>

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/status.h"
#include "storage/qcow2/check_flags.h"
#include "storage/qcow2/check_rebuild.h"
#include "storage/qcow2/check_refcounts.h"
#include "storage/qcow2/check_references.h"
#include "storage/qcow2/check_snapshots.h"
#include "storage/qcow2/check_state.h"
#include "storage/qcow2/format.h"
#include "storage/qcow2/header_reader.h"
#include "storage/qcow2/snapshots.h"

namespace vireo::qcow2 {
namespace {

// The parts of a check, in QEMU's order, so that both tell the same of the same image.
class Checker {
 public:
  Checker(CheckState& state, Repair repair)
      : state_(state), repair_(repair), refcounts_(state), snapshots_(state, repair) {}

  Task<absl::Status> Run() {
    absl::Status status = co_await snapshots_.Read();
    if (status.ok()) status = co_await RunAfterSnapshots();
    snapshots_.CountFound();
    co_return status;
  }

 private:
  Task<absl::Status> RunAfterSnapshots() {
    CheckResult& result = state_.result;
    result.total_clusters = state_.layout.clusters_for(state_.header.size_bytes);
    CO_RETURN_IF_ERROR(co_await Count(repair_));
    const CheckResult counted = result;
    CO_RETURN_IF_ERROR(co_await refcounts_.Compare(Repair::kNone));
    if (state_.must_rebuild && repair_ == Repair::kAll) {
      CO_RETURN_IF_ERROR(co_await Rebuild(counted));
    } else if (state_.must_rebuild && repair_ == Repair::kLeaks) {
      co_return state_.Stop(ErrnoStatus(EIO, "refcounts cannot be mended where they are"),
                            "ERROR need to rebuild refcount structures");
    } else if (repair_ != Repair::kNone && (result.leaks > 0 || result.corruptions > 0)) {
      result = counted;
      CO_RETURN_IF_ERROR(co_await refcounts_.Compare(repair_));
    }
    FlagCheck flags(state_, refcounts_, repair_);
    CO_RETURN_IF_ERROR(co_await flags.Run());
    if (repair_ == Repair::kNone) co_return absl::OkStatus();
    // Otherwise an entry that points behind the end may yet be somebody's data.
    const bool mended = result.check_errors == 0 && result.corruptions == 0;
    if (mended) CO_RETURN_IF_ERROR(co_await refcounts_.ClearBehindEnd());
    CO_RETURN_IF_ERROR(co_await state_.file.Sync());
    if (!mended) co_return absl::OkStatus();
    CO_RETURN_IF_ERROR(co_await ClearDamageBits());
    const absl::Status status = co_await snapshots_.Mend();
    co_return status;
  }

  Task<absl::Status> Count(Repair repair) {
    ReferenceWalk walk(state_, repair);
    CO_RETURN_IF_ERROR(co_await walk.Run());
    const absl::Status counted = co_await refcounts_.CountStructures(repair);
    co_return counted;
  }

  // `counted` is what was found before counts were compared.
  Task<absl::Status> Rebuild(CheckResult counted) {
    CheckResult& result = state_.result;
    const CheckResult found = result;
    state_.Report("Rebuilding refcount structure");
    RefcountRebuild rebuild(state_);
    const absl::Status rebuilt = co_await rebuild.Run();
    if (!rebuilt.ok()) {
      co_return state_.Stop(rebuilt, "ERROR %s", std::string(rebuilt.message()));
    }
    // Everything again: the old structures are leaks now.
    state_.references = ReferenceCounts();
    state_.clusters = state_.layout.clusters_for(state_.file.size());
    state_.must_rebuild = false;
    result = {.leaks_fixed = counted.leaks_fixed,
              .corruptions_fixed = counted.corruptions_fixed,
              .total_clusters = counted.total_clusters};
    CO_RETURN_IF_ERROR(co_await Count(Repair::kNone));
    const CheckResult afterwards = result;
    CO_RETURN_IF_ERROR(co_await refcounts_.Compare(Repair::kLeaks));
    const uint64_t image_end_offset = result.image_end_offset;
    if (state_.must_rebuild) state_.Report("ERROR rebuilt refcount structure is still broken");
    const uint64_t errors = result.check_errors + (state_.must_rebuild ? 1 : 0);
    result = afterwards;  // What was mended of the rebuilding's own is no news.
    result.check_errors = errors;
    result.image_end_offset = image_end_offset;
    if (found.corruptions > result.corruptions) {
      result.corruptions_fixed += found.corruptions - result.corruptions;
    }
    if (found.leaks > result.leaks) result.leaks_fixed += found.leaks - result.leaks;
    co_return absl::OkStatus();
  }

  Task<absl::Status> ClearDamageBits() {
    const Header& header = state_.header;
    const uint64_t wanted = header.incompatible & ~(kIncompatibleDirty | kIncompatibleCorrupt);
    if (header.layout.version < 3 || wanted == header.incompatible) co_return absl::OkStatus();
    const Be64 field(wanted);
    CO_RETURN_IF_ERROR(co_await state_.Write(kFeatureFieldsOffset, &field, sizeof(field)));
    const absl::Status status = co_await state_.file.Sync();
    co_return status;
  }

  CheckState& state_;
  const Repair repair_;
  RefcountComparison refcounts_;
  SnapshotCheck snapshots_;
};

}  // namespace

Task<absl::StatusOr<CheckResult>> CheckImage(File& file, Repair repair, CheckReport* report) {
  CO_ASSIGN_OR_RETURN(Header header, co_await ReadHeader(file, Access::kRepair));
  CheckState state(file, std::move(header), report);
  Checker checker(state, repair);
  state.result.stopped = co_await checker.Run();
  if (!state.result.stopped.ok() && state.result.check_errors == 0) ++state.result.check_errors;
  co_return state.result;
}

Task<absl::StatusOr<Header>> RepairIfDirty(File& file, Header header) {
  if (!header.dirty()) co_return header;
  LogWarning("%s: was not closed cleanly; repairing its refcounts", file.name());
  const absl::StatusOr<SnapshotTable> snapshots = co_await ReadSnapshotTable(file, header);
  CO_RETURN_IF_ERROR(snapshots.status());
  const absl::StatusOr<CheckResult> checked = co_await CheckImage(file, Repair::kAll);
  CO_RETURN_IF_ERROR(checked.status());
  CO_RETURN_IF_ERROR(checked->stopped);
  if (checked->corruptions > 0 || checked->check_errors > 0) {
    co_return absl::DataLossError(absl::StrFormat(
        "%s: was not closed cleanly, and its refcounts could not be repaired", file.name()));
  }
  absl::StatusOr<Header> repaired = co_await ReadHeader(file, Access::kReadWrite);
  co_return repaired;
}

}  // namespace vireo::qcow2
