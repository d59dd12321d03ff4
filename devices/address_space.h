// How a device's windows get into guest-physical and port space, and move there while the guest
// runs.
//
// A window (one BAR, the ECAM area, an ACPI register block) is a unit of up to three kinds of
// parts: registers that trap, doorbells that raise an eventfd without a vCPU exit to us, and host
// memory that the guest maps. Placing the window places all of it. Devices see this interface and
// no VM.
//
// Any thread; implementations lock inside and call nothing of the device's.

#ifndef VIREO_DEVICES_ADDRESS_SPACE_H_
#define VIREO_DEVICES_ADDRESS_SPACE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/event_fd.h"
#include "devices/bus.h"

namespace vireo {

// A guest write at `offset` of the window raises `event` (an ioeventfd) and does not reach
// `trapped`. Should the host refuse the doorbell, the write does reach `trapped`, which then does
// what a kick does.
struct Doorbell {
  uint64_t offset = 0;
  uint32_t length = 0;             // 1, 2, 4 or 8: writes of that size only; 0: of any size.
  std::optional<uint64_t> match;   // Only writes of this value.
  const EventFd* event = nullptr;  // Outlives its presence in the window.
};

// Host memory that the guest reads (and writes, unless read_only) with no exit.
struct RamWindow {
  uint64_t offset = 0;      // Within the window; a multiple of the page size, as is host.size().
  std::span<uint8_t> host;  // Outlives the window.
  bool read_only = false;   // Writes trap to the window's `trapped`.
  bool log_dirty = false;
};

struct Window {
  enum class Kind { kMmio, kPio };
  Kind kind = Kind::kMmio;
  uint64_t size = 0;             // Bytes.
  BusDevice* trapped = nullptr;  // Outlives the window; null when RAM covers all of it.
  std::vector<Doorbell> doorbells;
  std::vector<RamWindow> ram;
  std::string name;  // For messages: "00:03.0 BAR 4".
};

class AddressSpace {
 public:
  virtual ~AddressSpace() = default;

  // Makes a window known; it is nowhere yet. INVALID_ARGUMENT when parts lie outside of it or
  // overlap.
  virtual absl::StatusOr<uint32_t> Add(Window window) = 0;

  // Puts the window at `base`, from wherever it was. ALREADY_EXISTS when something else is there,
  // OUT_OF_RANGE past the end of the space: the window is then placed nowhere. Accesses at the old
  // place that have begun go on, so a device may call this with its locks held.
  virtual absl::Status Place(uint32_t id, uint64_t base) = 0;

  // Takes the window out; nothing happens when it is placed nowhere. Running accesses go on, as
  // above.
  virtual void Unplace(uint32_t id) = 0;

  // Unplaces and forgets the window. On return no access to it is running, but the caller's own:
  // call it without a lock that `trapped` takes.
  virtual void Remove(uint32_t id) = 0;

  // Replaces the window's doorbells, at once if it is placed. On failure the old ones are gone and
  // what could not be made is absent (those writes trap); the status says why.
  virtual absl::Status SetDoorbells(uint32_t id, std::vector<Doorbell> doorbells) = 0;
};

}  // namespace vireo

#endif  // VIREO_DEVICES_ADDRESS_SPACE_H_
