// The ISR status of a virtio function and the interrupt pin that follows it (virtio 1.2 §4.1.4.5):
// for drivers that do not use MSI-X. Any thread.

#ifndef VIREO_DEVICES_VIRTIO_ISR_STATUS_H_
#define VIREO_DEVICES_VIRTIO_ISR_STATUS_H_

#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "devices/pci/msix.h"

namespace vireo::virtio {

class IsrStatus {
 public:
  // `msix` outlives this; `set_pin` takes no lock that is held when this is called.
  IsrStatus(const pci::Msix& msix, std::function<void(bool asserted)> set_pin);

  void Raise(uint8_t bits);
  // Reading clears it, and with it the pin (§4.1.4.5.1).
  uint8_t Take();
  uint8_t bits() const;
  // Leaves the pin alone until UpdatePin().
  void Restore(uint8_t bits);
  // MSI-X may have been switched: the pin is used without it only.
  void UpdatePin();

 private:
  void UpdatePinLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const pci::Msix& msix_;
  const std::function<void(bool)> set_pin_;
  mutable Mutex mutex_;
  uint8_t bits_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vireo::virtio

#endif  // VIREO_DEVICES_VIRTIO_ISR_STATUS_H_
