// Key slots of a LUKS area that exists: passphrases added and taken away, without the data being
// encrypted anew. Whenever the host stops in between, a slot is as it was, as it shall be, or
// disabled; and one that opens the area stays until another does.

#ifndef VIREO_STORAGE_CRYPTO_LUKS_SLOTS_H_
#define VIREO_STORAGE_CRYPTO_LUKS_SLOTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/async/event_loop.h"
#include "base/async/task.h"
#include "storage/crypto/luks.h"
#include "storage/crypto/luks_header.h"
#include "storage/crypto/secret.h"
#include "storage/file.h"

namespace vireo::crypto {

class LuksSlotEditor {
 public:
  // `header` is what `file` has at `area`; `loop` and `file` outlive the editor.
  LuksSlotEditor(EventLoop& loop, File& file, LuksArea area, LuksHeader header)
      : loop_(loop), file_(file), area_(area), header_(std::move(header)) {}

  const LuksHeader& header() const { return header_; }
  int active_slots() const;
  // Whether the slot is active and `passphrase`, which outlives the task, opens it.
  Task<absl::StatusOr<bool>> Opens(size_t index, const Secret& passphrase);

  // From then on `passphrase` opens the slot too, whatever it was before. Both secrets outlive the
  // task.
  Task<absl::Status> Store(size_t index, const Secret& master_key, const Secret& passphrase,
                           uint32_t iteration_ms);
  // Disables the slot and overwrites its key material, so that nobody finds it later. The last
  // active slot, too: whether that may be is the caller's to know.
  Task<absl::Status> Erase(size_t index);

 private:
  enum class Activity { kActive, kDisabled };
  Task<absl::Status> StoreDisabled(size_t index, const Secret& master_key, const Secret& passphrase,
                                   uint32_t iteration_ms);
  Task<absl::Status> SetActive(size_t index, Activity activity);
  Task<absl::Status> Write(uint64_t offset, std::span<const uint8_t> bytes);

  EventLoop& loop_;
  File& file_;
  const LuksArea area_;
  LuksHeader header_;
};

}  // namespace vireo::crypto

#endif  // VIREO_STORAGE_CRYPTO_LUKS_SLOTS_H_
