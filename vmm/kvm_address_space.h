// The AddressSpace that devices are given, made of a port bus, an MMIO bus and one KVM VM: trapped
// ranges go to a bus, doorbells become ioeventfds, memory windows become memslots. A window's parts
// move together.
#ifndef VIREO_VMM_KVM_ADDRESS_SPACE_H_
#define VIREO_VMM_KVM_ADDRESS_SPACE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "devices/address_space.h"
#include "devices/bus.h"
#include "vmm/kvm/vm.h"
#include "vmm/range_allocator.h"

namespace vireo {

class KvmAddressSpace final : public AddressSpace {
 public:
  struct Parts {
    kvm::Vm& vm;
    Bus& ports;
    Bus& mmio;
    uint32_t first_memslot;  // Ids from here on are this object's.
    uint32_t memslots;
  };

  // The parts outlive this object.
  explicit KvmAddressSpace(const Parts& parts);
  ~KvmAddressSpace() override;

  absl::StatusOr<uint32_t> Add(Window window) override;
  absl::Status Place(uint32_t id, uint64_t base) override;
  void Unplace(uint32_t id) override;
  void Remove(uint32_t id) override;
  absl::Status SetDoorbells(uint32_t id, std::vector<Doorbell> doorbells) override;

  // The memslots of placed memory windows that log guest writes now; for the dirty log of the
  // machine.
  struct Logged {
    uint32_t slot;
    uint64_t guest_base;
    std::span<uint8_t> host;
  };
  std::vector<Logged> LoggedWindows() const;

 private:
  struct Placed {
    Window window;
    std::optional<uint64_t> base;
    std::vector<kvm::IoEventFd> doorbells;  // As assigned.
    std::vector<uint32_t> memslots;         // One for each of window.ram, as long as it is placed.
  };

  absl::Status AssignDoorbells(Placed& placed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DeassignDoorbells(Placed& placed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MapRam(Placed& placed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UnmapRam(Placed& placed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UnplaceLocked(Placed& placed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Bus& BusOf(const Window& window) { return window.kind == Window::Kind::kPio ? ports_ : mmio_; }

  kvm::Vm& vm_;
  Bus& ports_;
  Bus& mmio_;
  mutable Mutex mutex_;
  RangeAllocator memslots_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, Placed> windows_ ABSL_GUARDED_BY(mutex_);
  uint32_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace vireo

#endif  // VIREO_VMM_KVM_ADDRESS_SPACE_H_
