#include "storage/qcow2/check_flags.h"

#include <algorithm>

#include "base/status.h"
#include "storage/qcow2/format.h"

namespace vireo::qcow2 {

FlagCheck::FlagCheck(CheckState& state, RefcountComparison& refcounts, Repair repair)
    : state_(state),
      refcounts_(refcounts),
      // Where leaks alone are mended, flags are only when all counts are right.
      mend_flags_(repair == Repair::kAll || (repair == Repair::kLeaks && state.result.clean())),
      mend_reserved_(repair == Repair::kAll) {}

void FlagCheck::CountMended(uint64_t found) {
  state_.result.corruptions -= std::min(found, state_.result.corruptions);
  state_.result.corruptions_fixed += found;
}

Task<absl::Status> FlagCheck::Run() {
  const Layout& layout = state_.layout;
  // Each cluster is counted once and has the flag: the tables were seen, there is nothing to find.
  const bool tables_are_right =
      state_.plain && !state_.references.any_shared() && state_.result.clean();
  std::vector<Be64> l1(state_.header.l1_entries);
  CO_RETURN_IF_ERROR(co_await state_.ReadEntries(state_.header.l1_offset, l1));
  uint64_t mended = 0;
  for (uint64_t index = 0; index < l1.size(); ++index) {
    const uint64_t entry = l1[index];
    const uint64_t table = entry & kEntryOffsetMask;
    if (table == 0 || layout.offset_in_cluster(table) != 0 ||
        layout.cluster_index(table) >= state_.clusters) {
      continue;
    }
    const absl::StatusOr<uint64_t> count = co_await refcounts_.Stored(layout.cluster_index(table));
    if (!count.ok()) continue;  // Told when it was compared.
    uint64_t wanted = entry;
    if ((*count == 1) != ((entry & kEntryCopied) != 0)) {
      state_.Corruption("%s OFLAG_COPIED L2 cluster: l1_index=%d l1_entry=%x refcount=%d",
                        mend_flags_ ? "Repairing" : "ERROR", index, entry, *count);
      if (mend_flags_) wanted ^= kEntryCopied;
      if (mend_flags_) ++mended;
    }
    if (mend_reserved_ && (wanted & kL1ReservedMask) != 0) {
      wanted &= ~kL1ReservedMask;
      ++mended;
    }
    l1[index] = wanted;
    if (!tables_are_right) CO_RETURN_IF_ERROR(co_await CheckTable(table));
  }
  if (mended == 0) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(
      co_await state_.Write(state_.header.l1_offset, l1.data(), l1.size() * sizeof(Be64)));
  CountMended(mended);
  co_return absl::OkStatus();
}

Task<absl::Status> FlagCheck::CheckTable(uint64_t table) {
  const Layout& layout = state_.layout;
  std::vector<Be64> entries(layout.cluster_bytes() / sizeof(Be64));
  const absl::Status read = co_await state_.ReadEntries(table, entries);
  if (!read.ok()) co_return state_.Stop(read, "ERROR: I/O error in check_oflag_copied");
  uint64_t mended = 0;
  const size_t step = layout.l2_entry_bytes / sizeof(Be64);
  for (size_t i = 0; i < entries.size(); i += step) {
    const uint64_t entry = entries[i];
    if (entry == 0 || (entry & kEntryCompressed) != 0) continue;
    const uint64_t host_offset = entry & kEntryOffsetMask;
    const bool at_zero = layout.external_data && (entry & kEntryCopied) != 0;
    uint64_t wanted = entry;
    if (host_offset != 0 || at_zero) {
      uint64_t count = 1;  // What is in a data file is not counted.
      if (!layout.external_data) {
        const absl::StatusOr<uint64_t> stored =
            co_await refcounts_.Stored(layout.cluster_index(host_offset));
        if (!stored.ok()) continue;
        count = *stored;
      }
      if ((count == 1) != ((entry & kEntryCopied) != 0)) {
        state_.Corruption("%s OFLAG_COPIED data cluster: l2_entry=%x refcount=%d",
                          mend_flags_ ? "Repairing" : "ERROR", entry, count);
        if (mend_flags_) wanted ^= kEntryCopied;
        if (mend_flags_) ++mended;
      }
    }
    if (mend_reserved_ && (wanted & kL2ReservedMask) != 0) {
      wanted &= ~kL2ReservedMask;
      ++mended;
    }
    entries[i] = wanted;
  }
  if (mended == 0) co_return absl::OkStatus();
  if (state_.IsTaken(table)) {
    co_return state_.Stop(ErrnoStatus(EIO, "an L2 table is where another structure is"),
                          "ERROR: Could not write L2 table; metadata overlap check failed: "
                          "Input/output error");
  }
  CO_RETURN_IF_ERROR(co_await state_.Write(table, entries.data(), entries.size() * sizeof(Be64)));
  CountMended(mended);
  co_return absl::OkStatus();
}

}  // namespace vireo::qcow2
