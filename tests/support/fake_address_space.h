// An AddressSpace over two plain buses, with doorbells looked up by hand: a write that matches one
// signals its event and does not trap, as an ioeventfd does. RAM-backed parts answer reads and
// writes.

#ifndef VIREO_TESTS_SUPPORT_FAKE_ADDRESS_SPACE_H_
#define VIREO_TESTS_SUPPORT_FAKE_ADDRESS_SPACE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "devices/address_space.h"
#include "devices/bus.h"

namespace vireo {

class FakeAddressSpace final : public AddressSpace {
 public:
  FakeAddressSpace();
  ~FakeAddressSpace() override;

  absl::StatusOr<uint32_t> Add(Window window) override;
  absl::Status Place(uint32_t id, uint64_t base) override;
  void Unplace(uint32_t id) override;
  void Remove(uint32_t id) override;
  absl::Status SetDoorbells(uint32_t id, std::vector<Doorbell> doorbells) override;

  // What a vCPU's access would reach. Insert other devices here as well.
  Bus& mmio() { return mmio_; }
  Bus& pio() { return pio_; }

  // Where a window is; nothing when it is nowhere or unknown.
  std::optional<uint64_t> base(uint32_t id) const;
  size_t window_count() const;
  size_t doorbell_count(uint32_t id) const;

 private:
  class Placeable;

  Bus& BusOf(const Window& window) { return window.kind == Window::Kind::kMmio ? mmio_ : pio_; }

  Bus mmio_;
  Bus pio_;
  mutable Mutex mutex_;
  std::map<uint32_t, std::unique_ptr<Placeable>> windows_ ABSL_GUARDED_BY(mutex_);
  uint32_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace vireo

#endif  // VIREO_TESTS_SUPPORT_FAKE_ADDRESS_SPACE_H_
