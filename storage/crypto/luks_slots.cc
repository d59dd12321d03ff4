#include "storage/crypto/luks_slots.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/align.h"
#include "base/status.h"
#include "storage/crypto/luks_key.h"

namespace vireo::crypto {

int LuksSlotEditor::active_slots() const {
  return static_cast<int>(std::count_if(header_.slots.begin(), header_.slots.end(),
                                        [](const LuksSlot& slot) { return slot.active; }));
}

Task<absl::StatusOr<bool>> LuksSlotEditor::Opens(size_t index, const Secret& passphrase) {
  const LuksSlot* const slot = &header_.slots[index];
  if (!slot->active) co_return false;
  std::vector<uint8_t> material(AlignUp<uint64_t>(header_.key_material_bytes(), kSectorBytes));
  const std::span<uint8_t> bytes(material);
  const iovec part = ToIoVec(bytes);
  CO_RETURN_IF_ERROR(
      co_await file_.Read(area_.offset + slot->key_material_offset, IoVecs(&part, 1)));
  const LuksHeader* const header = &header_;
  const std::span<const uint8_t> text = passphrase.bytes();
  auto attempt = [header, slot, text, bytes]() {
    return OpenLuksSlot(*header, *slot, text, bytes);
  };
  auto attempting = loop_.Offload(std::move(attempt));
  const absl::StatusOr<Secret> key = co_await std::move(attempting);
  CO_RETURN_IF_ERROR(key.status());
  co_return key->size() > 0;
}

Task<absl::Status> LuksSlotEditor::Write(uint64_t offset, std::span<const uint8_t> bytes) {
  const iovec part = ToIoVec(bytes);
  const absl::Status written = co_await file_.Write(area_.offset + offset, IoVecs(&part, 1));
  co_return written;
}

Task<absl::Status> LuksSlotEditor::SetActive(size_t index, Activity activity) {
  LuksSlot slot = header_.slots[index];
  slot.active = activity == Activity::kActive;
  const std::array<uint8_t, kLuksSlotBytes> raw = SerializeLuksSlot(slot);
  // The state alone: it is whole within its sector, where the slot need not be.
  CO_RETURN_IF_ERROR(
      co_await Write(LuksSlotOffset(index), std::span(raw).first(kLuksSlotStateBytes)));
  CO_RETURN_IF_ERROR(co_await file_.Sync());
  header_.slots[index].active = slot.active;
  co_return absl::OkStatus();
}

Task<absl::Status> LuksSlotEditor::StoreDisabled(size_t index, const Secret& master_key,
                                                 const Secret& passphrase, uint32_t iteration_ms) {
  LuksSlot slot = header_.slots[index];
  LuksSlot* const sealed = &slot;
  const LuksHeader* const header = &header_;
  const std::span<const uint8_t> key = master_key.bytes();
  const std::span<const uint8_t> text = passphrase.bytes();
  const absl::Duration time = absl::Milliseconds(iteration_ms);
  auto seal = [header, key, text, time, sealed]() {
    return SealLuksSlot(*header, key, text, time, sealed);
  };
  auto sealing = loop_.Offload(std::move(seal));
  const absl::StatusOr<std::vector<uint8_t>> material = co_await std::move(sealing);
  CO_RETURN_IF_ERROR(material.status());
  CO_RETURN_IF_ERROR(co_await Write(slot.key_material_offset, *material));
  const std::array<uint8_t, kLuksSlotBytes> raw = SerializeLuksSlot(slot);
  CO_RETURN_IF_ERROR(co_await Write(LuksSlotOffset(index), raw));
  CO_RETURN_IF_ERROR(co_await file_.Sync());
  header_.slots[index] = slot;
  co_return absl::OkStatus();
}

Task<absl::Status> LuksSlotEditor::Store(size_t index, const Secret& master_key,
                                         const Secret& passphrase, uint32_t iteration_ms) {
  CO_RETURN_IF_ERROR(ValidateLuksIterationTime(iteration_ms));
  std::optional<size_t> stand_in;
  if (header_.slots[index].active && active_slots() == 1) {
    // The only way in is given up when there is another.
    stand_in = index == 0 ? 1 : 0;
    CO_RETURN_IF_ERROR(co_await StoreDisabled(*stand_in, master_key, passphrase, iteration_ms));
    CO_RETURN_IF_ERROR(co_await SetActive(*stand_in, Activity::kActive));
  }
  if (header_.slots[index].active) {
    CO_RETURN_IF_ERROR(co_await SetActive(index, Activity::kDisabled));
  }
  CO_RETURN_IF_ERROR(co_await StoreDisabled(index, master_key, passphrase, iteration_ms));
  CO_RETURN_IF_ERROR(co_await SetActive(index, Activity::kActive));
  if (!stand_in.has_value()) co_return absl::OkStatus();
  const absl::Status erased = co_await Erase(*stand_in);
  co_return erased;
}

Task<absl::Status> LuksSlotEditor::Erase(size_t index) {
  CO_RETURN_IF_ERROR(co_await SetActive(index, Activity::kDisabled));
  LuksSlot& slot = header_.slots[index];
  slot.iterations = 0;
  slot.salt = {};
  const std::array<uint8_t, kLuksSlotBytes> raw = SerializeLuksSlot(slot);
  CO_RETURN_IF_ERROR(co_await Write(LuksSlotOffset(index), raw));
  std::vector<uint8_t> noise(AlignUp<uint64_t>(header_.key_material_bytes(), kSectorBytes));
  CO_RETURN_IF_ERROR(FillRandom(noise));
  CO_RETURN_IF_ERROR(co_await Write(slot.key_material_offset, noise));
  const absl::Status synced = co_await file_.Sync();
  co_return synced;
}

}  // namespace vireo::crypto
