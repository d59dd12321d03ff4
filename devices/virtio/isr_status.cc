#include "devices/virtio/isr_status.h"

#include <utility>

namespace vireo::virtio {

IsrStatus::IsrStatus(const pci::Msix& msix, std::function<void(bool asserted)> set_pin)
    : msix_(msix), set_pin_(std::move(set_pin)) {}

void IsrStatus::Raise(uint8_t bits) {
  MutexLock lock(mutex_);
  bits_ |= bits;
  UpdatePinLocked();
}

uint8_t IsrStatus::Take() {
  MutexLock lock(mutex_);
  const uint8_t taken = std::exchange(bits_, 0);
  UpdatePinLocked();
  return taken;
}

uint8_t IsrStatus::bits() const {
  MutexLock lock(mutex_);
  return bits_;
}

void IsrStatus::Restore(uint8_t bits) {
  MutexLock lock(mutex_);
  bits_ = bits;
}

void IsrStatus::UpdatePin() {
  MutexLock lock(mutex_);
  UpdatePinLocked();
}

void IsrStatus::UpdatePinLocked() { set_pin_(bits_ != 0 && !msix_.enabled()); }

}  // namespace vireo::virtio
