#include "vmm/kvm_address_space.h"

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPortSpaceBytes = 0x10000;

bool Within(uint64_t offset, uint64_t length, uint64_t size) {
  return offset <= size && length <= size - offset;
}

absl::Status CheckDoorbells(const std::string& name, uint64_t size,
                            const std::vector<Doorbell>& doorbells) {
  for (const Doorbell& doorbell : doorbells) {
    if (doorbell.event == nullptr ||
        !Within(doorbell.offset, std::max(doorbell.length, 1u), size)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: doorbell at %#x lies outside of %#x bytes", name, doorbell.offset, size));
    }
  }
  return absl::OkStatus();
}

}  // namespace

KvmAddressSpace::KvmAddressSpace(const Parts& parts)
    : vm_(parts.vm),
      ports_(parts.ports),
      mmio_(parts.mmio),
      memslots_("memslots of device memory", parts.first_memslot, parts.memslots) {}

KvmAddressSpace::~KvmAddressSpace() {
  MutexLock lock(mutex_);
  for (auto& [id, placed] : windows_) UnplaceLocked(placed);
}

absl::StatusOr<uint32_t> KvmAddressSpace::Add(Window window) {
  RETURN_IF_ERROR(CheckDoorbells(window.name, window.size, window.doorbells));
  for (const RamWindow& ram : window.ram) {
    if (ram.offset % kPageBytes != 0 || ram.host.size() % kPageBytes != 0 || ram.host.empty() ||
        !Within(ram.offset, ram.host.size(), window.size)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: memory at %#x, %#x bytes, does not fit its window", window.name,
                          ram.offset, ram.host.size()));
    }
  }
  if (window.size == 0)
    return absl::InvalidArgumentError(absl::StrFormat("%s: empty window", window.name));
  MutexLock lock(mutex_);
  const uint32_t id = next_id_++;
  windows_[id].window = std::move(window);
  return id;
}

absl::Status KvmAddressSpace::Place(uint32_t id, uint64_t base) {
  MutexLock lock(mutex_);
  Placed& placed = windows_.at(id);
  if (placed.base == base) return absl::OkStatus();
  UnplaceLocked(placed);
  const Window& window = placed.window;
  const uint64_t limit = window.kind == Window::Kind::kPio ? kPortSpaceBytes : ~uint64_t{0};
  if (!Within(base, window.size, limit)) {
    return absl::OutOfRangeError(absl::StrFormat(
        "%s: %#x bytes at %#x lie past the end of the space", window.name, window.size, base));
  }
  if (window.trapped != nullptr) {
    RETURN_IF_ERROR(BusOf(window).Insert(base, window.size, *window.trapped));
  }
  placed.base = base;
  absl::Status status = MapRam(placed);
  if (!status.ok()) {
    UnplaceLocked(placed);
    return status;
  }
  // A doorbell that the host refuses traps instead, which is slower and as right.
  if (absl::Status doorbells = AssignDoorbells(placed); !doorbells.ok()) {
    LogWarning("%s: %s", window.name, doorbells.message());
  }
  return absl::OkStatus();
}

void KvmAddressSpace::Unplace(uint32_t id) {
  MutexLock lock(mutex_);
  UnplaceLocked(windows_.at(id));
}

void KvmAddressSpace::Remove(uint32_t id) {
  BusDevice* trapped = nullptr;
  Bus* bus = nullptr;
  {
    MutexLock lock(mutex_);
    const auto found = windows_.find(id);
    if (found == windows_.end()) return;
    UnplaceLocked(found->second);
    trapped = found->second.window.trapped;
    bus = &BusOf(found->second.window);
    windows_.erase(found);
  }
  if (trapped != nullptr) bus->Drain(*trapped);
}

absl::Status KvmAddressSpace::SetDoorbells(uint32_t id, std::vector<Doorbell> doorbells) {
  MutexLock lock(mutex_);
  Placed& placed = windows_.at(id);
  RETURN_IF_ERROR(CheckDoorbells(placed.window.name, placed.window.size, doorbells));
  DeassignDoorbells(placed);
  placed.window.doorbells = std::move(doorbells);
  return placed.base.has_value() ? AssignDoorbells(placed) : absl::OkStatus();
}

std::vector<KvmAddressSpace::Logged> KvmAddressSpace::LoggedWindows() const {
  std::vector<Logged> logged;
  MutexLock lock(mutex_);
  for (const auto& [id, placed] : windows_) {
    for (size_t i = 0; i < placed.memslots.size(); ++i) {
      const RamWindow& ram = placed.window.ram[i];
      if (ram.log_dirty)
        logged.push_back({placed.memslots[i], *placed.base + ram.offset, ram.host});
    }
  }
  return logged;
}

absl::Status KvmAddressSpace::AssignDoorbells(Placed& placed) {
  absl::Status first_failure;
  for (const Doorbell& doorbell : placed.window.doorbells) {
    const kvm::IoEventFd io = {.address = *placed.base + doorbell.offset,
                               .length = doorbell.length,
                               .pio = placed.window.kind == Window::Kind::kPio,
                               .match = doorbell.match,
                               .fd = doorbell.event->fd()};
    absl::Status status = vm_.AssignIoEventFd(io);
    if (status.ok()) {
      placed.doorbells.push_back(io);
    } else {
      first_failure.Update(status);
    }
  }
  return first_failure;
}

void KvmAddressSpace::DeassignDoorbells(Placed& placed) {
  for (const kvm::IoEventFd& io : placed.doorbells) {
    if (absl::Status status = vm_.DeassignIoEventFd(io); !status.ok()) {
      LogError("%s: %s", placed.window.name, status.message());
    }
  }
  placed.doorbells.clear();
}

absl::Status KvmAddressSpace::MapRam(Placed& placed) {
  for (const RamWindow& ram : placed.window.ram) {
    ASSIGN_OR_RETURN(const uint64_t slot, memslots_.Allocate(1, 1));
    const absl::Status status =
        vm_.SetMemslot({.id = static_cast<uint32_t>(slot),
                        .guest_base = GuestAddress(*placed.base + ram.offset),
                        .host = ram.host,
                        .read_only = ram.read_only,
                        .log_dirty = ram.log_dirty});
    if (!status.ok()) {
      memslots_.Free(slot);
      return status;
    }
    placed.memslots.push_back(static_cast<uint32_t>(slot));
  }
  return absl::OkStatus();
}

void KvmAddressSpace::UnmapRam(Placed& placed) {
  for (const uint32_t slot : placed.memslots) {
    if (absl::Status status = vm_.RemoveMemslot(slot); !status.ok()) {
      LogError("%s: %s", placed.window.name, status.message());
    }
    memslots_.Free(slot);
  }
  placed.memslots.clear();
}

void KvmAddressSpace::UnplaceLocked(Placed& placed) {
  if (!placed.base.has_value()) return;
  DeassignDoorbells(placed);
  UnmapRam(placed);
  if (placed.window.trapped != nullptr) {
    if (absl::Status status = BusOf(placed.window).Withdraw(*placed.base); !status.ok()) {
      LogError("%s: %s", placed.window.name, status.message());
    }
  }
  placed.base.reset();
}

}  // namespace vireo
