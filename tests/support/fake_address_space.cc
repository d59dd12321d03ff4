#include "tests/support/fake_address_space.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"

namespace vireo {

class FakeAddressSpace::Placeable final : public BusDevice {
 public:
  explicit Placeable(Window window) : window_(std::move(window)) {}

  void Read(uint64_t offset, std::span<uint8_t> data) override {
    for (const RamWindow& ram : window_.ram) {
      if (offset >= ram.offset && offset + data.size() <= ram.offset + ram.host.size()) {
        std::memcpy(data.data(), ram.host.data() + (offset - ram.offset), data.size());
        return;
      }
    }
    if (window_.trapped == nullptr) {
      std::ranges::fill(data, uint8_t{0xff});
    } else {
      window_.trapped->Read(offset, data);
    }
  }

  std::shared_ptr<Parking> Write(uint64_t offset, std::span<const uint8_t> data) override {
    for (const RamWindow& ram : window_.ram) {
      if (!ram.read_only && offset >= ram.offset &&
          offset + data.size() <= ram.offset + ram.host.size()) {
        std::memcpy(ram.host.data() + (offset - ram.offset), data.data(), data.size());
        return nullptr;
      }
    }
    uint64_t value = 0;
    std::memcpy(&value, data.data(), std::min<size_t>(data.size(), sizeof(value)));
    {
      const MutexLock lock(mutex_);
      for (const Doorbell& doorbell : doorbells_) {
        if (offset == doorbell.offset && (doorbell.length == 0 || doorbell.length == data.size()) &&
            (!doorbell.match.has_value() || *doorbell.match == value)) {
          doorbell.event->Signal();
          return nullptr;
        }
      }
    }
    return window_.trapped == nullptr ? nullptr : window_.trapped->Write(offset, data);
  }

  void SetDoorbells(std::vector<Doorbell> doorbells) {
    const MutexLock lock(mutex_);
    doorbells_ = std::move(doorbells);
  }
  size_t doorbell_count() const {
    const MutexLock lock(mutex_);
    return doorbells_.size();
  }

  const Window& window() const { return window_; }

  std::optional<uint64_t> base;  // Guarded by the address space's mutex.

 private:
  const Window window_;
  mutable Mutex mutex_;
  std::vector<Doorbell> doorbells_ ABSL_GUARDED_BY(mutex_);
};

FakeAddressSpace::FakeAddressSpace() = default;
FakeAddressSpace::~FakeAddressSpace() = default;

absl::StatusOr<uint32_t> FakeAddressSpace::Add(Window window) {
  for (const Doorbell& doorbell : window.doorbells) {
    if (doorbell.offset >= window.size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: doorbell at %#x", window.name, doorbell.offset));
    }
  }
  for (const RamWindow& ram : window.ram) {
    if (ram.offset > window.size || ram.host.size() > window.size - ram.offset) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: RAM at %#x", window.name, ram.offset));
    }
  }
  std::vector<Doorbell> doorbells = std::exchange(window.doorbells, {});
  auto placeable = std::make_unique<Placeable>(std::move(window));
  placeable->SetDoorbells(std::move(doorbells));
  const MutexLock lock(mutex_);
  const uint32_t id = next_id_++;
  windows_.emplace(id, std::move(placeable));
  return id;
}

absl::Status FakeAddressSpace::Place(uint32_t id, uint64_t base) {
  const MutexLock lock(mutex_);
  Placeable& placeable = *windows_.at(id);
  Bus& bus = BusOf(placeable.window());
  if (placeable.base.has_value()) (void)bus.Withdraw(*std::exchange(placeable.base, {}));
  const uint64_t limit = placeable.window().kind == Window::Kind::kPio ? 0x10000 : UINT64_MAX;
  if (base > limit || placeable.window().size > limit - base) {
    return absl::OutOfRangeError(absl::StrFormat("%s at %#x", placeable.window().name, base));
  }
  absl::Status status = bus.Insert(base, placeable.window().size, placeable);
  if (status.ok()) placeable.base = base;
  return status;
}

void FakeAddressSpace::Unplace(uint32_t id) {
  const MutexLock lock(mutex_);
  Placeable& placeable = *windows_.at(id);
  if (placeable.base.has_value()) {
    (void)BusOf(placeable.window()).Withdraw(*std::exchange(placeable.base, {}));
  }
}

void FakeAddressSpace::Remove(uint32_t id) {
  Unplace(id);
  std::unique_ptr<Placeable> placeable;
  {
    const MutexLock lock(mutex_);
    const auto found = windows_.find(id);
    placeable = std::move(found->second);
    windows_.erase(found);
  }
  BusOf(placeable->window()).Drain(*placeable);
}

absl::Status FakeAddressSpace::SetDoorbells(uint32_t id, std::vector<Doorbell> doorbells) {
  const MutexLock lock(mutex_);
  windows_.at(id)->SetDoorbells(std::move(doorbells));
  return absl::OkStatus();
}

std::optional<uint64_t> FakeAddressSpace::base(uint32_t id) const {
  const MutexLock lock(mutex_);
  const auto found = windows_.find(id);
  if (found == windows_.end()) return std::nullopt;
  return found->second->base;
}

size_t FakeAddressSpace::window_count() const {
  const MutexLock lock(mutex_);
  return windows_.size();
}

size_t FakeAddressSpace::doorbell_count(uint32_t id) const {
  const MutexLock lock(mutex_);
  return windows_.at(id)->doorbell_count();
}

}  // namespace vireo
