// The options "encrypt.*" of amend: key slots of an encrypted image added and erased, by qemu-img's
// rules and in its words.

#ifndef VIREO_STORAGE_IMG_KEY_SLOTS_H_
#define VIREO_STORAGE_IMG_KEY_SLOTS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/crypto/secret_store.h"
#include "storage/file.h"

namespace vireo::img {

struct KeySlotChange {
  std::optional<std::string> state;  // "active" or "inactive".
  std::optional<std::string> new_secret;
  std::optional<std::string> old_secret;
  std::optional<uint32_t> slot;
  std::optional<uint32_t> iteration_ms;
  bool force = false;  // Slots in use may be overwritten, and the last one erased.
};

// Takes them out of `options`; nothing if there are none. INVALID_ARGUMENT.
absl::StatusOr<std::optional<KeySlotChange>> TakeKeySlotChange(
    std::map<std::string, std::string>& options);

// `file` holds a QCOW2 image that `opened_with`, a secret's name, has opened. FAILED_PRECONDITION
// and INVALID_ARGUMENT for what must not or cannot be done: nothing has changed then. `loop`,
// `file` and `secrets` outlive the task.
Task<absl::Status> ChangeKeySlots(EventLoop& loop, File& file, const SecretStore& secrets,
                                  KeySlotChange change, std::string opened_with);

}  // namespace vireo::img

#endif  // VIREO_STORAGE_IMG_KEY_SLOTS_H_
