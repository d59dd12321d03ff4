#include "storage/img/key_slots.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/luks_slots.h"
#include "storage/qcow2/encryption.h"
#include "storage/qcow2/header_reader.h"

namespace vireo::img {
namespace {

constexpr uint32_t kIterationMs = 2000;  // Unless told otherwise.

using SharedSecret = std::shared_ptr<const Secret>;

absl::Status Refuse(const std::string& why) { return absl::InvalidArgumentError(why); }

absl::StatusOr<std::optional<uint32_t>> TakeNumber(std::map<std::string, std::string>& options,
                                                   const char* key) {
  const auto found = options.find(key);
  if (found == options.end()) return std::nullopt;
  int64_t number = 0;
  if (!absl::SimpleAtoi(found->second, &number)) {
    return Refuse(absl::StrFormat("Parameter '%s' expects a number", key));
  }
  options.erase(found);
  return static_cast<uint32_t>(number);
}

absl::Status CheckSlotNumber(uint32_t slot) {
  if (slot < crypto::kLuksSlots) return absl::OkStatus();
  return Refuse(absl::StrFormat("Invalid keyslot %d specified, must be between 0 and %d", slot,
                                crypto::kLuksSlots - 1));
}

Task<absl::Status> Add(crypto::LuksSlotEditor& editor, const Secret& master_key,
                       const SecretStore& secrets, KeySlotChange change) {
  const crypto::LuksHeader& header = editor.header();
  uint32_t slot = 0;
  if (change.slot.has_value()) {
    slot = *change.slot;
    CO_RETURN_IF_ERROR(CheckSlotNumber(slot));
    if (header.slots[slot].active && !change.force) {
      co_return Refuse(
          absl::StrFormat("Refusing to overwrite active keyslot %d - please erase it first", slot));
    }
  } else {
    while (slot < crypto::kLuksSlots && header.slots[slot].active) ++slot;
    if (slot == crypto::kLuksSlots) {
      co_return Refuse("Can't add a keyslot - all keyslots are in use");
    }
  }
  CO_ASSIGN_OR_RETURN(const SharedSecret passphrase, secrets.Find(*change.new_secret));
  const absl::Status stored = co_await editor.Store(slot, master_key, *passphrase,
                                                    change.iteration_ms.value_or(kIterationMs));
  co_return stored;
}

// Those that are to be erased.
Task<absl::StatusOr<std::vector<uint32_t>>> ChooseSlots(crypto::LuksSlotEditor& editor,
                                                        const SecretStore& secrets,
                                                        KeySlotChange change) {
  SharedSecret old;
  if (change.old_secret.has_value()) {
    CO_ASSIGN_OR_RETURN(old, secrets.Find(*change.old_secret));
  }
  std::vector<uint32_t> slots;
  if (change.slot.has_value()) {
    const uint32_t slot = *change.slot;
    CO_RETURN_IF_ERROR(CheckSlotNumber(slot));
    if (old != nullptr) {
      CO_ASSIGN_OR_RETURN(const bool opens, co_await editor.Opens(slot, *old));
      if (!opens) {
        co_return Refuse(absl::StrFormat(
            "Given keyslot %d doesn't contain the given old password for erase operation", slot));
      }
    }
    if (!change.force && !editor.header().slots[slot].active) {
      co_return Refuse(absl::StrFormat("Given keyslot %d is already erased (inactive) ", slot));
    }
    if (!change.force && editor.active_slots() == 1) {
      co_return Refuse(absl::StrFormat(
          "Attempt to erase the only active keyslot %d which will erase all the data in the image "
          "irreversibly - refusing operation",
          slot));
    }
    slots.push_back(slot);
    co_return slots;
  }
  if (old == nullptr) {
    co_return Refuse(
        "To erase keyslot(s), either explicit keyslot index or the password currently contained in "
        "them must be given");
  }
  for (uint32_t slot = 0; slot < crypto::kLuksSlots; ++slot) {
    CO_ASSIGN_OR_RETURN(const bool opens, co_await editor.Opens(slot, *old));
    if (opens) slots.push_back(slot);
  }
  if (slots.empty()) {
    co_return Refuse("No keyslots match given (old) password for erase operation");
  }
  if (!change.force && static_cast<int>(slots.size()) == editor.active_slots()) {
    co_return Refuse(
        "All the active keyslots match the (old) password that was given and erasing them will "
        "erase all the data in the image irreversibly - refusing operation");
  }
  co_return slots;
}

Task<absl::Status> Erase(crypto::LuksSlotEditor& editor, const SecretStore& secrets,
                         KeySlotChange change) {
  CO_ASSIGN_OR_RETURN(const std::vector<uint32_t> slots,
                      co_await ChooseSlots(editor, secrets, std::move(change)));
  for (const uint32_t slot : slots) CO_RETURN_IF_ERROR(co_await editor.Erase(slot));
  co_return absl::OkStatus();
}

absl::Status Check(const KeySlotChange& change) {
  if (!change.state.has_value()) return Refuse("Parameter 'state' is missing");
  if (*change.state == "active") {
    if (!change.new_secret.has_value()) {
      return Refuse("'new-secret' is required to activate a keyslot");
    }
    if (change.old_secret.has_value()) {
      return Refuse("'old-secret' must not be given when activating keyslots");
    }
    return absl::OkStatus();
  }
  if (*change.state != "inactive") {
    return Refuse(absl::StrFormat("Parameter 'state' does not accept value '%s'", *change.state));
  }
  if (change.new_secret.has_value()) {
    return Refuse("'new-secret' must not be given when erasing keyslots");
  }
  if (change.iteration_ms.has_value()) {
    return Refuse("'iter-time' must not be given when erasing keyslots");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<KeySlotChange>> TakeKeySlotChange(
    std::map<std::string, std::string>& options) {
  KeySlotChange change;
  const size_t before = options.size();
  const auto take = [&options](const char* key) -> std::optional<std::string> {
    const auto found = options.find(key);
    if (found == options.end()) return std::nullopt;
    std::string value = std::move(found->second);
    options.erase(found);
    return value;
  };
  ASSIGN_OR_RETURN(change.slot, TakeNumber(options, "encrypt.keyslot"));
  ASSIGN_OR_RETURN(change.iteration_ms, TakeNumber(options, "encrypt.iter-time"));
  change.state = take("encrypt.state");
  change.new_secret = take("encrypt.new-secret");
  change.old_secret = take("encrypt.old-secret");
  if (options.size() == before) return std::nullopt;
  return change;
}

Task<absl::Status> ChangeKeySlots(EventLoop& loop, File& file, const SecretStore& secrets,
                                  KeySlotChange change, std::string opened_with) {
  CO_ASSIGN_OR_RETURN(const qcow2::Header header,
                      co_await qcow2::ReadHeader(file, qcow2::Access::kReadWrite));
  if (!header.encryption.has_value()) {
    co_return absl::FailedPreconditionError(
        "Can't amend encryption options - encryption not present");
  }
  CO_RETURN_IF_ERROR(Check(change));
  const crypto::LuksArea area = qcow2::LuksAreaOf(header);
  CO_ASSIGN_OR_RETURN(const crypto::LuksHeader luks, co_await crypto::ReadLuksHeader(file, area));
  crypto::LuksSlotEditor editor(loop, file, area, luks);
  if (*change.state == "inactive") {
    const absl::Status erased = co_await Erase(editor, secrets, std::move(change));
    co_return erased;
  }
  CO_ASSIGN_OR_RETURN(const SharedSecret old, secrets.Find(opened_with));
  CO_ASSIGN_OR_RETURN(const Secret master_key,
                      co_await crypto::UnlockLuks(loop, file, area, luks, *old));
  const absl::Status added = co_await Add(editor, master_key, secrets, std::move(change));
  co_return added;
}

}  // namespace vireo::img
