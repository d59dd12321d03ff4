#include "devices/storage_controllers/prd_table.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "devices/storage_controllers/ahci_spec.h"

namespace vireo::ahci {

bool PrdTable::NextEntry() {
  const absl::StatusOr<PrdEntry> entry = memory_->ReadObject<PrdEntry>(next_);
  const std::optional<GuestAddress> after = next_.Plus(sizeof(PrdEntry));
  if (!entry.ok() || !after.has_value()) return false;
  next_ = *after;
  --entries_left_;
  // §4.2.3.3: counts are even and so are addresses. The bits that would say otherwise are wired.
  const uint32_t dbc = entry->dbc;
  piece_ = GuestAddress(entry->dba & ~uint64_t{1});
  piece_left_ = ((dbc & kPrdBytesMask) | 1) + 1;
  piece_interrupts_ = (dbc & kPrdInterrupt) != 0;
  return true;
}

PrdTable::Outcome PrdTable::Write(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    if (piece_left_ == 0) {
      if (entries_left_ == 0) return Outcome::kFull;
      if (!NextEntry()) return Outcome::kFault;
    }
    const uint32_t length = static_cast<uint32_t>(std::min<uint64_t>(bytes.size(), piece_left_));
    if (!memory_->Write(piece_, bytes.first(length)).ok()) return Outcome::kFault;
    bytes = bytes.subspan(length);
    written_ += length;
    piece_ = GuestAddress(piece_.value() + length);  // Within RAM, so it does not wrap.
    piece_left_ -= length;
    if (piece_left_ == 0 && piece_interrupts_) interrupt_ = true;
  }
  return Outcome::kAll;
}

bool PrdTable::TakeInterrupt() { return std::exchange(interrupt_, false); }

}  // namespace vireo::ahci
